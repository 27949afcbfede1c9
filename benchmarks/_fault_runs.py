"""A search that faults are done to, seen from outside: started, ended, and what of it is lost."""

from __future__ import annotations

import multiprocessing
import os
import re
import shutil
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import optuna

from benchmarks._fault_search import forked
from nas.data._store import cache_folder
from nas.runs import open_run
from nas.search import database
from nas.search.record import TrialRecord
from nas.search.study import records, search_study

SPACE = """
name: small
resolution: 16
stem: {block: conv, kernel_size: 3, stride: 1, out_channels: 8}
stages:
  - {block: [fused_mbconv, mbconv], kernel_size: [3, 5], expand_ratio: [1, 2], se_ratio: 0, out_channels: [8, 16],
     num_layers: {min: 1, max: 2}, stride: 2}
  - {block: mbconv, kernel_size: [3, 5], expand_ratio: [1, 2, 4], se_ratio: [0, 0.25], out_channels: [16, 24],
     num_layers: {min: 1, max: 3}, stride: 2}
head: {block: conv, kernel_size: 1, out_channels: 16, dropout: 0.1}
"""
"""Small, with 2,304 combinations of choices: a study of hundreds of its networks is written quickly."""

RECIPE = "extends: quick\ntrain_images: 64\nval_images: 64\nepochs: 0.5\nbatch_size: 16\n"


@dataclass(frozen=True)
class Outcome:
    """What a fault did.

    Args:
        lost: Records and finished phases of trials that were there before it and not afterwards, or not the same.
        twice: Networks that cost budget twice. spent, budget: What was trained in the end, and what was asked for.
        repeated: Phases that were run to their end twice; `allowed`: one for each phase that can have been in flight.
        message: What the search said. said: Whether that names what happened and what to do.
    """

    lost: int
    twice: int
    spent: int
    budget: int
    repeated: int
    allowed: int
    message: str
    said: bool

    @property
    def right(self) -> bool:
        """Whether nothing was lost, counted twice or left unsaid."""
        return (
            not self.lost
            and not self.twice
            and self.spent == self.budget
            and self.repeated <= self.allowed
            and self.said
        )


@dataclass
class Search:
    """A search of stub-trained networks on the command line, seen from outside; started again, it is continued.

    Args:
        folder: For the run and all that belongs to it. storage: URL of a database. seconds: That a phase takes.
        place: Where the run is, if not in the folder. network: How one of the networks misbehaves; all are then really trained.
    """

    folder: Path
    budget: int = 100
    devices: str = "cpu"
    storage: str | None = None
    seconds: float = 0.0
    data: str = "fashion-mnist-subset"
    place: Path | None = None
    network: str = ""
    cache: Path | None = None
    faults: int = 0
    before: dict[int, dict[str, Any]] = field(default_factory=dict)
    held: dict[str, int] = field(default_factory=dict)
    lost: int = 0
    messages: list[str] = field(default_factory=list)

    @property
    def run(self) -> Path:
        """The run's folder."""
        return (self.place or self.folder) / "run"

    @property
    def log(self) -> Path:
        """Where the output of all starts goes."""
        return self.folder / "output"

    def start(self, at: str = "", options: tuple[str, ...] = (), password: bool = True) -> BaseProcess:
        """Begin the search, or continue it where it has a manifest; `at` as `SIGINT asking 3` sends it a signal there."""
        self.folder.mkdir(parents=True, exist_ok=True)
        words = ["search", "--resume", str(self.run)]
        if not (self.run / "manifest.json").exists():
            space = self.folder / "small.yaml"
            space.write_text(SPACE)
            recipe = self.folder / "short.yaml"
            recipe.write_text(RECIPE)
            words = [
                "search",
                "--space",
                str(space),
                "--data",
                self.data,
                "--sampler",
                "random",
                "--out",
                str(self.run),
            ]
            words += ["--budget", str(self.budget), "--top-k", "1", "--devices", self.devices, "--recipe", str(recipe)]
            words += ["--storage", self.storage] if self.storage else []
        environment = {"FAULT_LOG": str(self.folder / "phases"), "FAULT_SECONDS": str(self.seconds)}
        environment |= {name: os.environ[name] for name in ("NAS_CACHE", "NAS_LANES") if name in os.environ}
        if self.cache is not None:
            shutil.copytree(probe_folder(), self.cache, dirs_exist_ok=True, ignore=shutil.ignore_patterns("packs"))
            environment["NAS_CACHE"] = str(self.cache)
        if self.network:
            environment["FAULT_NETWORK"] = f"{self.network} {self.folder / 'victim'}"
        if at:
            environment["FAULT_SIGNAL"] = at
        if self.storage and password:
            environment["PGPASSWORD"] = re.split(r"[:@]", self.storage)[2]
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["benchmarks._fault_search"])
        process = context.Process(target=forked, args=([*words, *options], environment, str(self.log)))
        process.start()
        return process

    def end(self, process: BaseProcess, *, within: float = 240) -> int:
        """Wait until a start has ended, look at what it left, and return its exit code."""
        process.join(within)
        if process.is_alive():
            process.kill()
            process.join()
            raise RuntimeError(f"the search did not end within {within:g} s: {self.printed()[-2000:]}")
        assert process.exitcode is not None
        return process.exitcode

    def printed(self) -> str:
        """Return what all starts have printed."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def last(self, pattern: str) -> str:
        """Return the last line printed that fits; empty where none does."""
        found = [line for line in self.printed().splitlines() if re.search(pattern, line)]
        return found[-1].strip() if found else ""

    def phases(self) -> list[tuple[str, str, str]]:
        """Return hash, seed and phase of each phase that was run to its end."""
        path = self.folder / "phases"
        lines = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
        return [(line[1], line[2], line[3]) for line in lines if line[0] == "end"]

    def wait_for(self, phases: int, process: BaseProcess) -> None:
        """Wait until so many phases have ended, or the search has."""
        while len(self.phases()) < phases and process.is_alive():
            time.sleep(0.01)

    def found(self) -> list[TrialRecord]:
        """Return the records that the study holds, read from a copy of it."""
        if self.storage is not None:
            manifest = open_run(self.run).manifest
            kept = database.readable(database.checked(self.storage))
            try:
                return records(optuna.load_study(study_name=manifest["study"], storage=kept))
            except KeyError:
                return []
            finally:
                kept.engine.dispose()
        copy = self.folder / "copies" / str(time.monotonic_ns())
        copy.mkdir(parents=True)
        for file in self.run.glob("study.db*"):
            shutil.copy(file, copy)
        try:
            return records(search_study(f"sqlite:///{copy / 'study.db'}"))
        except (KeyError, ValueError, RuntimeError, optuna.exceptions.StorageInternalError):
            return []  # killed before the study was in its file

    def look(self) -> None:
        """Count what was there before and is not any more."""
        now = {record.number: asdict(record) for record in self.found()}
        self.lost += sum(now.get(number) != record for number, record in self.before.items())
        self.before = now

    def outcome(self, pattern: str, *, slots: int = 1) -> Outcome:
        """Return what the faults did, once the search has ended.

        Args:
            pattern: Of the message that was to be said; empty where nothing needs to be.
            slots: Phases that can be in flight at once.
        """
        self.look()
        trained = [record["arch_hash"] for record in self.before.values() if record["kind"] in ("trained", "pruned")]
        ended = Counter(self.phases())
        message = self.last(pattern) if pattern else ""
        password = self.storage is not None and re.split(r"[:@]", self.storage)[2]
        secret = bool(password) and any(
            str(password) in path.read_text(errors="replace")
            for path in (self.log, *self.run.glob("*.json"), *self.run.glob("*.md"))
        )
        return Outcome(
            lost=self.lost,
            twice=len(trained) - len(set(trained)),
            spent=len(trained),
            budget=self.budget,
            repeated=sum(ended.values()) - len(ended),
            allowed=self.faults * slots,
            message=database.redacted(message).replace(str(self.folder), "FOLDER").replace(str(self.run), "RUN"),
            said=bool(message or not pattern) and not secret and "Traceback" not in self.printed(),
        )

    def finish(self) -> None:
        """Continue the search to its end.

        Raises:
            RuntimeError: it did not end well.
        """
        if self.end(self.start()):
            raise RuntimeError(self.printed()[-3000:])

    def stopped(self, phases: int = 40) -> None:
        """Begin the search, and stop it by Ctrl-C in the middle of a training."""
        if self.end(self.start(at=f"SIGINT training {phases}")) != 130:
            raise RuntimeError(self.printed()[-3000:])
        self.faults += 1
        self.look()


def probe_folder() -> Path:
    """Return the folder in which searches of this machine keep what its processor is best at."""
    return cache_folder().parent
