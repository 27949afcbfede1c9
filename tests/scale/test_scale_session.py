"""A scaling from a search to a family: what it measures, writes, continues and refuses."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import pytest
from tiny import TINY_NETWORK, write_images
from trained_runs import make, write_photos

from nas import catalog, runs
from nas.cost import count
from nas.cost.step_time import Protocol
from nas.errors import RunError, UnknownNameError, UsageError
from nas.evaluate import Evaluator
from nas.scale import ScaleResult, Watcher, derive, report, resume
from nas.scale.config import ScaleConfig
from nas.scale.fit import difference
from nas.search import SearchResult

FEW: dict[str, Any] = {
    "budget": 5,
    "target": 4.0,
    "within": 0.5,
    "devices": "cpu",
    "depth_rounding": "round",
    "resolution_multiple": 2,
}


@pytest.fixture(scope="module", autouse=True)
def short_timings() -> Iterator[None]:
    """Two blocks of a step: what is measured here is of no interest."""
    quick = Protocol(
        warmup_steps=1, settle=0.0, min_blocks=2, max_blocks=2, at_cap=2, block_s=0.0, target=1.0, cap_s=0.1
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nas.scale.measure.FULL", quick)
        patch.setattr("nas.evaluate.SEARCH", quick)
        yield


@pytest.fixture(scope="module")
def folder(finished: SearchResult, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of a finished search, with the images where they were."""
    return Path(shutil.copytree(finished.run.folder, tmp_path_factory.mktemp("scaled") / "run"))


@pytest.fixture(scope="module")
def result(folder: Path) -> ScaleResult:
    found = derive(source=str(folder), phi=(1, 2, 0.5), **FEW)
    report.write(found)
    return found


class Counting(Watcher):
    def __init__(self, stop_after: int | None = None) -> None:
        self.trainings: list[tuple[str, int]] = []
        self.timings: list[str] = []
        self._stop_after = stop_after

    def timing(self, what: str) -> None:
        self.timings.append(what)

    def trained(self, label: str, seed: int, values: Any) -> None:
        self.trainings.append((label, seed))
        if len(self.trainings) == self._stop_after:
            raise KeyboardInterrupt


def test_the_winner_of_a_search_is_scaled_in_its_own_folder(folder: Path, result: ScaleResult) -> None:
    assert result.run.folder == folder / "scale"
    assert result.base.arch_hash == catalog.load_arch(folder / "winner.yaml").arch_hash
    written = runs.open_run(folder / "scale").manifest
    assert written["recipe"] == runs.open_search(folder).manifest["recipe"]


def test_dimensions_alone_and_compound_were_trained_and_the_tied_twice(result: ScaleResult) -> None:
    assert result.decision is not None and result.choice is not None
    kinds = [item.kind for item in result.trained]
    assert kinds[0] == "base" and {"depth", "compound"} <= set(kinds)
    again = [item for item in result.trained if item.kind != "compound" or item.level in result.decision.tied]
    assert all(len(item.seen.accuracies) == 2 for item in again)
    assert result.coefficients in [item.coefficients for item in result.trained if item.kind != "base"]


def test_each_phi_has_a_file_that_is_its_network(result: ScaleResult) -> None:
    assert [member.phi for member in result.members] == [0.5, 1, 2]
    assert [member.file.name for member in result.members] == ["phi-0.5.yaml", "phi-1.yaml", "phi-2.yaml"]
    for member in result.members:
        read = catalog.load_arch(member.file)
        assert read.arch_hash == member.spec.arch_hash
        assert count(read).macs == member.macs
        assert member.measured["step_time_ms"] > 0 and member.built["step_time_ms"] > 0
    alpha, beta, gamma = (getattr(result.coefficients, name) for name in ("alpha", "beta", "gamma"))
    assert result.members[2].predicted["macs"] == pytest.approx((alpha * beta**2 * gamma**2) ** 2)
    assert result.members[2].predicted["num_params"] == pytest.approx((alpha * beta**2) ** 2)


def test_theory_and_built_stand_side_by_side_for_every_candidate(result: ScaleResult) -> None:
    assert result.grid is not None
    table = pd.read_csv(result.run.path("grid.csv"), keep_default_na=False)
    assert len(table) == len(result.grid.points)
    assert {"theory", "built_macs", "built_params", "step_time", "not_trained_because"} <= set(table)
    trained = table[table["seeds"].astype(int) > 0]
    assert len(trained) == len(result.trained) - 1
    assert (trained["not_trained_because"] == "").all()
    assert (table[table["seeds"].astype(int) == 0]["not_trained_because"] != "").all()


def test_the_report_says_what_was_chosen_and_how_sure_that_is(result: ScaleResult) -> None:
    text = result.run.path("report.md").read_text()
    assert str(result.coefficients) in text and "against depth alone" in text and "phi-2.yaml" in text
    assert result.run.path("scale.png").read_bytes()[:4] == b"\x89PNG"
    content = json.loads(result.run.path("scale.json").read_text())
    assert sum(item["chosen"] for item in content["trained"]) == 1
    assert content["coefficients"]["alpha"] == result.coefficients.alpha


def test_the_study_of_the_run_shows_each_training_once(folder: Path, result: ScaleResult) -> None:
    storage = f"sqlite:///{folder / 'study.db'}"
    names = optuna.get_all_study_names(storage)
    assert len(names) == 2
    study = optuna.load_study(study_name=next(name for name in names if name.startswith("scale")), storage=storage)
    assert len(study.trials) == sum(len(item.seen.accuracies) for item in result.trained)
    best = max(study.trials, key=lambda trial: trial.value or 0)
    assert set(best.params) == {"alpha", "beta", "gamma"} and best.user_attrs["macs_ratio"] >= 1
    assert best.intermediate_values


def test_the_search_is_read_as_before(folder: Path, result: ScaleResult) -> None:
    pytest.importorskip("optuna_dashboard", reason="the dashboard is an extra")
    pytest.importorskip("plotly", reason="the dashboard is an extra")
    from nas.search.dashboard import save_plot

    assert save_plot(folder).study_name.startswith("search-")


def test_the_same_call_measures_nothing_again(folder: Path, result: ScaleResult) -> None:
    watcher = Counting()
    again = derive(source=str(folder), phi=(1, 2, 0.5), **FEW, watcher=watcher)
    assert watcher.trainings == [] and watcher.timings == []
    assert again.coefficients == result.coefficients
    more = derive(source=str(folder), phi=(3,), **FEW, watcher=watcher)
    assert watcher.trainings == [] and watcher.timings == ["phi 3"]
    assert [member.phi for member in more.members] == [0.5, 1, 2, 3]  # the earlier ones stay members


def test_another_constraint_needs_another_folder(folder: Path, result: ScaleResult) -> None:
    with pytest.raises(RunError, match=r"grid\.budget_metric: the run has \"macs\", now \"params\".*--out"):
        derive(source=str(folder), budget_metric="params", **FEW)


def test_a_scaling_that_was_cut_off_goes_on(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "scale"
    first = Counting(stop_after=3)
    with pytest.raises(KeyboardInterrupt):
        derive(source=str(folder), out=out, **FEW, watcher=first)
    second = Counting()
    found = derive(source=str(folder), out=out, **FEW, watcher=second)
    assert len(first.trainings) == 3 and second.trainings
    assert not set(first.trainings) & set(second.trainings)
    # what was measured before the end and after it is one set of trainings
    assert len({*first.trainings, *second.trainings}) == sum(len(item.seen.accuracies) for item in found.trained)


def test_a_multiple_of_the_measured_step_time_can_be_the_constraint(folder: Path, tmp_path: Path) -> None:
    watcher = Counting()
    settings = {**FEW, "budget": 4, "seeds": 1, "budget_metric": "step_time"}
    found = derive(source=str(folder), out=tmp_path / "scale", **settings, watcher=watcher)
    assert len(watcher.timings) >= 3  # the base, and networks that had to be timed before they were chosen
    compound = [item for item in found.trained if item.kind == "compound"]
    assert compound and any("One seed each" in warning for warning in found.warnings)
    for item in compound:
        assert abs(found.ratios[item.level] / 4 - 1) <= 0.5
    assert found.run.manifest["grid"]["budget_metric"] == "step_time"


def test_a_scaling_goes_on_by_its_own_folder(folder: Path, result: ScaleResult) -> None:
    watcher = Counting()
    again = resume(folder / "scale", phi=(1,), watcher=watcher)
    assert watcher.trainings == [] and again.coefficients == result.coefficients
    assert again.run.folder == folder / "scale"
    with pytest.raises(UsageError, match="is a scaling already"):
        derive(source=str(folder / "scale"))
    with pytest.raises(UsageError, match="is a search run, not a scaling"):
        resume(folder)


def test_another_choice_makes_every_network_of_the_family_anew(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "scale"
    first = derive(source=str(folder), out=out, phi=(1, 2), **FEW)
    assert first.decision is not None
    measured = json.loads((out / "measured.json").read_text())
    lowered = {item.spec.arch_hash for item in first.trained if item.level == first.decision.chosen}
    for key, item in measured["trainings"].items():
        right = key.rpartition("-")[0] not in lowered
        item |= {"val_accuracy": float(right), "val_right": ("ff" if right else "00") * (len(item["val_right"]) // 2)}
    (out / "measured.json").write_text(json.dumps(measured))
    second = derive(source=str(folder), out=out, phi=(1,), **FEW)
    assert second.coefficients != first.coefficients
    assert catalog.load_arch(out / "phi-2.yaml").arch_hash == second.members[1].spec.arch_hash


def test_a_failed_training_is_listed_and_the_others_count(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = Evaluator.run_phase, []

    def fails(self: Evaluator, spec: Any, phase: int, state: Any, **options: Any) -> Any:
        found = real(self, spec, phase, state, **options)
        if phase == 1 and options["seed"] == 1 and not calls:  # the base's second seed
            calls.append(spec.arch_hash)
            return replace(found, outcome="diverged", reason="the training loss is not finite", training=None)
        return found

    monkeypatch.setattr(Evaluator, "run_phase", fails)
    found = derive(source=str(folder), out=tmp_path / "scale", **FEW)
    report.write(found)
    assert calls == [found.base.arch_hash]
    assert found.failed == (("base, seed 1", "diverged: the training loss is not finite"),)
    assert (
        len(found.trained[0].seen.accuracies) == 1
        and "base, seed 1 failed" in (tmp_path / "scale/report.md").read_text()
    )


def test_a_network_that_no_memory_holds_is_written_and_not_built(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "nas.scale.work.too_large", lambda spec, device: "it needs 9 GiB" if spec.resolution > 16 else ""
    )
    found = derive(source=str(folder), out=tmp_path / "scale", coefficients=(1, 1, 2), phi=(1,), devices="cpu")
    assert found.members[0].file.is_file() and "step_time_ms" not in found.members[0].built
    assert any("not timed: it needs 9 GiB" in warning for warning in found.warnings)


def test_a_phi_beyond_all_reason_is_refused_before_it_is_built(tmp_path: Path) -> None:
    network = tmp_path / "tiny_network.yaml"
    network.write_text(TINY_NETWORK)
    settings: dict[str, Any] = {"coefficients": (2, 1, 1), "phi": (20,), "devices": "cpu", "out": tmp_path / "scale"}
    with pytest.raises(UsageError, match="allowed: 2000 layers"):
        derive(source=str(network), recipe="quick", data=str(write_images(tmp_path / "images", 10)), **settings)


def test_a_scaling_that_helps_nothing_says_so(result: ScaleResult) -> None:
    """So few steps on so few images tell nothing apart, and the reader is to know it."""
    assert result.decision is not None
    base = result.trained[0].seen
    best = next(item.seen for item in result.trained if item.level == result.decision.best)
    gap, error = difference(best, base, result.deviation)
    said = any("is known to be more accurate than the base" in warning for warning in result.warnings)
    assert said == (gap <= 2 * error)


def test_the_network_of_a_training_is_scaled_on_its_images(tmp_path: Path) -> None:
    folder, _ = make(tmp_path / "training", write_photos(tmp_path / "photos", "train", 8, 0))
    settings: dict[str, Any] = {"coefficients": (1.2, 1.1, 1.5), "recipe": "quick", "devices": "cpu"}
    found = derive(source=str(folder), out=tmp_path / "scale", **settings)
    own = runs.open_training(folder).manifest
    assert found.base.arch_hash == own["arch"]["hash"]
    assert found.run.manifest["config"]["data"] == own["config"]["data"]


def test_given_coefficients_need_no_training(tmp_path: Path) -> None:
    network = tmp_path / "tiny_network.yaml"
    network.write_text(TINY_NETWORK)
    watcher = Counting()
    found = derive(
        source=str(network),
        data=str(write_images(tmp_path / "images", 10)),
        coefficients=(1.2, 1.1, 1.15),
        phi=(1, 2),
        recipe="quick",
        devices="cpu",
        out=tmp_path / "scale",
        watcher=watcher,
    )
    report.write(found)
    assert watcher.trainings == [] and len(found.members) == 2 and found.decision is None
    assert any("pixels are more than the images have (16, the median)" in warning for warning in found.warnings)
    assert "The choice" not in found.run.path("report.md").read_text()


def test_a_search_without_a_winner_is_refused(run_copy: Path) -> None:
    (run_copy / "winner.yaml").unlink()
    with pytest.raises(RunError, match=r"has no winner yet\. Continue the search: nas search --resume"):
        derive(source=str(run_copy), devices="cpu")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"phi": ()}, "--phi"),
        ({"phi": (0,)}, "--phi: found 0"),
        ({"budget": 3}, "--budget: found 3; allowed: a whole number from 4"),
        ({"phi": (1, "a")}, "--phi: found 1, a"),
        ({"phi": ([1],)}, "--phi: found [1]"),
        ({"keep_stem": "no"}, "--keep-stem: found no; allowed: true or false"),
        ({"budget_metric": "flops"}, "allowed: macs, step_time, params"),
        ({"within": 0.9}, "--within: found 0.9"),
        ({"coefficients": (1.2, 1.1)}, "--coefficients: found 1.2, 1.1; allowed: alpha,beta,gamma"),
        ({"coefficients": (0.5, 1.1, 1.1)}, "--coefficients: found 0.5, 1.1, 1.1"),
        ({"policy": "v3"}, "--policy: found v3; allowed: v1, v2"),
        ({"source": 3}, "--from: found 3"),
    ],
)
def test_settings_that_cannot_be_used_are_named(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError) as error:
        ScaleConfig(**settings)
    assert said in str(error.value)


def test_a_misspelt_setting_gets_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean budget"):
        derive(budgett=3)
