"""The checks for a GPU: what is compared, what is left to do, and how a section that is stopped goes on."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from benchmarks.gpu_check import __main__ as check
from benchmarks.gpu_check import scaling, training
from benchmarks.gpu_check.setting import Setting
from nas.catalog import load_arch
from nas.cost.step_time import Protocol
from nas.scale import Coefficients
from nas.spec import ArchSpec, scaled
from nas.train.full_recipes import FULL_RECIPES

QUICK = Protocol(warmup_steps=1, settle=0.0, min_blocks=2, max_blocks=2, at_cap=2, block_s=0.0, target=1.0, cap_s=0.1)


@pytest.fixture
def setting(tmp_path: Path, tiny_spec: ArchSpec) -> Setting:
    return Setting(torch.device("cpu"), small=True, folder=tmp_path, network=tiny_spec, seeds=2, limit_s=0.0)


def test_the_rival_sees_the_same_pixels_and_a_second_one_is_as_small() -> None:
    winner = load_arch(check.NETWORK)
    whole, same = training.rivals(winner).values()
    own = load_arch("efficientnetv2_b0")
    assert (whole.resolved().resolution, whole.stem.stride, whole.drop_path) == (32, 1, 0)
    assert whole.stages == own.stages and whole.width_mult == whole.depth_mult == 1
    assert replace(same, width_mult=1.0, depth_mult=1.0, channel_divisor=whole.channel_divisor) == whole
    assert (same.width_mult, same.depth_mult, same.channel_divisor) == (0.25, 0.5, 4)
    large = replace(winner, width_mult=1.0, depth_mult=1.0, stem=replace(winner.stem, stride=2), resolution=128)
    (only,) = training.rivals(large).values()
    assert (only.resolution, only.stem.stride) == (128, 2)


def test_epochs_fit_into_the_time_between_the_phases_and_the_recipe(setting: Setting) -> None:
    recipe, large = FULL_RECIPES["standard"], replace(setting, small=False)
    assert training.epochs_in(400.0, 34.0, recipe, large) == 10
    assert training.epochs_in(1.0, 34.0, recipe, large) == recipe.progressive.phases == 4
    assert training.epochs_in(1e6, 34.0, recipe, large) == recipe.epochs
    assert training.epochs_in(1e6, 34.0, recipe, setting) == recipe.progressive.phases


def test_networks_are_compared_seed_by_seed() -> None:
    def row(network: str, seed: int, accuracy: float, seconds: float) -> dict[str, Any]:
        return {
            "network": network, "seed": seed, "accuracy": accuracy, "seconds": seconds, "images_error": 0.01,
            "images_per_second": 100 / seconds,
        }  # fmt: skip

    rows = [row("b", 1, 0.6, 8.0), row("a", 0, 0.7, 2.0), row("b", 0, 0.5, 6.0), row("a", 1, 0.7, 2.0)]
    found = training.compared(rows, ["a", "b"])
    assert found["accuracy"]["b"]["values"] == [0.5, 0.6] and found["seeds"] == [0, 1]
    assert found["lead"]["b"]["accuracy"]["mean"] == pytest.approx(0.15)
    assert found["lead"]["b"]["accuracy"]["error"] == pytest.approx(0.05)
    assert found["lead"]["b"]["time_ratio"]["values"] == [3.0, 4.0]
    assert training.compared(rows[1:3], ["a", "b"])["accuracy"]["a"]["error"] is None
    assert training.whole_seeds(rows[:3], {"a": 0, "b": 0}) == [0]


def test_a_training_stops_after_whole_seeds_and_goes_on(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "TURN", QUICK)
    monkeypatch.setattr(training, "rivals", lambda network: {"wide": scaled(network, width=2)})
    first = training.training(setting)
    assert first["unfinished"] and first["said"].startswith("1 of 2 seeds, 2 epochs") and "again" in first["said"]
    path = setting.folder / first["file"]
    before = json.loads(path.read_text())
    assert [(row["network"], row["seed"]) for row in before["trainings"]] == [("tiny_network", 0), ("wide", 0)]
    assert all(len(row["history"]) == 2 for row in before["trainings"])
    assert first["step_times"]["tiny_network"]["ratio"] == 1 and first["step_times"]["wide"]["ratio"] > 0
    second = training.training(setting)
    after = json.loads(path.read_text())
    assert after["trainings"][:2] == before["trainings"] and len(after["trainings"]) == 4
    assert not second["unfinished"] and second["seeds"] == [0, 1]
    assert second["accuracy"]["wide"]["values"] == [
        row["accuracy"] for row in after["trainings"] if row["network"] == "wide"
    ]


def test_a_scaling_that_is_stopped_is_unfinished(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def derive(*, watcher: scaling.Guard, **settings: Any) -> None:
        asked.update(settings)
        watcher.trained("base", 0, {"outcome": "ok"})
        raise AssertionError("went on beyond the limit")

    monkeypatch.setattr(scaling, "derive", derive)
    found = scaling.scaling(setting)
    assert found["unfinished"] and "after 1 trainings" in found["said"]
    assert (asked["budget_metric"], asked["phi"]) == ("step_time", (1, 2, 3))
    assert load_arch(asked["source"]).arch_hash == setting.network.arch_hash


def test_a_family_stands_beside_its_prediction(tiny_spec: ArchSpec) -> None:
    member = SimpleNamespace(
        phi=2, spec=tiny_spec, num_params=10, macs=20, measured={"outcome": "ok", "step_time_ms": 3.0},
        built={"step_time_ms": 3.0, "peak_memory_mib": 1.5}, predicted={"step_time_ms": 4.0, "peak_memory_mib": 3.0},
        notes=(),
    )  # fmt: skip
    result: Any = SimpleNamespace(
        coefficients=Coefficients(1.2, 1.1, 1.15), decision=None, members=[member], warnings=()
    )
    found = scaling.outcome(result)
    assert found["coefficients"] == "1.2 / 1.1 / 1.15" and found["members"][0]["step_time_ms"] == 3.0
    ratios = {key: item["ratio"] for key, item in found["members"][0]["built_over_predicted"].items()}
    assert ratios == {"step_time_ms": 0.75, "peak_memory_mib": 0.5}


def test_sections_that_are_done_are_not_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ran: list[str] = []
    results: dict[str, list[dict[str, Any]]] = {
        "good": [{"value": 1}], "stopped": [{"unfinished": True}, {"value": 2}], "bad": [{"passed": False}, {"passed": True}],
        "long": [{"value": 3}],
    }  # fmt: skip

    def section(name: str) -> Callable[[Setting], dict[str, Any]]:
        def run(setting: Setting) -> dict[str, Any]:
            """Do nothing."""
            ran.append(name)
            return results[name].pop(0)

        return run

    limits = {"good": 1.0, "stopped": 1.0, "bad": 1.0, "long": 1000.0}
    monkeypatch.setattr(check, "SECTIONS", {name: check.Section(section(name), limits[name]) for name in limits})
    given = ["gpu_check", "--device", "cpu", "--out", str(tmp_path)]

    def call(*more: str) -> int:
        ran.clear()
        monkeypatch.setattr(sys, "argv", [*given, *more])
        with pytest.raises(SystemExit) as ended:
            check.main()
        assert isinstance(ended.value.code, int)
        return ended.value.code

    assert call("--seconds", "500") == 1 and ran == ["good", "stopped", "bad"]
    assert "again: stopped, bad, long" in capsys.readouterr().out
    assert call() == 0 and ran == ["stopped", "bad", "long"]
    assert call() == 0 and ran == []
    (path,) = tmp_path.glob("*/gpu_check.json")
    stored = json.loads(path.read_text())["sections"]
    assert stored["stopped"]["result"] == {"value": 2} and set(stored) == set(limits)
