"""Every tiny space is searched from end to end, by a recipe of seconds."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny import write_images

import nas
from nas import catalog
from nas.space import encode, library

TINY = [name for name in library.names() if name.endswith("_tiny")]


@pytest.mark.slow
@pytest.mark.parametrize("name", TINY)
def test_a_tiny_space_is_searched(name: str, tmp_path: Path, tiny_recipe_file: Path) -> None:
    result = nas.search(
        space=name,
        data=str(write_images(tmp_path / "images")),
        recipe=str(tiny_recipe_file),
        out=tmp_path / "run",
        devices="cpu",
        budget=2,
        top_k=1,
        top_k_seeds=1,
        seed=1,
        sampler="random",
    )
    space = catalog.load_space(name)
    assert [record.kind for record in result.records if record.kind != "infeasible"] == ["trained", "trained"]
    assert len({record.arch_hash for record in result.records}) == len(result.records)
    assert result.run.manifest["baseline"]["name"] == (space.baseline.name if space.baseline else "")
    winner = catalog.load_arch(result.run.path("winner.yaml"))
    assert encode(space, winner) and winner.resolved().resolution == 32
