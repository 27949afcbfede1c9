"""Faults that are really done to searches, and what they cost: for `benchmarks.faults` and the tests marked `chaos`."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks import _postgres
from benchmarks._fault_runs import Outcome, Search
from benchmarks._fault_search import STAGES

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
    return search.outcome("")


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
    return search.outcome("")


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
    "truncated trials.csv": damaged("trials.csv", "nothing", ""),
}
"""The faults, by what the table calls them."""

for _stage in STAGES:
    for _name, _word in (("SIGINT", "Ctrl-C"), ("SIGTERM", "SIGTERM")):
        FAULTS[f"{_word}: {_stage}"] = signalled(_name, _stage)
