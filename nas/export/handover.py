"""One hand-over, from a run or an architecture to a folder that does not need `nas`."""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

import nas
from nas.errors import UsageError
from nas.export._base import EXPORTERS, CannotExpress, facts
from nas.export._card import card
from nas.export._check import Check, check
from nas.export._folder import MARK, check_target, written
from nas.export._subject import Source, is_run, of_arch, of_run, of_train_run
from nas.export.trained import kind_of

ALL = "all"


@dataclass(frozen=True)
class Exported:
    """What was handed over.

    Args:
        folder: Where it lies. next: A command that shows what was written. files: Of each format.
        checks: What the reloaded files showed. left_out: Formats that cannot express the network, and why; only where all were
            asked for.
    """

    folder: Path
    next: str
    files: dict[str, tuple[str, ...]]
    checks: tuple[Check, ...]
    left_out: dict[str, str]


class Watcher:
    """Whoever wants to see an export go on overrides what interests them."""

    def packing(self, done: int, total: int) -> None:
        """Images have been decoded."""

    def step(self, sentence: str) -> None:
        """Something begins."""

    def compared(self, done: int, total: int) -> None:
        """Images have been compared."""


def export(
    source: str | os.PathLike[str],
    formats: Sequence[str] = ("torch",),
    *,
    out: Path | None = None,
    overwrite: bool = False,
    trial: str | None = None,
    weights: Path | None = None,
    random_weights: bool = False,
    data: str | None = None,
    watcher: Watcher | None = None,
) -> Exported:
    """Write a network with its weights into a folder, in formats that do not need `nas`, and check every one.

    Args:
        source: A run folder, for its winner or what it trained; or an architecture, by name or YAML file.
        formats: Names of `EXPORTERS`, or `all`.
        out: The folder; RUN/export or results/export-NAME unless given.
        overwrite: Replace an earlier export there.
        trial: Of a search another finalist than the winner: number or hash.
        weights, random_weights: Of an architecture, which has none.
        data: Of a run where its images lie now; of an architecture the images it is meant for.

    Raises:
        NasError: one of its kinds. Nothing is left behind then.
    """
    watcher = watcher or Watcher()
    names = _formats(formats)
    if is_run(source):
        if weights is not None or random_weights:
            raise UsageError(
                f"--weights, --random-weights: {source} is a run and has weights of its own. Leave them out."
            )
        target = out or Path(source) / ("export" if trial is None else f"export-{trial}")
        kind = kind_of(Path(source))
        if kind == "train" and trial is not None:
            raise UsageError(f"--trial: belongs to a search; {source} is a training of one network. Leave it out.")
        check_target(target, overwrite)
        if kind == "train":
            found = of_train_run(Path(source), data=data, progress=watcher.packing)
        else:
            found = of_run(Path(source), trial=trial, data=data, progress=watcher.packing)
    else:
        if trial is not None:
            raise UsageError(f"--trial: belongs to a run; {source} is an architecture. Leave it out.")
        target = out or Path("results") / f"export-{Path(source).stem}"
        check_target(target, overwrite)
        found = of_arch(
            os.fspath(source), weights=weights, random_weights=random_weights, data=data, progress=watcher.packing
        )
    with written(target, overwrite) as folder:
        files, left_out = _write(found, names, folder, watcher, may_leave_out=ALL in formats)
        watcher.step(f"loading {', '.join(files)} again, each in a fresh process")
        checks = check(found.subject, list(files), folder, found.data, watcher.compared)
        (folder / "README.md").write_text(card(found, files, checks, left_out), encoding="utf-8")
        (folder / MARK).write_text(json.dumps(_record(found, files, checks), indent=2) + "\n", encoding="utf-8")
    example = EXPORTERS[next(iter(files))].example.format(
        folder=shlex.quote(str(target)), name=found.subject.name, model=found.subject.model
    )
    return Exported(target, example, files, tuple(checks), left_out)


def _formats(formats: Sequence[str]) -> list[str]:
    """Return the exporters asked for, each once, and refuse those whose packages are not installed."""
    names = list(EXPORTERS) if ALL in formats else list(dict.fromkeys(formats))
    for name in names:
        exporter = EXPORTERS[name]
        absent = [package for package in exporter.packages if importlib.util.find_spec(package) is None]
        if absent:
            raise UsageError(
                f"--format {name}: {', '.join(absent)} not installed, and needed to write and check it. "
                f"Run: pip install 'phinas[{exporter.extra}]'"
            )
    return names


def _write(
    source: Source, names: Sequence[str], folder: Path, watcher: Watcher, may_leave_out: bool
) -> tuple[dict[str, tuple[str, ...]], dict[str, str]]:
    subject = source.subject
    files: dict[str, tuple[str, ...]] = {}
    left_out: dict[str, str] = {}
    for name in names:
        watcher.step(f"writing {name}")
        try:
            files[name] = EXPORTERS[name].write(subject, folder)
        except CannotExpress as error:
            if not may_leave_out:
                raise
            left_out[name] = str(error)
            watcher.step(f"{name} is left out: {error}")
    text = yaml.safe_dump(subject.spec.document(), sort_keys=False)
    (folder / "architecture.yaml").write_text(text, encoding="utf-8")
    if subject.images is not None:
        (folder / "labels.txt").write_text("\n".join(subject.images.classes) + "\n", encoding="utf-8")
    return files, left_out


def _record(source: Source, files: dict[str, tuple[str, ...]], checks: Sequence[Check]) -> dict[str, Any]:
    """Return what the folder says of itself to programs."""
    images = source.subject.images
    return {
        "export_version": 1,
        "created": datetime.now().astimezone().isoformat(timespec="seconds"),
        "name": source.subject.name,
        **facts(source.subject),
        "data": None if images is None else {"name": images.name, "fingerprint": images.fingerprint},
        "files": files,
        "checks": [asdict(item) for item in checks],
        "versions": {"phinas": nas.__version__, "python": platform.python_version(), "torch": version("torch")},
    }
