"""What every engine must do. With a deterministic stub in place of the evaluator, all give the same study."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from engine_stub import BUG, DIE, MENDABLE, StartStub, Stub
from ray_nodes import engine_on, nodes

from nas import runs
from nas.engine import Engine, InlineEngine, Job, LocalEngine, PhaseBug, checkpoints
from nas.errors import DeviceError, RunError
from nas.evaluate import PhaseResult
from nas.objective import Reward
from nas.search.loop import Terms, run_loop
from nas.search.record import TrialRecord
from nas.search.study import open_study
from nas.space import SearchSpace
from nas.spec import ArchSpec

CPU = torch.device("cpu")
Make = Callable[[Path], Engine]


def inline(folder: Path) -> Engine:
    return InlineEngine(Stub(folder / "log"), folder / checkpoints.FOLDER)


def local(folder: Path, workers: int = 1, lives: bool = True) -> LocalEngine:
    start = StartStub(folder / "log", folder if lives else None)
    return LocalEngine(start, [CPU] * workers, threads=1, checkpoints=folder / checkpoints.FOLDER)


ENGINES: dict[str, Make] = {"inline": inline, "local": local}
"""A worker is a process that imports torch, seconds each: two of them only where one would not show it."""


@pytest.fixture(scope="module")
def one_node() -> Iterator[Make]:
    with nodes({"num_cpus": 1}) as cluster:
        yield lambda folder: engine_on(cluster.address, folder)


@pytest.fixture(params=[*sorted(ENGINES), pytest.param("ray", marks=pytest.mark.slow)])
def make(request: pytest.FixtureRequest) -> Make:
    return ENGINES[request.param] if request.param in ENGINES else request.getfixturevalue("one_node")


@contextmanager
def working(make: Make, folder: Path) -> Iterator[Engine]:
    engine = make(folder)
    try:
        yield engine
    finally:
        engine.close()


def run(engine: Engine, *jobs: Job) -> list[tuple[Job, PhaseResult]]:
    found = []
    for job in jobs:
        engine.submit(job)
        found.append(engine.next())
    return found


def phases(spec: ArchSpec, seed: int, *numbers: int) -> list[Job]:
    return [Job(spec, phase, seed) for phase in numbers]


def started(folder: Path, seed: int) -> list[tuple[int, int]]:
    """Phase and process of each phase of a seed that was begun."""
    lines = [line.split() for line in (folder / "log").read_text().splitlines()]
    return [
        (int(phase), int(process)) for what, _, own, phase, process in lines if what == "start" and int(own) == seed
    ]


def test_a_training_keeps_its_state_from_phase_to_phase(make: Make, tmp_path: Path, tiny_spec: ArchSpec) -> None:
    with working(make, tmp_path) as engine:
        results = run(engine, *phases(tiny_spec, 7, 0, 1, 2, 3))
    assert [job for job, _ in results] == phases(tiny_spec, 7, 0, 1, 2, 3)
    assert [result.training.steps for _, result in results if result.training] == [7, 7, 7]
    assert all(result.state is None for _, result in results)
    assert len({process for _, process in started(tmp_path, 7)}) == 1, "it stays on its worker"


def test_trainings_of_one_network_with_different_seeds_are_different(
    make: Make, tmp_path: Path, tiny_spec: ArchSpec
) -> None:
    jobs = [job for phase in (0, 1, 2) for job in (Job(tiny_spec, phase, 1), Job(tiny_spec, phase, 2))]
    with working(make, tmp_path) as engine:
        results = {(job.seed, job.phase): result for job, result in run(engine, *jobs)}
    assert results[1, 0].measurements["macs"].value == 2 and results[2, 0].measurements["macs"].value == 3
    assert results[1, 2].training and results[1, 2].training.steps == 1


def test_results_come_once_for_each_job_when_many_are_queued(make: Make, tmp_path: Path, tiny_spec: ArchSpec) -> None:
    jobs = [Job(tiny_spec, 0, seed) for seed in range(6)]
    with working(make, tmp_path) as engine:
        for job in jobs:
            engine.submit(job)
        found = [engine.next()[0] for _ in jobs]
    assert sorted(job.seed for job in found) == list(range(6))


def test_a_dropped_training_begins_anew(make: Make, tmp_path: Path, tiny_spec: ArchSpec) -> None:
    with working(make, tmp_path) as engine:
        run(engine, *phases(tiny_spec, 0, 0, 1))
        engine.drop(Job(tiny_spec, 0, 0).key)
        engine.drop("never-heard-of")
        checkpoints.keep_only(tmp_path / checkpoints.FOLDER, [], [0])
        results = run(engine, *phases(tiny_spec, 0, 0, 1))
    assert results[1][1].training is not None
    assert [phase for phase, _ in started(tmp_path, 0)] == [0, 1, 0, 1]


def test_a_phase_without_the_one_before_it_is_refused(make: Make, tmp_path: Path, tiny_spec: ArchSpec) -> None:
    with working(make, tmp_path) as engine, pytest.raises(RunError, match=r"holds phase -1 of .*phase 2 is to be run"):
        run(engine, Job(tiny_spec, 2, 0))


def test_another_engine_continues_from_the_checkpoint(make: Make, tmp_path: Path, tiny_spec: ArchSpec) -> None:
    with working(make, tmp_path) as engine:
        first = run(engine, *phases(tiny_spec, 0, 0, 1, 2))
    results, state = checkpoints.load(tmp_path / checkpoints.FOLDER, Job(tiny_spec, 0, 0).key)
    assert list(results) == [result for _, result in first] and state == {"past": [1, 2]}
    with working(make, tmp_path) as engine:
        (_, result), (_, again) = run(engine, *phases(tiny_spec, 0, 2, 3))
    assert result == first[-1][1], "the phase that the checkpoint holds is not run again"
    assert again.training is not None
    assert [phase for phase, _ in started(tmp_path, 0)] == [0, 1, 2, 3]


def test_a_bug_is_raised_with_its_job_and_its_traceback(make: Make, tmp_path: Path, tiny_spec: ArchSpec) -> None:
    with working(make, tmp_path) as engine:
        run(engine, *phases(tiny_spec, BUG, 0, 1))
        with pytest.raises(PhaseBug, match="phase 2: ZeroDivisionError") as raised:
            run(engine, Job(tiny_spec, 2, BUG))
    assert raised.value.job == Job(tiny_spec, 2, BUG)
    assert raised.value.error == "ZeroDivisionError('boom')"
    assert "Traceback" in raised.value.trace and "_misbehave" in raised.value.trace


def test_what_a_user_can_mend_is_no_bug(make: Make, tmp_path: Path, tiny_spec: ArchSpec) -> None:
    with working(make, tmp_path) as engine:
        run(engine, *phases(tiny_spec, MENDABLE, 0, 1))
        with pytest.raises(DeviceError, match="no lock"):
            run(engine, Job(tiny_spec, 2, MENDABLE))


@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_worker_loses_its_phase_and_no_more(tmp_path: Path, tiny_spec: ArchSpec, workers: int) -> None:
    said: list[str] = []
    folder = tmp_path / checkpoints.FOLDER
    engine = LocalEngine(
        StartStub(tmp_path / "log", tmp_path), [CPU] * workers, threads=1, checkpoints=folder, say=said.append
    )
    try:
        results = run(engine, *(replace(job, name="trial 7") for job in phases(tiny_spec, DIE, 0, 1, 2, 3)))
    finally:
        engine.close()
    assert [result.outcome for _, result in results] == ["ok"] * 4
    begun = started(tmp_path, DIE)
    assert [phase for phase, _ in begun] == [0, 1, 2, 2, 3]
    assert begun[1][1] != begun[3][1], "another process"
    (sentence,) = said
    assert "SIGKILL" in sentence and "phase 2 of trial 7;" in sentence


def test_a_phase_that_kills_every_worker_is_given_up(tmp_path: Path, tiny_spec: ArchSpec) -> None:
    engine = local(tmp_path, lives=False)
    try:
        *_, (job, result) = run(engine, *phases(tiny_spec, DIE, 0, 1, 2))
        assert (job.phase, result.outcome) == (2, "worker_died")
        assert "2 workers died in phase 2" in result.reason and "SIGKILL" in result.reason
        assert run(engine, Job(tiny_spec, 0, 1))[0][1].outcome == "ok", "others go on"
    finally:
        engine.close()


def searched(folder: Path, space: SearchSpace, make: Make, monkeypatch: pytest.MonkeyPatch) -> list[tuple[object, ...]]:
    """Search with a stub, and return what is known of each network, in the order in which the trials ended."""
    with_run = runs.create(runs.new_folder(None, "search", "stub", folder), "search", {})
    study = open_study(folder, "stub", sampler="random", pruner="none", seed=0)
    terms = Terms(space, 3, 3, Reward(0.0, 0.0, 1.0), 2, 8, 50, 0, 2)
    told: list[TrialRecord] = []
    with monkeypatch.context() as patch, working(make, folder) as engine:
        # The stub counts nothing that a score needs.
        patch.setattr(
            "nas.search.loop.costs", lambda _: {"step_time_ms": 1.0, "ref_step_time_ms": 1.0, "num_params": 1}
        )
        found = run_loop(study, engine, terms, with_run, [], told.append, lambda record, phase: None)
    assert found == told
    trained = [record for record in found if record.kind == "trained"]
    assert len(trained) == len({record.arch_hash for record in trained}) == 8
    return [(record.arch_hash, record.reward, record.phase_accuracy, record.kind) for record in trained]


def test_two_workers_give_the_study_of_the_inline_engine(
    tmp_path: Path, tiny_space: SearchSpace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With more workers trials end in another order, but the networks and what is known of them are the same."""
    two = searched(tmp_path / "two", tiny_space, lambda folder: local(folder, 2), monkeypatch)
    assert sorted(two) == sorted(searched(tmp_path / "inline", tiny_space, inline, monkeypatch))


def test_one_worker_gives_the_study_of_the_inline_engine_in_its_order(
    make: Make, tmp_path: Path, tiny_space: SearchSpace, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = searched(tmp_path / "one", tiny_space, make, monkeypatch)
    assert one == searched(tmp_path / "inline", tiny_space, inline, monkeypatch)
