"""The benchmark of samplers for fronts, on a table of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import fronts


@pytest.fixture
def tables(tmp_path: Path) -> Path:
    """Two tables of made values in the files' layout."""
    rng = np.random.default_rng(0)
    x = np.array([[place // 3**digit % 3 for digit in range(4)] for place in range(81)])
    size = 1.0 + x.sum(1)
    accuracy = 90 - 40 / size
    np.savez(
        tmp_path / "nas_bench_macro.npz",
        x=x,
        test_acc=accuracy[:, None] + rng.normal(0, 0.5, (81, 3)),
        flops=size * 1e6,
    )
    ops = np.array(["none", "skip", "conv"])
    names = np.array(["cifar10-val", "cifar10-test"])
    np.savez(
        tmp_path / "nb201.npz", x=x, ops=ops, acc=np.stack([accuracy, accuracy], 1), acc_names=names,
        lat=size[:, None], lat_names=np.array(["titan_rtx_256"]),
    )  # fmt: skip
    return tmp_path


def test_a_search_ends_with_less_regret_than_it_began_with(tables: Path) -> None:
    task = fronts.task("macro", tables)
    found = fronts.searched(task, "random", 0, 81)
    assert found["networks"] <= 81 and found["trained"][-1] < found["trained"][0] <= 1
    assert found["trained"] == sorted(found["trained"], reverse=True)
    assert all(picked >= trained - 1e-6 for picked, trained in zip(found["picked"], found["trained"], strict=True))
    again = fronts.searched(task, "random", 0, 81)
    assert {**again, "seconds": 0} == {**found, "seconds": 0}


def test_the_whole_table_has_no_regret(tables: Path) -> None:
    found = fronts.searched(fronts.task("nb201", tables), "arch", 0, 81)
    assert found["networks"] == found["asks"] == 81 and found["picked"][-1] == 0


def test_networks_needed_are_those_to_equal_the_rivals_end() -> None:
    rival = np.array([[0.9, 0.5, 0.4]] * 4)
    assert fronts.needed(np.array([[0.8, 0.4, 0.1]] * 4), rival) == {"networks": 2, "low": 2, "high": 2}
    assert fronts.needed(np.array([[0.8, 0.7, 0.6]] * 4), rival) == {"networks": None, "low": None, "high": None}


def test_the_command_goes_on_and_skips_tables_that_are_not_there(
    tables: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["--samplers", "optuna", "random", "--budget", "25", "--seeds", "2", "--data-dir", str(tables)]
    arguments += ["--out", str(tables / "out")]
    (tables / "nb201.npz").unlink()
    fronts.task.cache_clear()
    fronts.main(arguments)
    said = capsys.readouterr().out
    assert "nb201: skipped, for " in said and "macro, 25 networks: regret of the picked front" in said
    (path,) = (tables / "out").glob("*/fronts.json")
    content: dict[str, Any] = json.loads(path.read_text())
    assert set(content["runs"]) == {f"macro/{arm}/25/{seed}" for arm in ("optuna", "random") for seed in (0, 1)}
    assert content["summary"]["macro"]["25"]["random"]["seeds"] == 2
    monkeypatch.setattr(fronts, "searched", lambda *_: pytest.fail("searched again"))
    fronts.main(arguments)
