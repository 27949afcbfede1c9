"""Whole searches, with real trainings of very small networks."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import pytest
from PIL import Image

import nas
from nas import catalog
from nas.errors import DeviceError, RunError, SearchError, UsageError
from nas.report import load_run
from nas.search import SearchResult, resume, session
from nas.search.config import from_document
from nas.search.session import spec_of
from nas.search.study import open_study

SETTINGS: dict[str, Any] = {"devices": "cpu", "top_k": 1, "top_k_seeds": 1, "seed": 3}


def test_a_search_leaves_its_files(finished: SearchResult) -> None:
    names = {path.name for path in finished.run.folder.iterdir()}
    assert names >= {
        "manifest.json", "space.yaml", "study.db", "trials.csv", "finalists.json", "winner.yaml", "warnings.json",
        "report.md", "report.html", "pareto.png",
    }  # fmt: skip
    assert [name for name in names if name.startswith((".", "tmp"))] == [".lock"]
    assert finished.run.path("pareto.png").read_bytes().startswith(b"\x89PNG")


def test_the_manifest_says_what_was_asked_and_where(finished: SearchResult) -> None:
    manifest = json.loads(finished.run.path("manifest.json").read_text())
    assert (manifest["kind"], manifest["space"], manifest["seed"], manifest["sampler"]) == ("search", "tiny", 3, "arch")
    assert manifest["config"]["budget"] == 3
    assert manifest["recipe"]["epochs"] == 0.5 and manifest["recipe"]["batch_size"] == 16
    data = manifest["data"]
    assert (data["classes"], data["channels"], data["used_train_images"]) == (3, 3, 64)
    assert data["train_images"] + data["val_images"] == 120 and len(data["fingerprint"]) == 16
    assert manifest["device"]["type"] == "cpu" and manifest["device"]["threads"] >= 1
    assert manifest["baseline"]["name"] == "tiny-middle" and manifest["baseline"]["num_params"] > 0
    assert {"phinas", "python", "torch", "optuna"} <= set(manifest["versions"])
    assert len(manifest["space_hash"]) >= 16 and manifest["reward"] == {"w": -0.07, "v": -0.05}


def test_the_winner_reloads_to_its_own_hash(finished: SearchResult) -> None:
    winner = catalog.load_arch(finished.run.path("winner.yaml"))
    assert winner.arch_hash == finished.winner.arch_hash == finished.finalists[0].record.arch_hash
    assert (winner.num_classes, winner.in_channels) == (3, 3)
    assert winner.name.startswith("tiny-winner-")
    assert load_run(finished.run.folder).winner.arch_hash == winner.arch_hash


def test_the_trials_are_in_the_table(finished: SearchResult) -> None:
    frame = pd.read_csv(finished.run.path("trials.csv"), dtype={"arch_hash": str})
    assert list(frame["number"]) == [record.number for record in finished.records]
    trained = frame[frame["kind"].isin(["trained", "pruned"])]
    assert len(trained) == trained["arch_hash"].nunique() == 3
    for name in ("reward", "val_accuracy", "step_time_ms", "ref_step_time_ms", "num_params", "macs"):
        assert (trained[name] >= 0).all(), name
    assert (trained["step_time_n"] >= 3).all()


def test_each_record_decodes_to_its_network_again(finished: SearchResult) -> None:
    space = catalog.load_space(finished.run.path("space.yaml"))
    assert space.space_hash == finished.run.manifest["space_hash"]
    for record in finished.records:
        assert spec_of(record, space, num_classes=3, in_channels=3).arch_hash == record.arch_hash


def test_the_report_names_the_winner(finished: SearchResult) -> None:
    page = finished.run.path("report.md").read_text()
    assert finished.winner.arch_hash in page
    assert any(line.startswith("An accuracy is counted on 18 validation images") for line in finished.warnings)
    assert "- An accuracy is counted on 18 validation images" in page
    assert "optimism" in page and "## Conditions" in page


def test_the_finalists_are_stored(finished: SearchResult) -> None:
    stored = json.loads(finished.run.path("finalists.json").read_text())
    (finalist,) = stored["finalists"]
    assert finalist["record"]["arch_hash"] == finished.winner.arch_hash
    assert list(stored["trainings"]) == [f"{finished.winner.arch_hash}-4"]  # the run's seed and one
    assert finalist["optimism"] == pytest.approx(finalist["record"]["reward"] - finalist["reward"])


def test_a_finished_run_goes_on_with_a_higher_budget(run_copy: Path) -> None:
    before = load_run(run_copy).trials
    result = resume(run_copy, budget=4)
    after = load_run(run_copy).trials
    trained = after[after["kind"].isin(["trained", "pruned"])]
    assert len(trained) == trained["arch_hash"].nunique() == 4
    pd.testing.assert_frame_equal(after.iloc[: len(before)][list(before.columns)], before)
    assert load_run(run_copy).winner.arch_hash == result.winner.arch_hash


def test_a_run_on_other_data_is_not_continued(finished: SearchResult, run_copy: Path, tmp_path: Path) -> None:
    images = Path(shutil.copytree(finished.run.manifest["config"]["data"], tmp_path / "images"))
    Image.new("RGB", (16, 16), (9, 9, 9)).save(images / "red" / "more.png")
    manifest = json.loads((run_copy / "manifest.json").read_text())
    manifest["config"]["data"] = str(images)
    (run_copy / "manifest.json").write_text(json.dumps(manifest))
    before = (run_copy / "trials.csv").read_text()
    with pytest.raises(RunError, match=r"cannot be continued, .*: data\.fingerprint: the run has .*, now "):
        resume(run_copy, budget=5)
    assert (run_copy / "trials.csv").read_text() == before


def test_a_run_goes_on_from_another_folder_and_with_images_that_have_moved(
    finished: SearchResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = finished.run.manifest["config"]
    shutil.copytree(config["data"], tmp_path / "photos")
    monkeypatch.chdir(tmp_path)
    settings = {**SETTINGS, "space": config["space"], "recipe": config["recipe"]}
    run = nas.search(**settings, data="photos", budget=1, out="run").run
    assert run.manifest["config"]["data"] == str(tmp_path / "photos")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert len(resume(tmp_path / "run", budget=2).records) >= 2
    (tmp_path / "photos").rename(tmp_path / "moved")
    with pytest.raises(RunError, match=r"images are not at .*photos, where they were.*--data PATH"):
        resume(tmp_path / "run", budget=3)
    resume(tmp_path / "run", budget=3, data="../moved")
    stored = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert stored["config"]["data"] == str(tmp_path / "moved")


def test_a_run_on_another_device_is_not_continued(run_copy: Path) -> None:
    manifest = json.loads((run_copy / "manifest.json").read_text())
    manifest["device"]["name"] = "another"
    (run_copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(RunError, match=r"cannot be continued, .*: device\.name: the run has"):
        resume(run_copy)


def test_only_a_search_is_continued(run_copy: Path) -> None:
    manifest = json.loads((run_copy / "manifest.json").read_text())
    (run_copy / "manifest.json").write_text(json.dumps(manifest | {"kind": "scale"}))
    with pytest.raises(UsageError, match="is a scale run, not a search"):
        resume(run_copy)


def test_limits_that_nothing_meets_end_the_search(finished: SearchResult, tmp_path: Path) -> None:
    config = finished.run.manifest["config"]
    with pytest.raises(SearchError, match="12 suggestions in a row brought no new network"):
        nas.search(
            space=config["space"], data=config["data"], recipe=config["recipe"], budget=3, patience=12,
            max_params="100", out=tmp_path / "run", **SETTINGS,
        )  # fmt: skip
    frame = pd.read_csv(tmp_path / "run" / "trials.csv")
    assert set(frame["kind"]) <= {"infeasible", "forbidden", "duplicate"}
    page = nas.report.page(load_run(tmp_path / "run"))
    assert "there is no winner yet" in page


def test_an_exhausted_space_still_names_a_winner_and_says_so(finished: SearchResult, tmp_path: Path) -> None:
    config = finished.run.manifest["config"]
    space = tmp_path / "two.yaml"
    space.write_text(
        "name: two\nresolution: 16\nstem: {block: conv, kernel_size: 3, stride: 2, out_channels: 8}\n"
        "stages: [{block: mbconv, kernel_size: [3, 5], expand_ratio: 1, out_channels: 8, stride: 2}]\n"
        "head: {dropout: 0.1}\n"
    )
    result = nas.search(
        space=space,
        data=config["data"],
        recipe=config["recipe"],
        budget=3,
        patience=20,
        out=tmp_path / "run",
        **SETTINGS,
    )
    assert sum(record.kind == "trained" for record in result.records) == 2
    assert "20 suggestions in a row brought no new network, so the search ended after 2 of 3" in result.warnings[0]
    assert result.warnings[0] in nas.report.page(load_run(tmp_path / "run"))


def test_a_full_disk_is_named_and_the_run_goes_on_afterwards(
    finished: SearchResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = finished.run.manifest["config"]
    settings = {**SETTINGS, "space": config["space"], "data": config["data"], "recipe": config["recipe"], "budget": 2}
    real = optuna.Study.tell

    def full(*args: Any, **kwargs: Any) -> Any:
        raise optuna.exceptions.StorageInternalError("x") from OSError("database or disk is full")

    monkeypatch.setattr(optuna.Study, "tell", full)
    with pytest.raises(RunError, match=r"study.db: cannot be written \(database or disk is full\).*--resume"):
        nas.search(**settings, out=tmp_path / "run")
    monkeypatch.setattr(optuna.Study, "tell", real)
    result = resume(tmp_path / "run")
    assert sum(record.kind in ("trained", "pruned") for record in result.records) == 2


def test_the_study_says_what_it_is_about(finished: SearchResult) -> None:
    facts = open_study(finished.run.folder, "search-tiny", sampler="random", pruner="none", seed=0).user_attrs
    assert facts["space"].startswith("tiny (") and facts["baseline"] == "tiny-middle"
    assert facts["reward"] == "val_accuracy * (step_time / baseline)^-0.07 * (num_params / baseline)^-0.05"


def test_a_run_without_its_records_is_not_trained_again(run_copy: Path) -> None:
    before = (run_copy / "trials.csv").read_text()
    (run_copy / "study.db").unlink()
    with pytest.raises(
        RunError, match=r"study\.db: is not there, but trials\.csv is: .*Put it back, or start a new run"
    ):
        resume(run_copy, budget=9)
    assert (run_copy / "trials.csv").read_text() == before and not (run_copy / "study.db").exists()


def test_settings_of_the_first_runs_are_understood(finished: SearchResult) -> None:
    stored = dict(finished.run.manifest["config"])
    for name in ("devices", "skip_broken", "warm_start", "enqueue"):
        stored.pop(name)
    assert from_document({**stored, "device": "cpu"}).devices == "cpu"


def test_a_damaged_file_is_named_when_a_run_is_continued(run_copy: Path) -> None:
    (run_copy / "finalists.json").write_text("{")
    with pytest.raises(RunError, match=r"finalists\.json: cannot be read .* Delete it, and have .* --resume"):
        resume(run_copy)
    (run_copy / "finalists.json").unlink()
    for name in ("warnings.json", "trials.csv", "winner.yaml"):
        (run_copy / name).write_text("{")  # nothing is read of them: they are written again
    resume(run_copy)
    assert load_run(run_copy).winner
    manifest = json.loads((run_copy / "manifest.json").read_text())
    (run_copy / "manifest.json").write_text(json.dumps({**manifest, "config": None}))
    with pytest.raises(RunError, match=r"manifest\.json: config: found nothing"):
        resume(run_copy)


def test_workers_that_cannot_work_are_said_with_the_command_to_continue(
    finished: SearchResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, said = finished.run.manifest["config"], []

    class Listener(session.Watcher):
        def note(self, sentence: str) -> None:
            said.append(sentence)

    def fails(*_: object) -> None:
        raise DeviceError("cpu: its worker was killed.")

    monkeypatch.setattr(session, "run_loop", fails)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0})
    names = {name: config[name] for name in ("space", "data", "recipe")}
    with pytest.raises(DeviceError, match=r"was killed\. Continue with: nas search --resume .*run$"):
        nas.search(**{**SETTINGS, **names, "devices": "cpu:2"}, budget=1, out=tmp_path / "run", watcher=Listener())
    assert any("2 workers share 1 usable core, so" in sentence for sentence in said)


def test_a_script_without_the_usual_guard_is_told_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each worker imports the script, and would begin a search of its own."""
    monkeypatch.setattr(session.multiprocessing.current_process(), "name", "nas worker on cpu")
    with pytest.raises(UsageError, match='if __name__ == "__main__":'):
        nas.search(space="v2_tiny", budget=1, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
