"""Searches that neither train nor time, in a process of their own that goes on chunk by chunk; for `benchmarks.overhead`."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import pkgutil
import random
import resource
import shutil
import sqlite3
import time
import traceback
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from unittest import mock

import optuna
import torch

from benchmarks._common import store, stored
from nas import catalog
from nas.cli._progress import SearchProgress
from nas.cost import COSTS, Measurement
from nas.cost.step_time import Protocol
from nas.engine import InlineEngine
from nas.evaluate import PhaseResult
from nas.runs import git_revision
from nas.search import session
from nas.search.config import SearchConfig
from nas.search.record import TrialRecord
from nas.search.samplers import PRUNERS, SAMPLERS
from nas.search.study import distributions
from nas.space import choices
from nas.spec import ArchSpec
from nas.train.loop import PhaseTraining, proportion_error

VAL_IMAGES = 2000

PARTS = {
    "ask": ("nas.search.loop.ask",),
    "decode": ("nas.search.loop.decode", "nas.search.loop.summary"),
    "report and prune": ("optuna.Trial.report", "optuna.Trial.should_prune"),
    "record and tell": ("nas.search.loop._store",),
    "checkpoints": ("nas.engine.checkpoints.save", "nas.engine.checkpoints.load", "nas.engine.checkpoints.keep_only"),
    "trials.csv": ("nas.search.record.LiveTable.add",),
    "disk": ("nas.search.loop.settle",),
    "screen": ("nas.cli._progress.SearchProgress.trial", "nas.cli._progress.SearchProgress.phase"),
}
"""What the seconds of a trial are made of: the functions whose time is taken, by part."""


def turns(arm: str, run: Path, space: str, budget: int, chunk: int) -> Iterator[dict[str, Any]]:
    """Yield what each chunk of a stub search showed, until its budget is spent; who stops listening stops it.

    Raises:
        RuntimeError: the search failed; its traceback.
    """
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=serve, args=(there, arm, run, space, budget, chunk))
    process.start()
    there.close()
    try:
        while True:
            here.send(True)
            heard = here.recv()
            if "error" in heard:
                raise RuntimeError(heard["error"])
            yield heard
            if "end_seconds" in heard:
                return
    except GeneratorExit:
        here.send(False)
        raise
    finally:
        process.join()
        here.close()


def grown(run: Path, to: Path, trials: int, sampler: str) -> int:
    """Copy a run and repeat its trials under new numbers and hashes until so many have cost budget; return all its trials."""
    shutil.copytree(run, to)
    manifest = to / "manifest.json"
    if manifest.exists():
        content = json.loads(manifest.read_text())
        content["sampler"] = content["config"]["sampler"] = sampler
        manifest.write_text(json.dumps(content))
    with closing(sqlite3.connect(to / "study.db")) as base, base:
        (there,) = base.execute("SELECT count(*) FROM trials").fetchone()
        spent = there
        if manifest.exists():
            kinds = "SELECT count(*) FROM trial_user_attributes WHERE key = 'kind' AND value_json IN (?, ?)"
            (spent,) = base.execute(kinds, ('"trained"', '"pruned"')).fetchone()
        copies = max(1, round(trials / spent))
        tables = [name for (name,) in base.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        columns = {name: [row[1] for row in base.execute(f"PRAGMA table_info({name})")] for name in tables}
        params = base.execute(
            "SELECT param_name, trial_id, param_value, distribution_json FROM trial_params"
        ).fetchall()
        by_name = {name: [row for row in params if row[0] == name] for name in sorted({row[0] for row in params})}
        rng = random.Random(0)
        for copy in range(1, copies):
            for name in tables:
                if "trial_id" not in columns[name] or name == "trial_params":
                    continue
                new = {"trial_id": f"trial_id + {copy * there}", "number": f"number + {copy * there}"}
                if name == "trial_user_attributes":  # a network of its own, as far as the records tell
                    other = (
                        f"CASE key WHEN 'arch_hash' THEN '\"{copy:04x}' || substr(value_json, 6) ELSE value_json END"
                    )
                    new["value_json"] = other
                own = [column for column in columns[name] if column != columns[name][0] or column == "trial_id"]
                chosen = ", ".join(new.get(column, column) for column in own)
                base.execute(
                    f"INSERT INTO {name} ({', '.join(own)}) SELECT {chosen} FROM {name} WHERE trial_id <= {there}"
                )
            # Choices are mixed among the trials, or a sampler would find the same points again and again, and ask for them.
            for rows in by_name.values():
                mixed = rng.sample([value for _, _, value, _ in rows], len(rows))
                base.executemany(
                    "INSERT INTO trial_params (param_name, trial_id, param_value, distribution_json) VALUES (?, ?, ?, ?)",
                    [(row[0], row[1] + copy * there, value, row[3]) for row, value in zip(rows, mixed, strict=True)],
                )
    return spent * copies


def small(work: Path, kind: str, space: str, trials: int) -> Path:
    """Return the small run that others are grown from, made by this code with these settings."""
    run = work / f"base-{kind}"
    made = {"space": space, "trials": trials, "git": git_revision()}
    if stored(run.with_suffix(".json")) != made:
        shutil.rmtree(run, ignore_errors=True)
        list(turns(f"{kind}-random", run, space, trials, trials))
        store(run.with_suffix(".json"), made)
    return run


class StubEvaluator:
    """Counts networks as an evaluator does; times and accuracies are functions of the counts and the hash.

    Its state is a vector as long as the network, and two more for the optimiser, so that checkpoints have their size.
    """

    def run_phase(
        self, spec: ArchSpec, phase: int, state: Any, *, seed: int, protocol: Protocol | None = None
    ) -> PhaseResult:
        """Answer at once; the seconds that it names were not spent."""
        found = {name: cost.of_spec(spec) for name in COSTS if (cost := COSTS[name]).of_spec is not None}
        luck = int(spec.arch_hash[:8], 16) / 0xFFFFFFFF
        if phase == 0:
            times = {"step_time_ms": 5 + found["macs"].value / 1e6 * (0.9 + 0.2 * luck), "ref_step_time_ms": 12.0}
            timed = {name: Measurement(value, "ms", 0.1, 40, "stub") for name, value in times.items()}
            return PhaseResult(0, "ok", 1.0, measurements=found | timed, lane=((0.0, 1.0),))
        right = int(VAL_IMAGES * (0.9 - 2.0 * found["macs"].value ** -0.15 + 0.02 * luck - 0.1 / phase))
        training = PhaseTraining(
            1 / phase,
            right / VAL_IMAGES,
            proportion_error(right, VAL_IMAGES),
            70,
            4.0,
            0.5,
            val_right="f0" * (VAL_IMAGES // 8),
        )
        state = {"network": torch.zeros(int(found["num_params"].value)), "phases": phase}
        return PhaseResult(phase, "ok", 4.5, training=training, lane=((0.0, 4.5),), state=state)  # type: ignore[arg-type]

    def snapshot(self, state: Any) -> dict[str, Any]:
        """Return the weights, and before the last phase the optimiser's two values for each."""
        last = state["phases"] == 2
        return state | {"optimizer": None if last else [torch.zeros_like(state["network"]) for _ in range(2)]}

    def at_work(self) -> AbstractContextManager[None]:
        """Nothing is on the device."""
        return nullcontext()


@dataclass
class Clock:
    """Seconds by part since they were last taken; what is called within a part belongs to it."""

    seconds: Counter[str] = field(default_factory=Counter)
    within: bool = False

    def timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function whose time is counted."""

        def call(*args: Any, **kwargs: Any) -> Any:
            if self.within:
                return function(*args, **kwargs)
            self.within, began = True, time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds[part] += time.perf_counter() - began
                self.within = False

        return call

    @contextmanager
    def on(self, parts: dict[str, tuple[str, ...]]) -> Iterator[None]:
        """Time the parts while the body runs."""
        with contextlib.ExitStack() as stack:
            for part, names in parts.items():
                for name in names:
                    stack.enter_context(mock.patch(name, self.timed(part, pkgutil.resolve_name(name))))
            yield


class _Enough(Exception):
    """No further trials are wanted."""


class _Turns(SearchProgress):
    """The search's own progress on the terminal, which counts, reports each chunk and waits for its turn."""

    def __init__(self, pipe: Connection, chunk: int, clock: Clock) -> None:
        super().__init__()
        self._pipe, self._chunk, self._clock = pipe, chunk, clock
        self._spent: list[float] = []
        self._computed: list[float] = []
        self._kinds: Counter[str] = Counter()

    def started(self, *args: Any) -> None:
        """Wait for the first turn."""
        super().started(*args)
        self._wait()

    def trial(self, record: TrialRecord) -> None:
        """Count a trial: what took place before it is charged to it, or with it to the next one if it cost no budget."""
        super().trial(record)
        self._kinds[record.kind] += 1
        if record.costs_budget:
            self.ended(self.folder / "study.db" if self.folder else Path())

    def ended(self, database: Path) -> None:
        """Take the time of a trial that cost budget."""
        now, computed = time.perf_counter(), time.process_time()
        self._spent.append(now - self._last)
        self._computed.append(computed - self._last_computed)
        self._last, self._last_computed = now, computed
        if len(self._spent) == self._chunk:
            self._pipe.send(
                {
                    "owner_ms": [round(1000 * seconds, 2) for seconds in self._spent],
                    "computed_ms": [round(1000 * seconds, 2) for seconds in self._computed],
                    "parts_ms": {
                        name: round(1000 * seconds / len(self._spent), 3)
                        for name, seconds in sorted(self._clock.seconds.items())
                    },
                    "kinds": dict(self._kinds),
                    "rss_mib": _rss_mib(),
                    "database_mib": round(database.stat().st_size / 2**20, 2),
                    "process": os.getpid(),
                    "load": round(os.getloadavg()[0], 2),
                }
            )
            self._wait()

    def _wait(self) -> None:
        if not self._pipe.recv():
            raise _Enough
        self._spent, self._computed, self._kinds = [], [], Counter()
        self._clock.seconds.clear()
        self._last, self._last_computed = time.perf_counter(), time.process_time()


def _rss_mib() -> float:
    """Return the memory that this process has resident, as Linux counts it."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return round(pages * resource.getpagesize() / 2**20, 1)


def serve(pipe: Connection, arm: str, folder: Path, space: str, budget: int, chunk: int) -> None:
    """Search in a new process until the budget is spent or no turn is given; the last word is how long the end took.

    Args:
        arm: `nas-SAMPLER` or `optuna-SAMPLER`. folder: Of the run; one that is there goes on.
        chunk: Trials that cost budget, in a turn.
    """
    torch.set_num_threads(1)
    kind, sampler = arm.split("-")
    clock = Clock()
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        watcher = _Turns(pipe, chunk, clock)
        try:
            (_nas if kind == "nas" else _optuna)(watcher, clock, sampler, folder, space, budget)
        except _Enough:
            return
        except Exception:
            pipe.send({"error": traceback.format_exc()})
            return
        pipe.send({"end_seconds": time.perf_counter() - watcher._last})


def _nas(watcher: _Turns, clock: Clock, sampler: str, folder: Path, space: str, budget: int) -> None:
    """Search as `nas search` does, with the stub."""

    def engine(*args: Any, checkpoints: Path, **kwargs: Any) -> InlineEngine:
        return InlineEngine(StubEvaluator(), checkpoints)

    with mock.patch("nas.engine._choice.engine_for", engine), clock.on(PARTS), watcher:
        if (folder / "manifest.json").exists():
            session.resume(folder, budget=budget, watcher=watcher)
        else:
            session.search(
                SearchConfig(space=space, budget=budget, sampler=sampler, devices="cpu", out=folder, recipe="quick"),
                watcher=watcher,
            )


def _optuna(watcher: _Turns, clock: Clock, sampler: str, folder: Path, space: str, budget: int) -> None:
    """Ask and tell the same choices in a plain study; the value is a function of them."""
    domains = distributions(choices(catalog.load_space(space)))
    folder.mkdir(parents=True, exist_ok=True)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        storage=f"sqlite:///{folder / 'study.db'}",
        study_name="plain",
        direction="maximize",
        load_if_exists=True,
        pruner=PRUNERS["median"](),
    )
    done = len(study.get_trials(deepcopy=False))
    study.sampler = SAMPLERS[sampler](done, None)
    steps = {
        name: clock.timed(name, function)
        for name, function in {"ask": study.ask, "report and prune": _reported, "tell": study.tell}.items()
    }
    watcher._wait()
    for _ in range(done, budget):
        trial = steps["ask"](domains)
        luck = zlib.crc32(repr(sorted(trial.params.items())).encode()) / 2**32
        low = sum(isinstance(value, int) and value == 0 for value in trial.params.values()) / len(domains)
        value = 0.5 + 0.3 * low + 0.1 * luck
        if steps["report and prune"](trial, 0.9 * value, 1):
            steps["tell"](trial, state=optuna.trial.TrialState.PRUNED)
        else:
            trial.report(value, 2)
            steps["tell"](trial, value)
        watcher.ended(folder / "study.db")


def _reported(trial: optuna.Trial, value: float, step: int) -> bool:
    trial.report(value, step)
    return trial.should_prune()
