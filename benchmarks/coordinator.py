"""How many workers can one owner of a study keep busy? Trials a second, the time of an ask, and whether anything is lost.

Real searches (`nas.search`: SQLite study, records, trials.csv, printed lines) with an engine whose workers sleep in place of
training: 1 to 256 of them, trials of 0.2, 2 and 10 s (phase 0 and two training phases, a third each, give or take a fifth by
the network's hash). What is measured is the process that owns the study. Checkpoints, which the workers make, there are none.

- *load*: each number of workers with each length of trial, for a window of wall time, in a process of its own. The window begins
  when all workers have their first trial (how long that took is told); the rate is of its second half; the ideal is workers /
  seconds. When the window is over the process ends as a killed one does, and the study is read again: a trial that had ended and
  is not there was lost, a network that cost budget twice was counted twice.
- *speedup*: the same number of trials by one worker and by two, in turns.

    python -m benchmarks.coordinator
    python -m benchmarks.coordinator --workers 64,256 --seconds 10 --window 60

Writes `coordinator.json` under the results folder of the device, anew after each point; a point that it holds is not measured
again, and with other settings it is refused.
"""

from __future__ import annotations

import argparse
import contextlib
import heapq
import json
import multiprocessing
import os
import shutil
import sys
import time
from collections import Counter
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

from benchmarks._common import conditions, folder, settings, store, stored
from benchmarks._stats import median_interval, shown
from benchmarks._stub_search import StubEvaluator, _rss_mib
from nas.cli._progress import SearchProgress
from nas.devices import pick_device
from nas.engine import Job
from nas.engine._worker import Worker
from nas.evaluate import PhaseResult
from nas.search import loop, session
from nas.search.config import SearchConfig
from nas.search.record import TrialRecord
from nas.search.study import records, search_study

PHASES = 3
"""Phase 0, and the two training phases of the recipe `quick`."""

EVER = 10**6
"""A budget that no window spends."""


class Sleepers:
    """An engine whose workers sleep; a phase's result is there when its time has come."""

    def __init__(self, slots: int, seconds: float, window: float) -> None:
        self.slots, self._seconds, self._window = slots, seconds, window
        self.made, self.began = time.monotonic(), 0.0
        self._worker = Worker(StubEvaluator(), None)
        self._due: list[tuple[float, int, Job]] = []
        self.submitted = self.answered = 0

    def submit(self, job: Job) -> None:
        """Send a worker to sleep."""
        share = 0.8 + 0.4 * int(job.spec.arch_hash[:4], 16) / 0xFFFF
        self.submitted += 1
        heapq.heappush(self._due, (time.monotonic() + share * self._seconds / PHASES, self.submitted, job))

    def next(self) -> tuple[Job, PhaseResult]:
        """Wait for the first worker to wake, or end the window."""
        self.began = self.began or time.monotonic()  # all workers have something by now, and the window begins
        due, _, job = self._due[0]
        until = self.began + self._window
        time.sleep(max(0.0, min(due, until) - time.monotonic()))
        if time.monotonic() >= until:
            raise TimeoutError
        heapq.heappop(self._due)
        self.answered += 1
        return job, self._worker.run(job)

    def drop(self, key: str) -> None:
        """Forget a training."""
        self._worker.drop(key)

    def close(self) -> None:
        """Nothing runs."""


class _Heard(SearchProgress):
    """The progress of the command line, which keeps when each trial ended."""

    def __init__(self) -> None:
        super().__init__()
        self.ended: list[tuple[float, TrialRecord]] = []

    def trial(self, record: TrialRecord) -> None:
        """Keep a trial."""
        super().trial(record)
        self.ended.append((time.monotonic(), record))


def point(pipe: Connection, run: Path, sampler: str, workers: int, seconds: float, window: float, budget: int) -> None:
    """Search in a new process until the window is over or the budget is spent, and tell what was seen."""
    torch.set_num_threads(1)
    asks: list[float] = []
    engines: list[Sleepers] = []
    before = loop.ask

    def ask(*args: Any, **kwargs: Any) -> Any:
        began = time.perf_counter()
        try:
            return before(*args, **kwargs)
        finally:
            asks.append(time.perf_counter() - began)

    def engine(*args: Any, **kwargs: Any) -> Sleepers:
        engines.append(Sleepers(workers, seconds, window))
        return engines[0]

    watcher = _Heard()
    config = SearchConfig(
        space="v2_tiny",
        budget=budget,
        sampler=sampler,
        devices="cpu",
        out=run,
        recipe="quick",
        top_k=1,
        top_k_seeds=1,
        pruner="none",
    )
    with (
        open(os.devnull, "w") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.suppress(TimeoutError),
        mock.patch("nas.engine._choice.engine_for", engine),
        mock.patch.object(loop, "ask", ask),
        watcher,
    ):
        session.search(config, watcher=watcher)
    began = engines[0].began
    told = [record for _, record in watcher.ended]
    spent = [moment - began for moment, record in watcher.ended if record.costs_budget]
    half = window / 2
    late = [moment for moment in spent if moment >= half]
    pipe.send(
        {
            "trials": len(spent),
            "trials_per_s": len(late) / half,
            "last_s": spent[-1] if spent else None,
            "fill_s": began - engines[0].made,
            "ask_ms": {
                "median": 1000 * float(np.median(asks)),
                "p99": 1000 * float(np.quantile(asks, 0.99)),
                "max": 1000 * max(asks),
                "n": len(asks),
            },
            "owner_computed_ms": 1000 * time.process_time() / max(1, len(spent)),
            "kinds": dict(Counter(record.kind for record in told)),
            "rss_mib": _rss_mib(),
            "told": [[record.number, record.arch_hash] for record in told],
            "unanswered": engines[0].submitted - engines[0].answered,
            "load": round(os.getloadavg()[0], 2),
        }
    )
    pipe.close()
    os._exit(0)  # nothing is tidied up: what was told must be on the disk already


def measured(setting: argparse.Namespace, name: str, **what: Any) -> dict[str, Any]:
    """Return what a point showed, with what was lost or counted twice."""
    run = setting.work / name
    shutil.rmtree(run, ignore_errors=True)
    run.parent.mkdir(parents=True, exist_ok=True)
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=point, args=(there, run), kwargs=what)
    process.start()
    there.close()
    found: dict[str, Any] = here.recv()
    process.join()
    kept = records(search_study(f"sqlite:///{run / 'study.db'}"))
    by_number = {record.number: record.arch_hash for record in kept}
    counted = Counter(record.arch_hash for record in kept if record.costs_budget)
    found["lost"] = sum(by_number.get(number) != arch_hash for number, arch_hash in found.pop("told"))
    found["counted_twice"] = sum(times - 1 for times in counted.values())
    shutil.rmtree(run)
    return found


def load(setting: argparse.Namespace, content: dict[str, Any], save: Any) -> None:
    """Measure each number of workers with each length of trial."""
    rows = content.setdefault("load", {})
    wanted = [("random", workers, seconds) for seconds in setting.seconds for workers in setting.workers]
    wanted += [("arch", workers, max(setting.seconds)) for workers in setting.arch_workers]
    for sampler, workers, seconds in wanted:
        name = f"{sampler}, {workers} workers, {seconds:g} s"
        if name not in rows:
            window = max(setting.window, 3 * seconds)
            row = measured(
                setting, "load", sampler=sampler, workers=workers, seconds=seconds, window=window, budget=EVER
            )
            row["ideal_per_s"] = workers / seconds
            row["share"] = row["trials_per_s"] / row["ideal_per_s"]
            rows[name] = row | {"sampler": sampler, "workers": workers, "seconds": seconds, "window_s": window}
            save()
        row = rows[name]
        print(
            f"{name:26s} {row['trials_per_s']:6.2f} trials/s of {row['ideal_per_s']:7.2f} ({row['share']:4.0%}); ask "
            f"{row['ask_ms']['median']:.0f} ms, p99 {row['ask_ms']['p99']:.0f}; duplicates {row['kinds'].get('duplicate', 0)}, "
            f"lost {row['lost']}, twice {row['counted_twice']}; filled in {row['fill_s']:.0f} s; {row['rss_mib']:.0f} MiB; "
            f"load {row['load']}",
            flush=True,
        )


def speedup(setting: argparse.Namespace, content: dict[str, Any], save: Any) -> None:
    """Measure the same trials with one worker and with two, in turns."""
    rounds = content.setdefault("speedup", {"rounds": []})["rounds"]
    for number in range(len(rounds), setting.rounds):
        taken = {}
        for workers in (1, 2) if number % 2 == 0 else (2, 1):
            row = measured(
                setting, "speedup", sampler="random", workers=workers, seconds=1.0, window=120.0, budget=setting.trials
            )
            assert row["trials"] == setting.trials, row
            taken[str(workers)] = row["last_s"]
        rounds.append({"seconds": taken, "ratio": taken["1"] / taken["2"]})
        ratio = content["speedup"]["ratio"] = median_interval([item["ratio"] for item in rounds])
        save()
        print(f"two workers over one, {setting.trials} trials of 1 s: {shown(ratio)}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=_numbers(int), default=[1, 4, 16, 64, 256])
    parser.add_argument("--seconds", type=_numbers(float), default=[0.2, 2.0, 10.0], help="of a trial")
    parser.add_argument(
        "--arch-workers", type=_numbers(int), default=[64], help="with the default sampler, longest trial"
    )
    parser.add_argument("--window", type=float, default=10.0, help="seconds of a point, at least three trials")
    parser.add_argument("--rounds", type=int, default=2, help="of the speedup")
    parser.add_argument("--trials", type=int, default=12, help="of a round of the speedup")
    parser.add_argument("--work", type=Path, default=Path("results/work-coordinator"), help="runs, deleted when read")
    parser.add_argument("--out", type=Path, default=Path("results"))
    setting = parser.parse_args()

    device = pick_device("cpu")
    path = folder(device, setting.out) / "coordinator.json"
    content = stored(path)
    own = {name: value for name, value in settings(setting).items() if name != "work"}
    if content and content["settings"] != own:
        sys.exit(
            f"{path}: was made with other settings ({json.dumps(content['settings'])}). Give these, or another --out."
        )
    content = content or conditions(device) | {"settings": own}

    def save() -> None:
        store(path, content)

    speedup(setting, content, save)
    load(setting, content, save)
    print(path)


def _numbers(kind: Any) -> Any:
    return lambda text: [kind(item) for item in text.split(",") if item]


if __name__ == "__main__":
    main()
