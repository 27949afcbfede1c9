"""Planted effects are found, and noise is not."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from nas import catalog
from nas.report.effects import PER_PARAMETER, Span, effects, parameters, percent, write_effects
from nas.report.read import RunView
from nas.runs import Run
from nas.space import choices

PLANTED = {"param:s2.expand_ratio": 0.02, "param:s1.num_layers": -0.01}
"""Accuracy that a step of an index brings: s2.expand_ratio has three values, s1.num_layers two."""


def made(folder: Path, space: str, networks: int, planted: dict[str, float], noise: float = 0.004) -> RunView:
    """Networks drawn at random; `fused_mbconv` in the first stage makes a step a tenth slower."""
    folder.mkdir(exist_ok=True)
    (folder / "space.yaml").write_text(Path(space).read_text())
    rng = np.random.default_rng(0)
    asked = choices(catalog.load_space(folder / "space.yaml"))
    columns = {
        f"param:{name}": rng.integers(0, len(domain.values), networks)
        if domain.ordered
        else rng.choice(np.asarray(domain.values), networks)
        for name, domain in asked.items()
    }
    rows = pd.DataFrame(columns)
    rows["val_accuracy"] = 0.7 + rng.normal(0, noise, networks) + sum(rows[name] * by for name, by in planted.items())
    slow = (rows["param:s1.block"] == "fused_mbconv").astype(float)
    rows["step_time_ms"] = 10 * np.exp(math.log(1.1) * slow + rng.normal(0, 0.01, networks))
    facts = {"ref_step_time_ms": 10.0, "num_params": 1e6, "kind": "trained", "reward": rows["val_accuracy"]}
    rows = rows.assign(**facts, arch_hash=[f"{n:016x}" for n in range(networks)])
    return RunView(Run(folder, {}), rows, (), ())


def test_planted_effects_are_found_by_stage(tmp_path: Path, tiny_space_file: Path) -> None:
    found = effects(made(tmp_path / "run", str(tiny_space_file), 150, PLANTED))
    assert found is not None and not found.pooled and found.networks == 150
    by_name = {(effect.name, effect.words): effect for effect in found.effects}
    first, second = found.effects[:2]
    assert (first.name, first.words) == ("s2.expand_ratio", "4 rather than 1")
    assert (second.name, second.words) == ("s1.num_layers", "2 rather than 1")
    assert abs(first.reward.value - 0.04) < first.reward.half < 0.004 and first.reward.seen
    assert abs(second.accuracy.value + 0.01) < second.accuracy.half
    assert first.share > 0.5 > second.share > 0.02 and found.fitted > 0.9
    others = [effect for effect in found.effects[2:] if effect.reward.seen]
    assert len(others) <= 1, "one of twenty intervals leaves the truth out"
    block = by_name["s1.block", "mbconv rather than fused_mbconv"]
    slower = percent(block.log_time)
    assert abs(slower.value - 100 * (1 / 1.1 - 1)) < 1 and not block.reward.seen and block.log_time.seen


def test_with_fewer_networks_stages_are_taken_together(tmp_path: Path, tiny_space_file: Path) -> None:
    planted = {"param:s1.num_layers": 0.03, "param:s2.num_layers": 0.01}
    view = made(tmp_path / "run", str(tiny_space_file), 30, planted)
    found = effects(view)
    assert found is not None and found.pooled and found.needed > 30
    assert parameters(view) <= 30
    first = found.effects[0]
    # From one layer to two in the first stage 0.03, from one to three in the second 0.02: 0.025 on average.
    assert (first.name, first.words) == ("num_layers", "highest rather than lowest")
    assert abs(first.reward.value - 0.025) < first.reward.half + 0.003


def test_noise_alone_shows_hardly_anything(tmp_path: Path, tiny_space_file: Path) -> None:
    found = effects(made(tmp_path / "run", str(tiny_space_file), 150, {}))
    assert found is not None
    assert len(found.seen()) <= 2 and found.fitted < 0.15
    assert all(effect.share < 0.1 for effect in found.effects)


def test_too_few_networks_say_nothing(tmp_path: Path, tiny_space_file: Path) -> None:
    view = made(tmp_path / "run", str(tiny_space_file), 8, PLANTED)
    assert effects(view) is None and parameters(view) > 8 and parameters(view) % PER_PARAMETER == 0
    (tmp_path / "run" / "space.yaml").unlink()
    assert effects(view) is None and parameters(view) == 0


def test_choices_that_always_went_together_are_not_told_apart(tmp_path: Path, tiny_space_file: Path) -> None:
    view = made(tmp_path / "run", str(tiny_space_file), 60, PLANTED)
    view.trials["param:s2.kernel_size"] = view.trials["param:s1.kernel_size"]
    found = effects(view)
    assert found is not None and found.pooled


def test_the_picture(tmp_path: Path, tiny_space_file: Path) -> None:
    found = effects(made(tmp_path / "run", str(tiny_space_file), 150, PLANTED))
    assert found is not None
    write_effects(found, tmp_path / "effects.png")
    assert (tmp_path / "effects.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(("value", "half", "seen"), [(0.2, 0.1, True), (-0.2, 0.1, True), (0.1, 0.2, False)])
def test_an_effect_is_seen_where_its_interval_leaves_0_out(value: float, half: float, seen: bool) -> None:
    assert Span(value, half).seen is seen
