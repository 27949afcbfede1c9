"""Audits of a real run of tiny networks: what is trained, kept, continued, refused and written."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from nas import catalog, runs
from nas.audit import Watcher, audit
from nas.audit.plan import FAR, OWN, Arm, Training, arms, picked, trainings
from nas.cli import main
from nas.errors import RunError, UsageError
from nas.report import load_run
from nas.runs import Run
from nas.train.recipes import from_document, load_recipe

SETTINGS: dict[str, Any] = {"networks": 4, "long": 2, "seeds": 2}
SEED = 3  # of the run


class Seen(Watcher):
    """Remembers what was planned and trained, and may stop after so many trainings, as Ctrl-C would."""

    def __init__(self, stop: int = 10_000) -> None:
        self.stop = stop
        self.plan: tuple[int, int, float] = (0, 0, 0.0)
        self.ended: list[tuple[str, str, int]] = []

    def planned(self, run: Run, arms: Sequence[Arm], wanted: Sequence[Training], left: int, minutes: float) -> None:
        self.plan = (len(wanted), left, minutes)

    def trained(self, arm: Arm, label: str, seed: int, values: Mapping[str, Any]) -> None:
        self.ended.append((arm.name, label, seed))
        if len(self.ended) >= self.stop:
            raise KeyboardInterrupt


def raw(folder: Path) -> dict[str, dict[str, Any]]:
    return dict(json.loads((folder / "audit" / "trainings.json").read_text()))


def answered(folder: Path, accuracy: Any, **settings: Any) -> None:
    """Store a training for all that an audit would train: `accuracy(arm, place of the network)`."""
    view = load_run(folder)
    data = view.run.manifest["data"]["train_images"]
    recipe = from_document(dict(view.run.manifest["recipe"]), "the run")
    every = arms(recipe, settings["long"], settings.get("tune_proxy", False), data, 16)
    networks = picked(list(view.trained()["arch_hash"]), settings["networks"])
    content: dict[str, dict[str, Any]] = {}
    for item in trainings(every, networks, settings["seeds"], SEED):
        value = accuracy(item.arm.name, networks.index(item.arch_hash))
        content.setdefault(item.arm.name, {})[f"{item.arch_hash}-{item.seed}"] = {
            "outcome": "ok", "val_accuracy": value, "val_error": 0.01, "seconds": 2 + 10 * item.arm.cost,
            "timing_seconds": 2.0, "ref_step_time_ms": 30.0,
        }  # fmt: skip
    (folder / "audit").mkdir()
    runs.write_json(folder / "audit" / "trainings.json", content)


def test_an_audit_is_cut_off_and_goes_on_and_trains_nothing_twice(run_of_seven: Path) -> None:
    before = load_run(run_of_seven)
    first = Seen(stop=3)
    with pytest.raises(KeyboardInterrupt):
        audit(run=run_of_seven, watcher=first, **SETTINGS)
    assert not (run_of_seven / "audit" / "audit.json").exists(), "what is not complete is not told"
    reused = sum(name.rpartition("-")[2] in ("4", "5") for name in before.trainings)
    wanted, left, minutes = first.plan
    assert wanted == 4 + 3 + 4 and wanted - reused <= left <= wanted and minutes > 0
    second = Seen()
    result = audit(run=run_of_seven, watcher=second, **SETTINGS)
    assert second.plan[1] == left - 3 == len(second.ended)
    assert not set(first.ended) & set(second.ended)
    stored = raw(run_of_seven)
    assert set(stored) == {OWN, "long-2"} and {key.rpartition("-")[2] for key in stored["long-2"]} == {str(SEED + FAR)}
    assert len(stored["long-2"]) == 4 and all(item["outcome"] == "ok" for item in stored["long-2"].values())
    longer = [item["seconds"] for item in stored["long-2"].values()]
    assert all(seconds > 0 for seconds in longer)
    found = result.findings
    assert found["fidelity"]["networks"] == 4 and found["fidelity"]["long"] == 2 and found["failed"] == []
    assert json.loads((run_of_seven / "audit" / "audit.json").read_text()) == json.loads(json.dumps(found))
    page = (run_of_seven / "report.md").read_text()
    assert "trainings 2 times as long" in page or "too few, or all alike" in page
    assert "The same network, trained with another seed, scatters by" in page
    assert not [path.name for path in (run_of_seven / "audit").iterdir() if path.is_dir()], "checkpoints are gone"
    third = Seen()
    audit(run=run_of_seven, watcher=third, **SETTINGS)
    assert third.plan[1] == 0 and not third.ended
    pd.testing.assert_frame_equal(load_run(run_of_seven).trials, before.trials)


def test_the_recipe_that_suffices_is_written_for_a_search(run_of_seven: Path) -> None:
    settings = {**SETTINGS, "tune_proxy": True, "networks": 7}
    # The long training's order is that of the networks; that by half the epochs is too, that by the run's own is not.
    order = {OWN: [3, 1, 0, 2, 6, 5, 4]}
    answered(run_of_seven, lambda arm, place: order.get(arm, range(7))[place] / 10, **settings)
    seen = Seen()
    result = audit(run=run_of_seven, watcher=seen, **settings)
    assert not seen.ended
    tuning = result.findings["tuning"]
    costs = [item["cost"] for item in tuning["candidates"]]
    assert costs == sorted(costs) and tuning["chosen"] in ("epochs-half", "images-half")
    recipe = load_recipe(run_of_seven / "audit" / "recipe.yaml")
    own = from_document(dict(load_run(run_of_seven).run.manifest["recipe"]), "the run")
    assert recipe != own and recipe.name == f"{own.name}-{tuning['chosen']}"
    assert (recipe.epochs, recipe.train_images) in ((own.epochs / 2, own.train_images), (own.epochs, 32))
    page = (run_of_seven / "report.md").read_text()
    assert f"is **{tuning['chosen']}**, at 0.50 times the cost of the run's own" in page
    again = audit(run=run_of_seven, **settings | {"tau": 0.9999, "tune_proxy": True})
    assert again.findings["tuning"]["chosen"] is not None, "a perfect order passes every threshold"


def test_what_another_programs_fault_may_be_is_tried_again(run_of_seven: Path) -> None:
    answered(run_of_seven, lambda arm, place: place / 10, **SETTINGS)
    stored = raw(run_of_seven)
    keys = list(stored["long-2"])
    stored["long-2"][keys[0]] = {"outcome": "out_of_memory", "reason": "full", "seconds": 1.0, "timing_seconds": 1.0}
    stored["long-2"][keys[1]] = {"outcome": "diverged", "reason": "nan", "seconds": 1.0, "timing_seconds": 1.0}
    runs.write_json(run_of_seven / "audit" / "trainings.json", stored)
    seen = Seen()
    result = audit(run=run_of_seven, watcher=seen, **SETTINGS)
    assert [arm for arm, _, _ in seen.ended] == ["long-2"]
    assert result.findings["failed"] == [f"long-2, {keys[1]}: diverged nan"]
    assert result.findings["fidelity"]["networks"] == 3
    assert "diverged nan" in (run_of_seven / "audit" / "report.md").read_text()


def test_two_searches_are_compared_and_nothing_is_trained(run_of_seven: Path, searched: Path) -> None:
    seen = Seen()
    result = audit(run=run_of_seven, against=searched, watcher=seen)
    found = result.findings["against"]
    assert not seen.ended and found["gap"] == 0 and found["budget"] == found["budget_other"] == 7
    view = load_run(searched)
    costly = view.trials[view.trials["kind"].isin(["trained", "pruned"])]["number"].tolist()
    assert found["matched_after"] == costly.index(view.trained()["number"].iloc[0]) + 1
    assert "The winner cannot be told from that of the search with `arch`" in (run_of_seven / "report.md").read_text()
    manifest = json.loads((run_of_seven / "manifest.json").read_text())
    manifest["reward"]["w"] = -0.5
    (run_of_seven / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(RunError, match=r"cannot be compared with .*reward\.w: the run has -0\.5, now -0\.07"):
        audit(run=run_of_seven, against=searched)


def test_other_conditions_are_refused(run_of_seven: Path) -> None:
    manifest = json.loads((run_of_seven / "manifest.json").read_text())
    changed = manifest | {"torch": "1.0"}
    (run_of_seven / "manifest.json").write_text(json.dumps(changed))
    with pytest.raises(RunError, match=r"cannot be audited, .*torch: the run has \"1\.0\""):
        audit(run=run_of_seven, **SETTINGS)
    gone = manifest | {"config": manifest["config"] | {"data": str(run_of_seven / "absent")}}
    (run_of_seven / "manifest.json").write_text(json.dumps(gone))
    with pytest.raises(RunError, match=r"its images are not at .*absent\. Say where they are now with --data"):
        audit(run=run_of_seven, **SETTINGS)


def test_a_table_that_makes_other_networks_is_refused(run_of_seven: Path) -> None:
    lines = pd.read_csv(run_of_seven / "trials.csv", dtype={"arch_hash": str})
    lines["param:s2.num_layers"] = 2 - lines["param:s2.num_layers"]
    lines["param:s1.out_channels"] = 1 - lines["param:s1.out_channels"]
    lines.to_csv(run_of_seven / "trials.csv", index=False)
    with pytest.raises(RunError, match=r"trials\.csv: the choices of \w+ \(trial \d+\) make another network"):
        audit(run=run_of_seven, **SETTINGS)


def test_too_few_networks_and_damaged_files_are_named(run_copy: Path, run_of_seven: Path) -> None:
    with pytest.raises(RunError, match=r"3 networks were trained to the end; an audit takes 4\. Let the search go on"):
        audit(run=run_copy)
    (run_of_seven / "audit").mkdir()
    (run_of_seven / "audit" / "trainings.json").write_text("[")
    with pytest.raises(RunError, match=r"trainings\.json: cannot be read .*Delete it, and everything is trained again"):
        audit(run=run_of_seven, **SETTINGS)
    with pytest.raises(UsageError, match="give one or the other"):
        audit(object(), run=run_of_seven)  # type: ignore[arg-type]


def test_the_command_says_the_time_first_and_what_to_do_next(
    run_of_seven: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answered(run_of_seven, lambda arm, place: place / 10, **SETTINGS)
    stored = raw(run_of_seven)
    stored["long-2"].popitem()
    runs.write_json(run_of_seven / "audit" / "trainings.json", stored)
    words = ["audit", str(run_of_seven), "--networks", "4", "--long", "2", "--seeds", "2"]
    with pytest.raises(SystemExit) as ended:
        main(words)
    out = capsys.readouterr().out
    assert ended.value.code == 0
    assert "plan     1 training, about 1 min, from what the search took; 10 are there already" in out
    assert out.index("plan ") < out.index("2 times the epochs  ") < out.index("The proxy")
    assert out.strip().splitlines()[-1] == f"next     nas audit {run_of_seven} --tune-proxy"
    assert catalog.load_arch(run_of_seven).name.startswith("tiny-winner")
    with pytest.raises(SystemExit) as ended:
        main(["audit", str(run_of_seven), "--tau", "3"])
    assert ended.value.code == 2 and "--tau: found 3.0" in capsys.readouterr().err
