"""Real searches, in processes that are killed with SIGKILL at random instants."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import pytest
from optuna.trial import TrialState
from tiny import TINY_SPACE, write_images

from nas.engine import checkpoints
from nas.search.record import TrialRecord
from nas.search.study import records

BUDGET, TOP_K, SEED = 6, 2, 0
RECIPE = "extends: quick\ntrain_images: 64\nval_images: 64\nepochs: 12\nbatch_size: 16\n"


class Search:
    """A search on the command line, seen from outside."""

    def __init__(self, folder: Path, devices: str) -> None:
        self.run = folder / "run"
        (folder / "tiny.yaml").write_text(TINY_SPACE)
        (folder / "recipe.yaml").write_text(RECIPE)
        write_images(folder / "images")
        self._new = ["--space", folder / "tiny.yaml", "--data", folder / "images", "--recipe", folder / "recipe.yaml"]
        self._new += ["--out", self.run, "--budget", str(BUDGET), "--top-k", str(TOP_K), "--devices", devices]
        self._log = folder / "log"
        self.copies = folder / "copies"

    def start(self) -> subprocess.Popen[bytes]:
        """Begin the search, or continue it where it has a manifest."""
        arguments = ["--resume", self.run] if (self.run / "manifest.json").exists() else self._new
        with open(self._log, "ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "nas", "search", *map(str, arguments)], stdout=log, stderr=log,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
            )  # fmt: skip

    def finish(self, process: subprocess.Popen[bytes]) -> None:
        assert process.wait(timeout=300) == 0, self.printed()

    def printed(self) -> str:
        return self._log.read_text()

    def seen(self) -> tuple[list[TrialRecord], list[optuna.trial.FrozenTrial], dict[str, list[dict[str, Any]]]]:
        """Return what is on the disk: records, trials, and the results in each checkpoint; read from a copy of it."""
        if not (self.run / "study.db").exists():
            return [], [], {}
        copy = self.copies / str(time.monotonic_ns())
        shutil.copytree(self.run, copy)
        held = {
            path.stem: [result.document() for result in checkpoints.load(path.parent, path.stem)[0]]
            for path in (copy / checkpoints.FOLDER).glob("[!.]*.pt")
        }
        try:
            study = optuna.load_study(study_name=None, storage=f"sqlite:///{copy / 'study.db'}")
        except (KeyError, ValueError, RuntimeError):  # killed before the study was in its file
            return [], [], held
        return records(study), study.get_trials(), held


def check_ended(search: Search) -> list[TrialRecord]:
    """The invariants of a run that has ended, whatever was killed on the way."""
    found, trials, held = search.seen()
    trained = [record for record in found if record.costs_budget]
    assert len(trained) == len({record.arch_hash for record in trained}) == BUDGET, "the budget is exact"
    finished = {TrialState.COMPLETE, TrialState.PRUNED}
    assert {trial.state for trial in trials} <= finished | {TrialState.FAIL}
    assert not [trial for trial in trials if trial.state == TrialState.FAIL and trial.user_attrs], "none was given up"
    first: dict[str, TrialRecord] = {}
    for record in found:
        assert (record.kind == "duplicate") == (record.arch_hash in first), "a network is met once, then answered"
        first.setdefault(record.arch_hash, record)
    assert sum(record.kind == "duplicate" for record in found) <= 2, "a continued sampler does not begin again"
    for record in trained:
        parts = [float(part) for part in record.phase_seconds.split()]
        assert sum(parts) == pytest.approx(record.seconds, abs=0.001 * len(parts))  # each is rounded to a millisecond
        assert len(record.phase_seconds.split()) == len(record.phase_accuracy.split()) + 1, "each phase counts once"
    table = pd.read_csv(search.run / "trials.csv", dtype={"arch_hash": str})
    assert list(table["number"]) == sorted(record.number for record in found)
    whole = sorted((record for record in found if record.kind == "trained"), key=lambda record: -(record.reward or 0))
    # The weights of the search's training, and those of the first fresh one, which are exported.
    kept = [f"{record.arch_hash}-s{seed}" for record in whole[:TOP_K] for seed in (SEED, SEED + 1)]
    assert sorted(held) == sorted(kept), "the best alone are kept"
    assert not list(search.run.rglob(".*.tmp"))
    last = json.loads((search.run / "finalists.json").read_text())
    assert len(last["finalists"]) == TOP_K and len(last["trainings"]) == 2 * TOP_K
    return found


@pytest.mark.slow
def test_a_search_killed_ten_times_loses_and_repeats_nothing(tmp_path: Path) -> None:
    search = Search(tmp_path, "cpu")
    rng = random.Random(20)
    before: dict[int, dict[str, Any]] = {}
    in_flight: dict[str, list[dict[str, Any]]] = {}
    kills = 0
    ended: list[TrialRecord] = []
    while kills < 10:
        process = search.start()
        try:
            process.wait(timeout=rng.uniform(2, 9))
        except subprocess.TimeoutExpired:
            process.kill()
            kills += 1
        assert process.wait() in (0, -signal.SIGKILL), search.printed()
        found, _, held = search.seen()
        now = {record.number: asdict(record) for record in found}
        assert {number: now.get(number) for number in before} == before, "a record was lost or changed"
        assert sum(record.costs_budget for record in found) <= BUDGET
        for key, results in in_flight.items():
            # What was in a checkpoint is still there, or in the record of its trial, to the last digit.
            done = next((item for item in found if key == f"{item.arch_hash}-s{SEED}"), None)
            if done is not None:
                assert done.phase_seconds.split()[: len(results)] == [f"{result['seconds']:.3f}" for result in results]
                assert done.step_time_ms == results[0]["measurements"]["step_time_ms"]["value"]
            elif key.endswith(f"-s{SEED}"):
                assert held[key][: len(results)] == results
        before, in_flight = now, held
        if process.returncode == 0:
            break
    search.finish(search.start())
    ended = check_ended(search)
    assert {
        number: record for number, record in ((item.number, asdict(item)) for item in ended) if number in before
    } == before
    assert kills >= 5, "the search ended before it could be killed often enough; make its phases longer"


def workers_of(owner: int) -> list[int]:
    """Return the worker processes of a search (the resource tracker of multiprocessing is no worker)."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            if parent == owner and b"spawn_main" in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return sorted(found)


@pytest.mark.slow
def test_killed_workers_are_replaced_and_the_search_ends_as_if_nothing_had_been(tmp_path: Path) -> None:
    search = Search(tmp_path, "cpu:2")
    rng = random.Random(1)
    process = search.start()
    kills = 0
    while process.poll() is None and kills < 4:
        time.sleep(rng.uniform(3, 5))
        running = workers_of(process.pid)
        if running and (search.run / "trials.csv").exists():
            os.kill(rng.choice(running), signal.SIGKILL)
            kills += 1
    search.finish(process)
    check_ended(search)
    assert kills and search.printed().count("was killed (SIGKILL") >= 1, search.printed()
