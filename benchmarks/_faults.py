"""Faults that are really done to searches, and what they cost: for `benchmarks.faults` and the tests marked `chaos`."""

from __future__ import annotations

import multiprocessing
import os
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field, replace
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from PIL import Image

from benchmarks import _postgres
from benchmarks._fault_search import STAGES, forked
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
"""Of 2,304 networks, fewer where stages of one layer are alike: small, so that the study is written in milliseconds."""

RECIPE = "extends: quick\ntrain_images: 64\nval_images: 64\nepochs: 0.5\nbatch_size: 16\n"

SOURCE = """
import numpy as np
from PIL import Image
from nas.data import RawDataset, RawImage

def image(number):
    return Image.fromarray(np.random.default_rng(number).integers(0, 255, (16, 16, 3)).astype(np.uint8))

def each():
    for number in range(120):
        if number == {broken}:
            raise OSError("the network share is gone")
        yield RawImage(str(number), lambda number=number: image(number))

def images():
    return RawDataset("shared", ("red", "green", "blue"), np.arange(120) % 3, None, each, (), ())
"""
"""A data source of a user's own that breaks in the middle."""


class Impossible(Exception):
    """This fault cannot be made here; the message says why."""


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
            pattern: Of the message that was to be said. slots: Phases that can be in flight at once.
        """
        self.look()
        trained = [record["arch_hash"] for record in self.before.values() if record["kind"] in ("trained", "pruned")]
        ended = Counter(self.phases())
        message = self.last(pattern)
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
            said=bool(message) and not secret and "Traceback" not in self.printed(),
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


def killed_owner(work: Path, rng: random.Random) -> Outcome:
    """kill -9 of the owner at random instants, four times."""
    search = Search(work)
    for _ in range(4):
        process = search.start()
        search.wait_for(len(search.phases()) + rng.randint(1, 70), process)
        process.join(rng.uniform(0, 0.1))
        process.kill()
        process.join()
        search.faults += 1
        search.look()
    search.finish()
    return search.outcome("continues|in flight|winner")


def killed_worker(work: Path, rng: random.Random) -> Outcome:
    """kill -9 of a worker at random instants, twice."""
    search = Search(work, devices="cpu:2", seconds=0.05)
    process = search.start()
    while process.is_alive() and search.faults < 2:
        search.wait_for(len(search.phases()) + rng.randint(5, 80), process)
        workers = workers_of(process.pid or 0)
        if workers and process.is_alive():
            os.kill(rng.choice(workers), signal.SIGKILL)
            search.faults += 1
    if search.end(process):
        raise RuntimeError(search.printed()[-3000:])
    return search.outcome("was killed", slots=1)


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


def killed_database(work: Path, rng: random.Random) -> Outcome:
    """kill -9 of the PostgreSQL server at a random instant; started again, the search is continued."""
    if reason := _postgres.why_not():
        raise Impossible(reason)
    with _postgres.server() as server:
        search = Search(work, storage=server.url())
        process = search.start()
        search.wait_for(rng.randint(10, 150), process)
        server.kill()
        search.faults += 1
        code = search.end(process)
        refused = search.end(search.start())  # as long as it is down
        server.start()
        search.look()
        search.finish()
        outcome = search.outcome("cannot be written")
        said = "cannot be reached" in search.printed() and (code, refused) == (1, 1)
        return replace(outcome, said=outcome.said and said)


def lost_password(work: Path, rng: random.Random) -> Outcome:
    """A run in a database is continued without its password."""
    if reason := _postgres.why_not():
        raise Impossible(reason)
    with _postgres.server() as server:
        search = Search(work, storage=server.url(), budget=12)
        search.stopped(5)
        search.end(search.start(password=False))
        search.look()
        search.finish()
        return search.outcome("no password supplied.*PGPASSWORD")


def two_owners(work: Path, rng: random.Random) -> Outcome:
    """A second process continues a run that goes on."""
    search = Search(work, seconds=0.02, budget=30)
    process = search.start()
    search.wait_for(10, process)
    second = search.end(search.start())
    if search.end(process) or second != 1:
        raise RuntimeError(search.printed()[-3000:])
    return search.outcome("is working on this run")


def two_owners_of_a_study(work: Path, rng: random.Random) -> Outcome:
    """A copy of a run's folder, as on another machine, is continued while the run goes on; its owner is then killed."""
    if reason := _postgres.why_not():
        raise Impossible(reason)
    with _postgres.server() as server:
        search = Search(work, seconds=0.02, budget=30, storage=server.url())
        process = search.start()
        search.wait_for(10, process)
        copy = Search(work, place=work / "copy", budget=30, storage=server.url())
        shutil.copytree(search.run, copy.run)
        second = copy.end(copy.start())
        process.kill()
        process.join()
        search.faults += 1
        if second != 1:
            raise RuntimeError(search.printed()[-3000:])
        search.finish()
        return search.outcome("is working on study")


def signalled(name: str, stage: str) -> Callable[[Path, random.Random], Outcome]:
    """Return the fault of a signal at a stage of the search."""

    def fault(work: Path, rng: random.Random) -> Outcome:
        search = Search(work, budget=8)
        once = stage in ("reading images", "opening the study", "a finalist", "the report")
        code = search.end(search.start(at=f"{name} {stage} {1 if once else rng.randint(2, 6)}"))
        search.faults += 1
        if code != 128 + signal.Signals[name]:
            raise RuntimeError(f"exit code {code}: {search.printed()[-3000:]}")
        if (search.run / "manifest.json").exists():
            search.look()
        search.finish()
        return search.outcome("^(Interrupted|Terminated)")

    return fault


def locked_database(work: Path, rng: random.Random) -> Outcome:
    """Another process holds the SQLite file locked until the search gives up."""
    search = Search(work, seconds=0.01)
    process = search.start()
    search.wait_for(rng.randint(10, 150), process)
    with closing(sqlite3.connect(search.run / "study.db", timeout=30)) as other:
        other.execute("BEGIN IMMEDIATE")
        code = search.end(process)
    search.faults += 1
    if code != 1:
        raise RuntimeError(search.printed()[-3000:])
    search.look()
    search.finish()
    return search.outcome("database is locked")


def full_disk(work: Path, rng: random.Random) -> Outcome:
    """The run's file system of 1 MiB is full; then it is given more room."""
    with _mounted(work, "size=1m") as place:
        search = Search(work, place=place)
        codes = [search.end(search.start())]
        search.faults += 1
        search.look()
        _remount(place, "size=64m")
        search.finish()
        if codes != [1]:
            raise RuntimeError(search.printed()[-3000:])
        return search.outcome("No space left|disk is full|disk I/O")


def read_only(work: Path, rng: random.Random) -> Outcome:
    """The run's file system becomes read-only while the search is stopped; then it can be written again."""
    with _mounted(work, "size=64m") as place:
        search = Search(work, place=place)
        search.stopped(rng.randint(10, 100))
        _remount(place, "ro")
        code = search.end(search.start())
        _remount(place, "rw")
        if code != 1:
            raise RuntimeError(search.printed()[-3000:])
        search.look()
        search.finish()
        return search.outcome("Read-only file system|writable")


@contextmanager
def _mounted(work: Path, options: str) -> Iterator[Path]:
    """Mount a file system in memory while the body runs."""
    place = work / "mounted"
    place.mkdir(parents=True)
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", place], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise Impossible(f"no file system can be mounted here ({done.stderr.strip() or done.returncode})")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", place], check=True)


def _remount(place: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", place], check=True)


def damaged(name: str, mend: str, pattern: str) -> Callable[[Path, random.Random], Outcome]:
    """Return the fault of a file of a run that is cut off in its middle.

    Args:
        name: Of the file; the first that fits. mend: What the user does: `put back`, `delete`, or nothing.
        pattern: Of the message.
    """

    def fault(work: Path, rng: random.Random) -> Outcome:
        search = Search(work, budget=20)
        search.stopped(rng.randint(8, 12))
        path = sorted(search.run.glob(name))[0]
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        if search.end(search.start()) == 0:
            return search.outcome(pattern)
        if mend == "put back":
            path.write_bytes(whole)
        elif mend == "delete":
            path.unlink()
            search.faults += 3  # the phases of that training are run again, as the message says
        search.finish()
        return search.outcome(pattern)

    return fault


def faulty_network(how: str, pattern: str, *options: str) -> Callable[[Path, random.Random], Outcome]:
    """Return the fault of a network that misbehaves in a search of real, very short trainings.

    Args:
        pattern: Of the message. options: Of the command that continues, where the search ends.
    """

    def fault(work: Path, rng: random.Random) -> Outcome:
        search = Search(work, budget=4, network=how)
        code = search.end(search.start(options=("--trial-timeout", "1.5") if how == "hang" else ()))
        if (code != 0) != bool(options):
            raise RuntimeError(f"exit code {code}: {search.printed()[-3000:]}")
        search.look()
        if options and search.end(search.start(options=options)):
            raise RuntimeError(search.printed()[-3000:])
        return search.outcome(pattern)

    return fault


def photos(folder: Path) -> Path:
    """Write a few images of three classes."""
    rng = np.random.default_rng(0)
    for channel, name in enumerate(("red", "green", "blue")):
        (folder / name).mkdir(parents=True)
        for number in range(40):
            pixels = rng.integers(0, 120, (16, 16, 3)).astype(np.uint8)
            pixels[:, :, channel] += 100
            Image.fromarray(pixels).save(folder / name / f"{number:03}.png")
    return folder


def broken_image(work: Path, rng: random.Random) -> Outcome:
    """An image is cut off while the search is stopped; then it is put back."""
    search = Search(work, budget=20, data=str(photos(work / "photos")))
    search.stopped(10)
    path = rng.choice(sorted((work / "photos").rglob("*.png")))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    if search.end(search.start()) != 1:
        raise RuntimeError(search.printed()[-3000:])
    path.write_bytes(whole)
    search.look()
    search.finish()
    return search.outcome(rf"{path.name}: .*(Repair|remove)")


def broken_source(work: Path, rng: random.Random) -> Outcome:
    """A data source of the user's own raises in the middle of its images; then it is mended."""
    search = Search(work, budget=8, data="broken_images:images")
    source = SOURCE.format(broken=rng.randint(5, 110))
    work.mkdir(parents=True)
    (work / "broken_images.py").write_text(source)
    if search.end(search.start()) != 1:
        raise RuntimeError(search.printed()[-3000:])
    (work / "broken_images.py").write_text(source.replace("raise OSError", "OSError"))
    search.finish()
    return search.outcome("the network share is gone")


def changed_pack(work: Path, rng: random.Random) -> Outcome:
    """A byte of the packed images changes on the disk while the search is stopped; they are packed again."""
    search = Search(work, budget=20, data=str(photos(work / "photos")), cache=work / "cache")
    search.stopped(10)
    (path,) = (work / "cache").glob("packs/*/train.npy")
    whole = path.read_bytes()
    place = rng.randrange(len(whole) // 2, len(whole))
    path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    search.finish()
    if path.read_bytes() != whole:
        raise RuntimeError("the search went on with other pixels")
    return search.outcome("winner")


FAULTS: dict[str, Callable[[Path, random.Random], Outcome]] = {
    "kill -9 of the owner, four times": killed_owner,
    "kill -9 of a worker, twice": killed_worker,
    "kill -9 of PostgreSQL": killed_database,
    "no password for PostgreSQL": lost_password,
    "two owners of a folder": two_owners,
    "two owners of a study in PostgreSQL": two_owners_of_a_study,
    "SQLite locked by another process": locked_database,
    "full disk": full_disk,
    "read-only folder": read_only,
    "truncated manifest": damaged("manifest.json", "put back", r"manifest\.json: cannot be read"),
    "truncated study": damaged("study.db", "put back", r"study\.db"),
    "truncated checkpoint": damaged("checkpoints/*.pt", "delete", r"cannot be read as a checkpoint"),
    "a network that gives NaN": faulty_network("nan", r"^\s*\d+ diverged"),
    "a network that has no memory": faulty_network("memory", r"^\s*\d+ out_of_memory"),
    "a network that raises": faulty_network("raise", "the program failed", "--skip-bugs"),
    "a network that hangs in a step": faulty_network("hang", "one step has not ended", "--devices", "cpu:1"),
    "an image that breaks": broken_image,
    "a data source that raises": broken_source,
    "packed images that change": changed_pack,
    "truncated trials.csv": damaged("trials.csv", "nothing", "winner"),
}
"""The faults, by what the table calls them."""

for _stage in STAGES:
    for _name, _word in (("SIGINT", "Ctrl-C"), ("SIGTERM", "SIGTERM")):
        FAULTS[f"{_word}: {_stage}"] = signalled(_name, _stage)
