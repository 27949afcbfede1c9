"""The engine on a real Ray cluster of this machine: nodes come and go, and nothing is lost or counted twice."""

from __future__ import annotations

import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "conformance"))
from engine_stub import DIE, SLEEP
from ray_nodes import MEMORY, engine_on, nodes

from nas import runs
from nas.cli import main
from nas.data import BUILTIN, load
from nas.engine import Job, checkpoints
from nas.errors import DeviceError
from nas.objective import Reward
from nas.search.loop import Terms, run_loop
from nas.search.record import TrialRecord
from nas.search.study import open_study, records
from nas.space import SearchSpace
from nas.spec import ArchSpec

pytest.importorskip("ray", reason="Ray is not installed (pip install 'phinas[ray]')")
pytestmark = pytest.mark.slow


def log_of(folder: Path) -> list[list[str]]:
    """What, hash, seed, phase and process of each phase that was begun or ended."""
    return [line.split() for line in (folder / "log").read_text().splitlines()]


def test_a_node_that_is_lost_in_the_middle_costs_its_phases_and_no_more(
    tmp_path: Path, tiny_space: SearchSpace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nas.engine.ray_engine.LOOK_SECONDS", 0.5)
    monkeypatch.setattr("nas.engine.ray_cluster.LOOK_SECONDS", 0.5)
    monkeypatch.setattr(
        "nas.search.loop.costs", lambda _: {"step_time_ms": 1.0, "ref_step_time_ms": 1.0, "num_params": 1}
    )
    run = runs.create(runs.new_folder(None, "search", "stub", tmp_path / "run"), "search", {})
    study = open_study(run.folder, "stub", sampler="random", pruner="none", seed=0)
    said: list[str] = []
    ended: list[TrialRecord] = []
    with nodes({"num_cpus": 1}, {"num_cpus": 1}) as cluster:
        engine = engine_on(cluster.address, run.folder, say=said.append)

        def on_trial(record: TrialRecord) -> None:
            ended.append(record)
            if len(ended) == 4:
                cluster.remove_node(cluster.workers[0], allow_graceful=False)
            if len(ended) == 6:  # a node that comes is used
                cluster.add_node(num_cpus=1, object_store_memory=MEMORY)

        try:
            terms = Terms(tiny_space, 3, 3, Reward(0.0, 0.0, 1.0), 2, 30, 200, 0, 2)
            found = run_loop(study, engine, terms, run, [], on_trial, lambda record, phase: time.sleep(0.1))
        finally:
            engine.close()
    trained = [record for record in found if record.costs_budget]
    assert len(trained) == len({record.arch_hash for record in trained}) == 30, "the budget is exact"
    assert {record.arch_hash for record in records(study) if record.costs_budget} == {
        record.arch_hash for record in trained
    }
    assert any("is gone" in sentence for sentence in said), said
    assert any("is new" in sentence for sentence in said), said
    assert len({line[-1] for line in log_of(run.folder)}) == 3, "two workers, and one on the new node"


def test_one_loss_is_mended_and_a_phase_that_kills_every_worker_is_given_up(
    tmp_path: Path, tiny_spec: ArchSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nas.engine.ray_cluster.LOOK_SECONDS", 0.5)
    said: list[str] = []
    with nodes({"num_cpus": 1}) as cluster:
        engine = engine_on(cluster.address, tmp_path, say=said.append)
        outcomes = []
        try:
            for phase in (0, 1, 2, 3):
                engine.submit(Job(tiny_spec, phase, DIE, name="trial 7"))
                outcomes.append(engine.next()[1].outcome)
        finally:
            engine.close()
        assert outcomes == ["ok"] * 4
        assert [int(line[3]) for line in log_of(tmp_path) if line[0] == "start"] == [0, 1, 2, 2, 3]
        assert any("in phase 2 of trial 7; that phase runs again" in sentence for sentence in said), said

        (tmp_path / "doomed").mkdir()
        engine = engine_on(cluster.address, tmp_path / "doomed", lives=False)
        try:
            for phase in (0, 1, 2):
                engine.submit(Job(tiny_spec, phase, DIE))
                result = engine.next()[1]
        finally:
            engine.close()
    assert result.outcome == "worker_died" and "2 workers died in phase 2" in result.reason


def test_only_devices_of_the_kind_named_are_timed_on_and_the_others_train(tmp_path: Path, tiny_spec: ArchSpec) -> None:
    """Nodes with one and two CPUs are of two kinds: a worker has as many threads as its node has CPUs."""
    with nodes({"num_cpus": 1}, {"num_cpus": 2}) as cluster:
        engine = engine_on(cluster.address, tmp_path)
        try:
            kinds = {member.kind["threads"]: member.kind for member in engine._cluster.members}
            assert sorted(kinds) == [1, 2]
            engine._kind = kinds[2]
            jobs = [Job(tiny_spec, 0, seed) for seed in range(6)]
            for job in jobs:
                engine.submit(job)
            done = []
            while len(done) < 6:
                job, _ = engine.next()
                if job.phase == 0:
                    engine.submit(replace(job, phase=1))
                else:
                    done.append(job)
        finally:
            engine.close()
    timed = {line[-1] for line in log_of(tmp_path) if line[0] == "start" and line[3] == "0"}
    trained = {line[-1] for line in log_of(tmp_path) if line[0] == "start" and line[3] == "1"}
    assert len(timed) == 1 and trained - timed, "one worker times; the other one trains"


def test_closing_ends_a_phase_in_the_middle_and_leaves_no_worker(tmp_path: Path, tiny_spec: ArchSpec) -> None:
    with nodes({"num_cpus": 1}) as cluster:
        engine = engine_on(cluster.address, tmp_path)
        for phase in (0, 1):
            engine.submit(Job(tiny_spec, phase, SLEEP))
            engine.next()
        engine.submit(Job(tiny_spec, 2, SLEEP))
        threading.Event().wait(0.5)
        worker = Path(f"/proc/{log_of(tmp_path)[0][-1]}")
        engine.close()
        until = time.monotonic() + 15
        while worker.exists() and time.monotonic() < until:
            time.sleep(0.1)
        assert not worker.exists()


def test_a_share_of_a_gpu_makes_two_workers_of_it_and_a_gpu_that_is_not_there_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The node says that it has a GPU; torch on this machine may have none, and then that is the message."""
    import torch

    from nas.engine.ray_cluster import Cluster

    offered: list[int] = []
    with nodes({"num_cpus": 1, "num_gpus": 1}) as cluster:
        with monkeypatch.context() as patch:
            patch.setattr(Cluster, "_await_first", lambda self: offered.append(len(self.members)))
            Cluster(cluster.address, "auto", 0.5, print).close()
            with pytest.raises(DeviceError, match=r"0 GPU in all; a worker needs 1 GPU|0 CUDA devices found|allowed"):
                Cluster(cluster.address, "cuda:0", 1.0, print)
        if not torch.cuda.is_available():
            with pytest.raises(DeviceError, match="cuda is not there"):
                Cluster(cluster.address, "auto", 1.0, print)
    assert offered == [2]


def test_other_versions_leave_a_node_out_and_the_last_one_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nas.engine import ray_cluster

    here = ray_cluster.versions()
    monkeypatch.setattr(ray_cluster, "versions", lambda: here | {"phinas": "0.0.1"})
    with (
        nodes({"num_cpus": 1}) as cluster,
        pytest.raises(DeviceError, match=r"found phinas .* \(here 0.0.1\)\. Install the same"),
    ):
        engine_on(cluster.address, tmp_path)


def test_images_come_through_the_object_store_where_their_pack_is_not(
    tmp_path: Path, tiny_spec: ArchSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = load(BUILTIN, resolution=32)
    there = tmp_path / "there"
    with monkeypatch.context() as patch:
        patch.setenv("NAS_CACHE", str(there))  # of the nodes
        manager = nodes({"num_cpus": 2})
        cluster = manager.__enter__()
    try:
        engine = engine_on(cluster.address, tmp_path, data=data)
        try:
            engine.submit(Job(tiny_spec, 0, 0))
            assert engine.next()[1].outcome == "ok"
        finally:
            engine.close()
    finally:
        manager.__exit__(None, None, None)
    (pack,) = [path for path in (there / "packs").iterdir() if path.is_dir()]
    assert pack.name == f"sent-{data.fingerprint}"
    assert np.array_equal(np.load(pack / "val.npy"), data.val.images)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--engine", "ray", "--address", "127.0.0.1:9"],
            "--address: found 127.0.0.1:9, but no Ray cluster answers there",
        ),
        (["--engine", "ray"], "no Ray cluster runs on this machine"),
        (["--address", "auto:1"], "belong to --engine ray"),
        (["--engine", "dask"], "--engine: found 'dask'; allowed: local, ray"),
        (["--engine", "ray", "--gpus-per-trial", "2"], "--gpus-per-trial: found 2; allowed: above 0, up to 1"),
    ],
)
def test_a_cluster_that_is_not_there_is_told_before_any_work(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    with pytest.raises(SystemExit):
        main(["search", "--space", "v2_tiny", "--out", str(tmp_path / "run"), *arguments])
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_ray_is_asked_for_by_name_where_it_is_not_installed(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.startswith("nas.engine.ray_") or name.partition(".")[0] == "ray"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(SystemExit):
        main(["search", "--space", "v2_tiny", "--engine", "ray", "--out", str(tmp_path / "run")])
    assert "pip install 'phinas[ray]'" in capsys.readouterr().err


def test_checkpoints_are_written_by_the_owner_alone(tmp_path: Path, tiny_spec: ArchSpec) -> None:
    with nodes({"num_cpus": 1}) as cluster:
        engine = engine_on(cluster.address, tmp_path)
        try:
            for phase in (0, 1):
                engine.submit(Job(tiny_spec, phase, 0))
                engine.next()
        finally:
            engine.close()
    results, state = checkpoints.load(tmp_path / checkpoints.FOLDER, Job(tiny_spec, 0, 0).key)
    assert [result.phase for result in results] == [0, 1] and state == {"past": [1]}
