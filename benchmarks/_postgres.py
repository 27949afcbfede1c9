"""A PostgreSQL server of one's own, in a folder of its own, that can be killed: for tests and for `benchmarks.faults`."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

PASSWORD = "s3cret-word"


def programs() -> Path | None:
    """Return the folder of PostgreSQL's programs; None where it is not installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    by_name = shutil.which("postgres")
    place = Path(by_name).resolve() if by_name else found[-1] if found else None
    return place.parent if place is not None and (place.parent / "initdb").is_file() else None


def why_not() -> str:
    """Return why no server can be started here; empty where one can."""
    if programs() is None:
        return "PostgreSQL is not installed (no postgres and initdb on PATH or in /usr/lib/postgresql)"
    return ""


@dataclass
class Server:
    """A server that listens on 127.0.0.1, and asks for a password."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    def url(self, password: str = f":{PASSWORD}") -> str:
        """Return the URL of its database."""
        return f"postgresql://nas{password}@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        """Start the server, and wait until it answers.

        Raises:
            RuntimeError: it does not within half a minute.
        """
        bin_folder = programs()
        assert bin_folder is not None
        with open(self.folder / "log", "ab") as log:
            self.process = _run_as_nobody(
                [
                    bin_folder / "postgres",
                    "-D",
                    self.folder / "data",
                    "-p",
                    self.port,
                    "-k",
                    self.folder,
                    "-h",
                    "127.0.0.1",
                ],
                log,
            )
        for _ in range(300):
            ready = subprocess.run(
                [bin_folder / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.port)], check=False
            )
            if ready.returncode == 0:
                return
            time.sleep(0.1)
        raise RuntimeError((self.folder / "log").read_text())

    def kill(self) -> None:
        """End the server and all its processes with SIGKILL, as a power cut would."""
        assert self.process is not None
        for process in [self.process.pid, *_children(self.process.pid)]:
            try:
                os.kill(process, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self.process.wait()
        self.process = None


@contextmanager
def server() -> Iterator[Server]:
    """Run a server while the body runs."""
    folder = Path(tempfile.mkdtemp(prefix="nas-postgres-"))  # not below a folder that only its owner may enter
    try:
        if os.getuid() == 0:
            shutil.chown(folder, "nobody")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            made = Server(folder, free.getsockname()[1])
        (folder / "password").write_text(PASSWORD)
        bin_folder = programs()
        assert bin_folder is not None
        words = [bin_folder / "initdb", "-D", folder / "data", "-U", "nas", "-A", "scram-sha-256", "--no-sync"]
        with open(folder / "log", "ab") as log:
            if _run_as_nobody([*words, f"--pwfile={folder / 'password'}"], log).wait():
                raise RuntimeError((folder / "log").read_text())
        made.start()
        try:
            yield made
        finally:
            if made.process is not None:
                made.kill()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _run_as_nobody(words: list[object], log: object) -> subprocess.Popen[bytes]:
    """Start a program, as another user where this is root: PostgreSQL refuses to be run by root."""
    other = {"user": "nobody", "group": "nogroup", "extra_groups": []} if os.getuid() == 0 else {}
    return subprocess.Popen([str(word) for word in words], stdout=log, stderr=log, cwd="/", **other)  # type: ignore[call-overload, no-any-return]


def _children(owner: int) -> list[int]:
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(entry.read_text().rsplit(")", 1)[1].split()[1]) == owner:
                found.append(int(entry.parent.name))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found
