"""The run folder: what a command was asked to do, written before it does it, and files that are whole or absent."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO, Any, TypeVar

from nas.errors import RunError, UsageError
from nas.owner import BEFORE, TEMPORARY

T = TypeVar("T")

MANIFEST_VERSION = 1

SAME_RESULTS = (
    "data.fingerprint",
    "data.used_train_images",
    "data.used_val_images",
    "recipe",
    "device",
    "torch",
    "baseline.hash",
)
"""What two runs must share, by its keys in the manifest, for their accuracies and step times to compare."""

MUST_MATCH = ("space_hash", *SAME_RESULTS, "reward", "limits", "seed", "sampler", "pruner")
"""What a continued run must share with its start."""

_NUMBER = (int, float)

SEARCH_KEYS: Mapping[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("config", "recipe", "data", "device", "versions"), dict),
    **dict.fromkeys(("created", "command", "space", "space_hash", "sampler", "pruner", "baseline.name"), str),
    **dict.fromkeys(("baseline.num_params", "reward.w", "reward.v", "recipe.epochs", "recipe.batch_size"), _NUMBER),
    **dict.fromkeys(("data.name", "data.fingerprint", "device.type", "device.name", "recipe.name"), str),
    **dict.fromkeys(("config.space", "config.data"), str),
    **dict.fromkeys(("config.budget", "config.top_k", "recipe.progressive.phases", "seed", "data.classes"), int),
    **dict.fromkeys((f"data.{used}{split}_images" for used in ("", "used_") for split in ("train", "val")), int),
    **dict.fromkeys(("data.notes", "recipe.progressive.size"), list),
}
"""What the manifest of a search must hold for the run to be read or continued, by key."""

TRAIN_KEYS: Mapping[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("arch", "config", "recipe", "data", "device"), dict),
    **dict.fromkeys(("arch.hash", "recipe.name", "data.name", "data.fingerprint", "config.data"), str),
    **dict.fromkeys(("seed", "resolution", "test_resolution"), int),
    **dict.fromkeys(
        (f"data.{name}" for name in ("classes", "channels", "stored_size", "train_images", "val_images")), int
    ),
    **dict.fromkeys(("data.class_names", "data.mean", "data.std", "data.notes"), list),
}
"""What the manifest of a training must hold for its network to be used, by key."""


@dataclass(frozen=True)
class Run:
    """A run folder and its manifest."""

    folder: Path
    manifest: Mapping[str, Any]

    def path(self, name: str) -> Path:
        """Return the path of a file of the run."""
        return self.folder / name


def new_folder(root: Path | None, kind: str, label: str, out: Path | None = None) -> Path:
    """Make the folder of a new run, before any other work, and show that it can be written.

    Args:
        root: Folder of all runs (default `results`); the new folder is named by time, kind and label.
        out: The folder itself, in place of a generated name.

    Raises:
        RunError: the folder cannot be made or written, or is not empty.
    """
    label = re.sub(r"[^A-Za-z0-9_.-]+", "-", label).strip("-").lower()
    base = (root or Path("results")) / f"{datetime.now():%Y%m%d-%H%M%S}-{kind}-{label}"
    folder = out or base
    for attempt in range(2, 100):
        if out is not None or not folder.exists():
            break
        folder = base.with_name(f"{base.name}-{attempt}")
    if (folder / "manifest.json").exists():
        raise RunError(f"{folder}: holds a run already. Continue it with --resume {folder}, or name another folder.")
    there = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if ".lock" in there:  # of a run that was killed before it began
        there = {name for name in there if name not in BEFORE and not name.endswith(TEMPORARY)}
    if there:
        raise RunError(
            f"{folder}: is not empty (it holds {min(there)}) and no run; a run has a folder of its own. Name a new folder "
            "or an empty one with --out."
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise RunError(
            f"{folder}: cannot be made or written ({error.strerror}). Give a folder that can be written with --out."
        ) from None
    return folder


def create(folder: Path, kind: str, manifest: Mapping[str, Any]) -> Run:
    """Write the manifest of a new run into its folder.

    Raises:
        RunError: the folder cannot be written.
    """
    content = {
        "manifest_version": MANIFEST_VERSION,
        "kind": kind,
        "created": datetime.now().astimezone().isoformat(timespec="seconds"),
        "host": socket.gethostname(),
        "git": git_revision(),
        **manifest,
    }
    run = Run(folder, content)
    write_json(run.path("manifest.json"), content)
    return run


def update(run: Run, changes: Mapping[str, Any]) -> Run:
    """Return the run with some keys of its manifest changed, written if they are."""
    content = {**run.manifest, **json.loads(json.dumps(changes))}
    if content != run.manifest:
        write_json(run.path("manifest.json"), content)
    return Run(run.folder, content)


def open_run(folder: str | os.PathLike[str]) -> Run:
    """Open an existing run folder.

    Raises:
        RunError: no such folder, no manifest in it, or one of another version.
    """
    path = Path(folder)
    manifest = path / "manifest.json"
    if not manifest.is_file():
        what = "not a run folder (it has no manifest.json)" if path.is_dir() else "no such folder"
        raise RunError(f"{path}: {what}. Runs lie under results/ unless --out named another place.")
    content = read_json(manifest, dict, "Put it back from a copy: without it the run cannot be read or continued.")
    if content.get("manifest_version") != MANIFEST_VERSION:
        made_by = _at(content, "versions.phinas")
        raise RunError(
            f"{manifest}: written by another version (manifest_version {content.get('manifest_version')}; "
            f"this program reads {MANIFEST_VERSION}). Use the version that made the run"
            f"{f': pip install phinas=={made_by}' if made_by else ''}."
        )
    return Run(path, content)


def open_search(folder: str | os.PathLike[str]) -> Run:
    """Open the run folder of a search.

    Raises:
        RunError: no run there, or its manifest lacks something. UsageError: not a search.
    """
    return _open_kind(folder, "search", "search", SEARCH_KEYS)


def open_training(folder: str | os.PathLike[str]) -> Run:
    """Open the run folder of a training.

    Raises:
        RunError: no run there, or its manifest lacks something. UsageError: not a training.
    """
    return _open_kind(folder, "train", "training", TRAIN_KEYS)


def _open_kind(
    folder: str | os.PathLike[str], kind: str, word: str, keys: Mapping[str, type | tuple[type, ...]]
) -> Run:
    run = open_run(folder)
    found = run.manifest.get("kind")
    if found is not None and found != kind:
        raise UsageError(f"{folder}: is a {found} run, not a {word}. Name the folder of a {word}.")
    for key, kinds in {"kind": str, **keys}.items():
        value = _at(run.manifest, key)
        if not isinstance(value, kinds):
            raise RunError(
                f"{run.path('manifest.json')}: {key}: found {_short(value) if value is not None else 'nothing'}; the "
                f"manifest of a {word} has it. Put the file back from a copy: without it the run cannot be read or continued."
            )
    return run


def read_json(path: Path, kind: type[T], remedy: str) -> T:
    """Read a JSON file of a run.

    Args:
        kind: What it must hold. remedy: What to do where it does not, as the end of a message.

    Raises:
        RunError: it cannot be read.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, kind):
            raise ValueError(f"found {type(content).__name__}, not {kind.__name__}")
    except (OSError, ValueError, RecursionError) as error:  # the last of lists in thousands of levels
        raise RunError(f"{path}: cannot be read ({error}). {remedy}") from None
    return content


def latest(root: Path | None = None, kind: str = "search") -> Path:
    """Return the newest run of a kind under a folder; published runs do not count.

    Raises:
        RunError: there is none.
    """
    base = root or Path("results")
    found = []
    for manifest in base.glob("*/manifest.json"):  # one level down: never below published/
        if manifest.parent.name == "published":
            continue
        run = open_run(manifest.parent)
        if run.manifest.get("kind") == kind:
            try:
                found.append((datetime.fromisoformat(str(run.manifest.get("created"))), run.folder))
            except ValueError:
                raise RunError(f"{manifest}: created: found no time. Name the run folder that you mean.") from None
    if not found:
        raise RunError(f"{base}: holds no {kind} run. Make one with `nas {kind}`, or name a run folder.")
    return max(found)[1]


def check_same(run: Run, now: Mapping[str, Any], keys: Sequence[str] = MUST_MATCH, what: str = "continued") -> None:
    """Refuse to continue a run, or to use it otherwise, under other conditions.

    Args:
        keys: Of the manifest, that must be the same. what: What cannot be done otherwise.

    Raises:
        RunError: names each thing that differs.
    """
    differs = []
    for key in keys:
        before, after = (_at(content, key) for content in (run.manifest, json.loads(json.dumps(now))))
        if before != after:
            differs += _differences(key, before, after)
    if differs:
        raise RunError(
            f"{run.folder}: cannot be {what}, for its measurements would not compare: {'; '.join(differs)}. "
            "Start a new run, or give the same space, data, recipe and device."
        )


def write_text(path: Path, text: str) -> None:
    """Write a file whole: into a temporary file beside it, to the disk, then renamed over it.

    Raises:
        RunError: it cannot be written (a full disk, a read-only folder); the old file is as it was.
    """
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes | memoryview) -> None:
    """Write a file whole, as `write_text` does.

    Raises:
        RunError: as there.
    """
    with being_written(path, "then continue with --resume (nas scale: the same command again)") as file:
        file.write(content)


@contextmanager
def being_written(path: Path, remedy: str) -> Iterator[IO[bytes]]:
    """Yield a file that takes the place of `path` when the body ends well, and is deleted when it does not.

    Args:
        remedy: What to do after space was made, as the end of a message.

    Raises:
        RunError: as `write_text` does. An `OSError` of the body is taken for one of the file.
    """
    handle = None
    try:
        descriptor, handle = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-", suffix=TEMPORARY)
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(handle, 0o644)
        os.replace(handle, path)
        handle = None
    except OSError as error:
        raise RunError(
            f"{path}: cannot be written ({error.strerror}). Free space or make the folder writable; {remedy}."
        ) from None
    finally:
        if handle is not None:
            Path(handle).unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Write plain data as JSON, whole or not at all."""
    write_text(path, json.dumps(content, indent=2, sort_keys=False) + "\n")


def git_revision() -> str | None:
    """Return the revision of the working folder's repository (`-dirty` if changed), or None outside one."""
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip() or None


def _at(content: Any, key: str) -> Any:
    for part in key.split("."):
        content = content.get(part) if isinstance(content, dict) else None
    return content


def _differences(where: str, before: Any, after: Any) -> list[str]:
    """Return what differs, down to the values."""
    if isinstance(before, dict) and isinstance(after, dict):
        keys = [key for key in {**before, **after} if before.get(key) != after.get(key)]
        return [line for key in keys for line in _differences(f"{where}.{key}", before.get(key), after.get(key))]
    return [f"{where}: the run has {_short(before)}, now {_short(after)}"]


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) < 120 else text[:117] + "..."
