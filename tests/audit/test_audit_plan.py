"""What an audit trains, and what its trainings say, without a training."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest

from nas.audit.config import AuditConfig
from nas.audit.findings import fidelity, tuning
from nas.audit.plan import FAR, OWN, arms, minutes, picked, trainings
from nas.errors import UsageError
from nas.train.recipes import from_document, load_recipe

QUICK = load_recipe("quick")


@pytest.mark.parametrize(("there", "wanted"), [(104, 8), (25, 8), (9, 8), (10, 4), (11, 9)])
def test_half_of_the_networks_are_of_the_better_half(there: int, wanted: int) -> None:
    ranked = [str(rank) for rank in range(there)]
    found = [int(name) for name in picked(ranked, wanted)]
    assert len(set(found)) == wanted and found == sorted(found)
    assert found[0] == 0 and found[-1] == there - 1
    better = sum(rank < (there + 1) // 2 for rank in found)
    assert better == (wanted + 1) // 2


def test_few_networks_are_all_taken() -> None:
    assert picked(["a", "b", "c"], 8) == ["a", "b", "c"]


def test_other_recipes_change_one_thing_each_and_say_what_they_cost() -> None:
    plain = arms(QUICK, 5, False, 50_000, 32)
    assert [arm.name for arm in plain] == [OWN, "long-5"]
    assert plain[1].recipe.epochs == 7.5 and plain[1].cost == pytest.approx(5)
    found = {arm.name: arm for arm in arms(QUICK, 5, True, 50_000, 32)}
    assert set(found) == {
        OWN,
        "long-5",
        "epochs-half",
        "epochs-twice",
        "images-half",
        "images-12000",
        "batch-16",
        "full-size",
    }
    assert found["images-half"].recipe.train_images == 3000 and found["images-half"].cost == pytest.approx(0.5)
    # Half of the epochs at half the pixels on each side cost 5/8 of all at the whole size.
    assert found["full-size"].cost == pytest.approx(8 / 5) and found["full-size"].recipe.progressive.phases == 1
    for arm in found.values():
        again = from_document(arm.recipe.document(), "a file")
        assert again == arm.recipe and again.name == ("quick" if arm.name == OWN else f"quick-{arm.name}")
    small = [arm.name for arm in arms(QUICK, 5, True, 6_500, 32)]
    assert not [name for name in small if name.startswith("images-") and name != "images-half"]


def test_seeds_are_fresh_and_the_long_training_has_its_own() -> None:
    found = trainings(arms(QUICK, 5, False, 50_000, 32), list("abcd"), 3, 7)
    short = [(item.arch_hash, item.seed) for item in found if item.arm.name == OWN]
    assert short == [
        ("a", 8), ("a", 9), ("a", 10), ("b", 8), ("c", 8), ("c", 9), ("c", 10), ("d", 8), ("d", 9), ("d", 10)
    ]  # fmt: skip
    assert {(item.arch_hash, item.seed) for item in found if item.arm.name != OWN} == {
        (name, 7 + FAR) for name in "abcd"
    }


def test_the_time_is_that_of_the_same_networks_in_the_search() -> None:
    found = trainings(arms(QUICK, 5, False, 50_000, 32), list("abcd"), 2, 0)
    rows = pd.DataFrame({"arch_hash": list("abcd"), "phase_seconds": "2.0 10.0 20.0", "seconds": 32.0})
    assert len(found) == 7 + 4
    assert minutes(found, rows, 2) == pytest.approx((11 * 2 + 7 * 30 + 4 * 150) / 60 / 2)
    assert minutes(found, rows.drop(columns="phase_seconds"), 1) == pytest.approx((7 * 32 + 4 * 160) / 60)
    assert math.isnan(minutes(found, rows.assign(phase_seconds=None, seconds=math.nan), 1))


def readings(noise: float, drift: float = 0.0) -> tuple[pd.DataFrame, list[str], dict[str, Any]]:
    """Twelve networks whose long accuracy is their worth; short ones see it with noise, and prefer others by `drift`."""
    rng = np.random.default_rng(0)
    names = [f"net{n:02d}" for n in range(12)]
    worth, taste = rng.uniform(0.5, 0.8, (2, 12))
    short = (1 - drift) * worth + drift * taste
    search, again, half = (short + rng.normal(0, by, 12) for by in (noise, noise, 4 * noise))
    rows = pd.DataFrame({"arch_hash": names, "val_accuracy": search, "reward": search * 0.9})
    rows = rows.sort_values("reward", ascending=False)

    def stored(values: Any, seed: int, seconds: float, slow: float = 1.0) -> dict[str, Any]:
        return {
            f"{name}-{seed}": {
                "outcome": "ok",
                "val_accuracy": value,
                "seconds": slow * seconds + 2,
                "timing_seconds": 2.0,
                "ref_step_time_ms": 30 * slow,
            }
            for name, value in zip(names, values, strict=True)
        }

    raw = {OWN: stored(again, 1, 10.0), "long-5": stored(worth, FAR, 50.0), "epochs-half": stored(half, 1, 5.5, slow=3)}
    return rows, list(rows["arch_hash"]), raw


TERMS: dict[str, int] = {"seed": 1, "far": FAR}


def test_a_proxy_without_noise_or_taste_is_perfect_and_others_are_not() -> None:
    long = arms(QUICK, 5, False, 50_000, 32)[1]
    rows, names, raw = readings(0.0)
    found = fidelity(rows, names, raw, long, times=5.0, **TERMS)
    assert found["networks"] == 12 and found["long"] == 5.0
    for order in ("accuracy", "reward"):
        for against in ("long", "again"):
            assert found[order][against]["tau"]["value"] == pytest.approx(1)
            assert found[order][against]["tau_upper"]["networks"] == 6
    assert found["change"] == pytest.approx({"better": 0, "worse": 0})
    rows, names, raw = readings(0.0, drift=0.9)
    biased = fidelity(rows, names, raw, long, times=5.0, **TERMS)["accuracy"]
    assert biased["again"]["tau"]["value"] == pytest.approx(1) and biased["long"]["tau"]["value"] < 0.5
    rows, names, raw = readings(0.1)
    noisy = fidelity(rows, names, raw, long, times=5.0, **TERMS)["accuracy"]
    change = fidelity(rows, names, raw, long, times=5.0, **TERMS)["change"]
    assert change["better"] < change["worse"] - 0.02, "luck put some networks into each half"
    assert noisy["again"]["tau"]["value"] < 0.8 and noisy["long"]["tau"]["low"] < noisy["long"]["tau"]["value"]


def test_networks_that_failed_are_left_out() -> None:
    long = arms(QUICK, 5, False, 50_000, 32)[1]
    rows, names, raw = readings(0.01)
    raw["long-5"][f"{names[0]}-{FAR}"] = {"outcome": "diverged", "seconds": 1.0, "timing_seconds": 1.0}
    del raw[OWN][f"{names[1]}-1"]
    assert fidelity(rows, names, raw, long, times=5.0, **TERMS)["networks"] == 10
    empty = fidelity(rows, names, {}, long, times=5.0, **TERMS)
    assert empty["networks"] == 0 and empty["accuracy"]["long"] is None


def test_the_cheapest_recipe_that_suffices_is_chosen() -> None:
    every = [arm for arm in arms(QUICK, 5, True, 50_000, 32) if arm.name in (OWN, "long-5", "epochs-half")]
    _, names, raw = readings(0.01)
    found = tuning(every, names, raw, every[1], threshold=0.7, **TERMS)
    assert [item["name"] for item in found["candidates"]] == ["epochs-half", OWN]
    assert [item["cost"] for item in found["candidates"]] == pytest.approx([0.55, 1.0])
    taus = [item["tau"]["value"] for item in found["candidates"]]
    between = sum(taus) / 2
    assert taus[0] < taus[1]
    assert tuning(every, names, raw, every[1], threshold=between, **TERMS)["chosen"] == OWN
    assert tuning(every, names, raw, every[1], threshold=taus[0], **TERMS)["chosen"] == "epochs-half"
    assert tuning(every, names, raw, every[1], threshold=0.999, **TERMS)["chosen"] is None


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("networks", 3, "--networks: found 3; allowed: a whole number from 4"),
        ("networks", True, "--networks: found True"),
        ("long", 1, "--long: found 1; allowed: a number from 1.5"),
        ("seeds", 1, "--seeds: found 1"),
        ("tau", 1.0, "--tau: found 1.0; allowed: a number between 0 and 1"),
        ("tune_proxy", 1, "--tune-proxy: found 1; allowed: true or false"),
        ("run", 3, "RUN: found 3; allowed: a path"),
    ],
)
def test_settings_that_cannot_be_used_are_named(name: str, value: Any, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        AuditConfig(**{name: value})
