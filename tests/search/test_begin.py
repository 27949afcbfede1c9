"""Searches that begin with results of another run, or with networks that the user names."""

from __future__ import annotations

import os
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy
import yaml
from tiny import TINY_NETWORK, TINY_SPACE

import nas
from nas import catalog
from nas.cost import count
from nas.errors import RunError, SearchError, SpaceError, UnknownNameError
from nas.objective import Reward
from nas.search import SearchResult, begin
from nas.search.record import TrialRecord
from nas.search.study import close_study, open_study, records
from nas.space import Limit, SearchSpace


@pytest.fixture
def settings(finished: SearchResult, tmp_path: Path) -> dict[str, Any]:
    config = finished.run.manifest["config"]
    known = {name: config[name] for name in ("space", "data", "recipe")}
    return known | {"out": tmp_path / "run", "devices": "cpu", "top_k": 1, "top_k_seeds": 1, "seed": 11}


def fresh(tmp_path: Path) -> optuna.Study:
    return open_study(tmp_path, "stub", sampler="random", pruner="none", seed=0)


def test_a_warm_start_knows_the_other_runs_networks_and_pays_nothing_for_them(
    finished: SearchResult, settings: dict[str, Any]
) -> None:
    result = nas.search(**settings, budget=2, warm_start=finished.run.folder, w=-0.2)
    theirs = {record.arch_hash: record for record in finished.records if record.costs_budget}
    taken = {record.arch_hash: record for record in result.records if record.origin and record.kind != "duplicate"}
    assert set(taken) == set(theirs) and len(taken) == 3
    own = [record for record in result.records if record.costs_budget]
    assert len(own) == 2 and not {record.arch_hash for record in own} & set(theirs)
    ref = result.run.manifest["baseline"]["num_params"]
    for arch, record in taken.items():
        first = theirs[arch]
        assert record.origin == f"{finished.run.folder} trial {first.number}"
        assert (record.val_accuracy, record.step_time_ms) == (first.val_accuracy, first.step_time_ms)
        assert record.val_accuracy and record.step_time_ms and record.ref_step_time_ms and record.num_params
        scored = Reward(-0.2, -0.05, ref).score(
            record.val_accuracy,
            step_time_ms=record.step_time_ms,
            ref_step_time_ms=record.ref_step_time_ms,
            num_params=record.num_params,
        )
        assert record.reward == pytest.approx(scored), "scored with this run's exponents"
    assert len(nas.load_run(result.run.folder).trained()) >= 3, "the table shows them"
    assert nas.search.resume(result.run.folder).records == result.records, "taken over once"


def test_a_warm_start_from_a_run_under_other_conditions_is_refused(
    finished: SearchResult, settings: dict[str, Any], tmp_path: Path
) -> None:
    recipe = tmp_path / "other.yaml"
    recipe.write_text(Path(settings["recipe"]).read_text() + "learning_rate: 0.001\n")
    with pytest.raises(
        RunError, match=r"cannot be used for a warm start, .*recipe\.learning_rate: the run has .*now 0\.001"
    ):
        nas.search(**settings | {"recipe": recipe}, budget=2, warm_start=finished.run.folder)


def test_a_warm_start_translates_choices_and_leaves_out_what_the_space_does_not_hold(
    finished: SearchResult, tmp_path: Path
) -> None:
    wider = tmp_path / "wider.yaml"
    wider.write_text(TINY_SPACE.replace("out_channels: [8, 16]", "out_channels: [4, 8, 12, 16]"))
    narrow = tmp_path / "narrow.yaml"
    narrow.write_text(TINY_SPACE.replace("out_channels: [16, 24]", "out_channels: 48"))
    facts, limits = finished.run.manifest, [Limit("num_params", max=1e9)]
    reward = Reward(-0.07, -0.05, facts["baseline"]["num_params"])
    source = begin.read(finished.run.folder, facts)
    for space, share in ((wider, "3 of 3"), (narrow, "0 of 3")):
        study = fresh(tmp_path / space.stem) if (tmp_path / space.stem).mkdir() is None else None
        assert study is not None
        said = begin.warm_start(study, source, catalog.load_space(space), reward, limits)
        assert said.startswith(f"{share} trained networks of {finished.run.folder} are taken over")
        assert len(records(study)) == int(share[0])
    again = optuna.load_study(study_name="stub", storage=f"sqlite:///{tmp_path / 'wider' / 'study.db'}")
    begin.warm_start(again, source, catalog.load_space(wider), reward, limits)
    assert len(records(again)) == 3, "a run that was killed here takes none over twice"


def test_networks_beyond_this_runs_limits_are_left_behind(finished: SearchResult, tmp_path: Path) -> None:
    facts, space = finished.run.manifest, catalog.load_space(finished.run.path("space.yaml"))
    sizes = sorted(record.num_params for record in finished.records if record.costs_budget and record.num_params)
    limit = Limit("num_params", max=sizes[1])
    source = begin.read(finished.run.folder, facts)
    said = begin.warm_start(fresh(tmp_path), source, space, Reward(0, 0, 1), [limit])
    assert said.startswith("2 of 3 trained networks") and "1 lie outside this space or its limits" in said


def test_networks_without_the_latency_that_is_limited_are_left_behind(finished: SearchResult, tmp_path: Path) -> None:
    facts, space = finished.run.manifest, catalog.load_space(finished.run.path("space.yaml"))
    source, limits = begin.read(finished.run.folder, facts), [Limit("latency_ms", max=1e6)]
    said = begin.warm_start(fresh(tmp_path), source, space, Reward(0, 0, 1), limits)
    assert said.startswith("0 of 3 trained networks")
    assert "; of 3 it did not measure what is limited here (latency_ms)" in said and "outside" not in said


def test_a_limit_on_the_latency_of_a_search(settings: dict[str, Any], tmp_path: Path) -> None:
    """Measured, recorded, checked, taken over, and measured again of the finalists."""
    result = nas.search(**settings, budget=2, max_latency="1s", latency_batch_size=2)
    trained = [record for record in result.records if record.kind == "trained"]
    assert len(trained) == 2
    for record in trained:
        assert record.latency_ms and record.latency_mad_ms is not None and record.latency_n and record.latency_n >= 5
    assert len(result.finalists[0].latency_ms) == len(result.finalists[0].latency_mad_ms) == 1
    assert {"cost": "latency_ms", "max": 1000.0, "min": None} in result.run.manifest["limits"]
    shown = nas.load_run(result.run.folder)
    assert list(shown.trained()["latency_ms"].sort_values()) == sorted(record.latency_ms or 0 for record in trained)
    assert "eager inference at batch 2" in result.run.path("report.md").read_text()
    known = begin.read(result.run.folder, result.run.manifest)
    assert all(record.latency_ms for record in known.records)
    other = {**result.run.manifest, "config": {**result.run.manifest["config"], "latency_batch_size": 1}}
    assert not any(record.latency_ms for record in begin.read(result.run.folder, other).records), "of another batch"
    settings |= {"out": tmp_path / "none"}
    with pytest.raises(SearchError, match="no network was trained to the end"):
        nas.search(**settings, budget=1, max_latency="1us", patience=3)
    table = (tmp_path / "none" / "trials.csv").read_text()
    assert "infeasible" in table and "the limit of 0.001 ms exceeded by" in table


def test_enqueued_networks_are_trained_first(settings: dict[str, Any], tmp_path: Path) -> None:
    network = tmp_path / "mine.yaml"
    network.write_text(TINY_NETWORK.replace("expand_ratio: 2, se_ratio: 0,", "expand_ratio: 1, se_ratio: 0,"))
    arch = catalog.load_arch(network)
    result = nas.search(**settings, budget=2, enqueue=[network])
    first = result.records[0]
    ours = replace(arch, num_classes=3, in_channels=3)
    assert (first.number, first.arch_hash, first.kind) == (0, ours.arch_hash, "trained")
    assert len([record for record in result.records if record.costs_budget]) == 2
    manifest = yaml.safe_load((result.run.folder / "manifest.json").read_text())
    assert manifest["config"]["enqueue"] == [str(network)]
    network.unlink()
    assert nas.search.resume(result.run.folder, budget=3).records[0] == first, "the file is not needed any more"


def test_a_queued_network_that_is_not_trained_is_spoken_of(settings: dict[str, Any], tmp_path: Path) -> None:
    small = TINY_NETWORK.replace("se_ratio: 0.25", "se_ratio: 0")
    for name, text in (
        ("large", TINY_NETWORK),
        ("small", small),
        ("late", small.replace("num_layers: 2", "num_layers: 1")),
    ):
        (tmp_path / f"{name}.yaml").write_text(text)
    names = [str(tmp_path / f"{name}.yaml") for name in ("large", "small", "late")]
    least = count(replace(catalog.load_arch(names[1]), num_classes=3, in_channels=3)).params
    result = nas.search(**settings, budget=1, enqueue=names, max_params=str(least))
    assert [record.kind for record in result.records] == ["infeasible", "trained"]
    large, late = (line for line in result.warnings if "--enqueue" in line)
    assert large.startswith(f"{names[0]}, given with --enqueue, was not trained to the end: infeasible (num_params ")
    assert late.startswith(f"{names[2]}, given with --enqueue, was not reached within the budget. Raise it")


def test_a_network_outside_the_space_is_refused_before_any_work(settings: dict[str, Any]) -> None:
    with pytest.raises(SpaceError, match="efficientnet_b0: is not in the space tiny: the number of stages"):
        nas.search(**settings, budget=1, enqueue=["efficientnet_b0"])
    with pytest.raises(UnknownNameError, match=r"efficientnet_b00: no space has this name"):
        nas.search(**settings, budget=1, enqueue=["efficientnet_b00"])
    assert not settings["out"].exists()


def test_enqueueing_is_done_once(tiny_space: SearchSpace, tmp_path: Path) -> None:
    network = tmp_path / "mine.yaml"
    network.write_text(TINY_NETWORK)
    study = fresh(tmp_path)
    for _ in range(2):
        begin.enqueue(study, tiny_space, [str(network)])
    assert len(study.trials) == 1


def test_a_source_that_cannot_be_read_is_refused_before_anything_is_made(
    finished: SearchResult, run_copy: Path, settings: dict[str, Any]
) -> None:
    database = run_copy / "study.db"
    for content in (b"", b"not a database" * 100):
        database.write_bytes(content)
        with pytest.raises(RunError, match=r"study\.db: cannot be read as a study .*continue it first"):
            nas.search(**settings, budget=1, warm_start=run_copy)
        assert database.read_bytes() == content, "another run is never written"
        assert not settings["out"].exists()
    database.unlink()
    with pytest.raises(RunError, match=r"study\.db: is not there, and results are taken from it"):
        nas.search(**settings, budget=1, warm_start=run_copy)


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Nobody may write in a folder while the body runs, the administrator included."""
    for path in (*folder.iterdir(), folder):
        path.chmod(0o555)
    administrator = os.geteuid() == 0
    if administrator:
        os.seteuid(65534)
    try:
        yield
    finally:
        if administrator:
            os.seteuid(0)
        folder.chmod(0o755)


@pytest.mark.parametrize("log", [None, b"", b"more" * 99], ids=["no log", "an empty log", "a log"])
def test_a_run_that_ended_while_it_was_watched_is_read_where_nobody_may_write(log: bytes | None) -> None:
    with tempfile.TemporaryDirectory() as name:  # unlike `tmp_path` it can be entered by everybody
        database = Path(name) / "study.db"
        study = fresh(Path(name))
        stored = TrialRecord(0, "trained", "0" * 16, "net", reward=0.5).attributes()
        study.add_trial(optuna.trial.create_trial(value=0.5, user_attrs=stored))
        close_study(study, Path(name), pytest.fail)
        with closing(sqlite3.connect(database)) as left:
            left.execute("PRAGMA journal_mode = WAL")
        if log is not None:
            database.with_name("study.db-wal").write_bytes(log)
        with read_only(Path(name)):
            if log != b"":
                plain = sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)
                with closing(plain), pytest.raises(sqlite3.OperationalError):
                    plain.execute("SELECT 1 FROM trials").fetchone()
            if log:  # what it holds cannot be read there, and is not passed over
                with pytest.raises(sqlalchemy.exc.OperationalError):
                    begin._records(database)
            else:
                assert [record.reward for record in begin._records(database)] == [0.5]
        assert {path.name for path in Path(name).iterdir()} <= {"study.db", "study.db-wal"}, "it is left as it is"
