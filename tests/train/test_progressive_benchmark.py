from __future__ import annotations

import base64
from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks.progressive import T_QUANTILES, Trained, compared, fewer, network, planned, run, sides
from nas.data import Dataset
from nas.errors import UsageError
from nas.spec import ArchSpec
from nas.train.full_recipes import FULL_RECIPES, full_phases

RECIPE = replace(FULL_RECIPES["short"], epochs=3, batch_size=16, warmup_epochs=0.0, cutmix=(0.0, 0.5))


def trained(side: str, seed: int, right: list[int], seconds: float) -> Trained:
    bits = base64.b64encode(np.packbits(np.array(right, dtype=bool)).tobytes()).decode()
    return Trained(side, seed, sum(right) / len(right), len(right), seconds, [seconds], 2 * seconds, 1.0, 0.5, bits)


def test_the_constant_side_has_the_last_phase_throughout() -> None:
    pair = sides(replace(RECIPE, progressive=replace(RECIPE.progressive, mixup=(0, 0.2), dropout=(0.1, 0.3))))
    assert list(pair) == ["progressive", "constant"]
    (only,) = full_phases(pair["constant"], 32)
    *_, last = full_phases(pair["progressive"], 32)
    assert replace(only, number=last.number, epochs=last.epochs) == last
    assert only.epochs == 3
    same = [
        name for name, value in pair["constant"].document().items() if value == pair["progressive"].document()[name]
    ]
    assert set(pair["constant"].document()) - set(same) == {"progressive"}


def test_the_warm_up_shrinks_with_the_epochs() -> None:
    recipe = planned("standard", 20, 32)
    assert (recipe.epochs, recipe.batch_size, recipe.warmup_epochs) == (20, 32, pytest.approx(1.0))
    assert planned("short", 6, None) == FULL_RECIPES["short"]
    with pytest.raises(UsageError, match="recipe transfer: found one phase, or weights"):
        planned("transfer", 20, None)


def test_the_comparison_is_by_pairs() -> None:
    rows = [
        trained("progressive", 0, [1, 1, 1, 0], 3.0),
        trained("constant", 0, [1, 1, 0, 0], 4.0),
        trained("progressive", 1, [1, 1, 1, 1], 3.0),
        trained("constant", 1, [1, 1, 1, 1], 6.0),
        trained("progressive", 2, [1, 0, 1, 0], 4.0),
        trained("constant", 2, [1, 1, 0, 0], 4.0),
    ]
    found = compared(rows)
    assert found["progressive"] == [0.75, 1.0, 0.5]
    assert found["difference"] == pytest.approx(0.25 / 3)
    assert found["training_error"] == pytest.approx(np.std([0.25, 0, 0], ddof=1) / 3**0.5)
    # by image: 0, -1/3, 2/3, 0
    assert found["images_error"] == pytest.approx(np.std([0, -1 / 3, 2 / 3, 0], ddof=1) / 2)
    assert found["half_interval"] == pytest.approx(4.303 * np.hypot(found["training_error"], found["images_error"]))
    assert found["answer"] == "cannot be told apart"
    assert found["time_ratios"] == [0.75, 0.5, 1.0]
    assert (found["time_ratio"], found["time_ratio_range"]) == (0.75, [0.5, 1.0])
    assert (found["cpu_time_ratio"], found["cpu_time_ratio_range"]) == (0.75, [0.5, 1.0])


def test_the_quantiles_are_those_of_the_t_distribution() -> None:
    # By the density, (1 + t^2 / n)^(-(n + 1) / 2) up to a factor, summed to a far end.
    for freedom in (2, 5, 19):
        t = torch.linspace(0, 2000, 1_000_001, dtype=torch.float64)
        density = (1 + t**2 / freedom) ** (-(freedom + 1) / 2)
        inside = density[t <= T_QUANTILES[freedom - 1]].sum() - density[0] / 2
        assert float(inside / (density.sum() - density[0] / 2)) == pytest.approx(0.95, abs=2e-4)


def test_both_sides_take_turns_and_every_training_is_seen(tiny_spec: ArchSpec, tiny_data: Dataset) -> None:
    seen: list[int] = []
    rows = run(tiny_spec, RECIPE, tiny_data, torch.device("cpu"), 2, lambda rows: seen.append(len(rows)))
    assert seen == [1, 2, 3, 4]
    assert [(row.side, row.seed) for row in rows] == [
        ("progressive", 0), ("constant", 0), ("progressive", 1), ("constant", 1),
    ]  # fmt: skip
    assert all(len(row.epoch_seconds) == 3 and row.images == 32 for row in rows)
    assert compared(rows)["time_ratio"] > 0


def test_a_space_stands_for_its_baseline_and_images_are_the_same_ones_each_time(tiny_data: Dataset) -> None:
    assert network("v2_tiny", None).name == "efficientnetv2_b0"
    assert network("efficientnet_b0", 40).resolved().resolution == 40
    assert len(fewer(tiny_data, 20).train) == 20
    assert np.array_equal(fewer(tiny_data, 20).train.labels, fewer(tiny_data, 20).train.labels)
    assert fewer(tiny_data, 0) is tiny_data
