"""Every export is loaded again in a fresh process, and its scores are compared with those of its source."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
import torch

import nas
from nas.data.augment import eval_batch
from nas.errors import ExportError
from nas.export import _reload
from nas.export._base import BLOCKED, EXPORTERS, Array, Subject
from nas.train.loop import DeviceData

RANDOM_BATCHES = (8, 1, 3)
"""Random images in a batch: a format that fixes the size of a batch is found out."""

PIXELS = 4_000_000
"""Pixels of a batch of real images, at most: small images go through in hundreds, large ones one by one."""


@dataclass(frozen=True)
class Check:
    """What a reloaded export showed.

    Args:
        format: Its name. allowed: Largest difference that passes, as a share of the largest score of the batch.
        difference: Largest difference seen, likewise. random_images: Random images compared.
        val_images: Validation images compared; 0 where none were named. accuracy, source_accuracy: 0..1 on them, of the export
            and of its source, evaluated in the same way. changed: Images whose named class is another one; with a difference
            this small these are ties between two classes.
    """

    format: str
    allowed: float
    difference: float
    random_images: int
    val_images: int
    accuracy: float | None
    source_accuracy: float | None
    changed: int


class Fresh:
    """An export, loaded in a process that cannot import what the format does without."""

    def __init__(self, name: str, subject: Subject, folder: Path) -> None:
        self.name = name
        exporter = EXPORTERS[name]
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  # closed in `__exit__`
        # -I: no user site, no environment variables, not the current folder; -B: nothing is written beside the export.
        command = [sys.executable, "-I", "-B", str(_reload.__file__)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log)
        job = {
            "reload": textwrap.dedent(inspect.getsource(exporter.reload)),
            "folder": str(folder.resolve()),
            "name": subject.name,
            "blocked": [package for package in BLOCKED if package not in exporter.imports],
            "path": [str(Path(nas.__file__).parents[1])] if "nas" in exporter.imports else [],
        }
        self._send(json.dumps(job).encode() + b"\n")

    def __enter__(self) -> Fresh:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()
        self._log.close()

    def scores(self, images: Array) -> Array:
        """Return the scores of a batch: float32, (N, num_classes).

        Raises:
            ExportError: the export cannot be loaded or fails.
        """
        self._send(json.dumps(images.shape).encode() + b"\n" + np.ascontiguousarray(images, np.float32).tobytes())
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise self._failed()
        shape = json.loads(line)
        content = self._process.stdout.read(4 * int(np.prod(shape)))
        return np.frombuffer(content, np.float32).reshape(shape)

    def _send(self, content: bytes) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(content)
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._failed() from None

    def _failed(self) -> ExportError:
        self._process.wait()
        self._log.seek(0)
        said = self._log.read().decode(errors="replace").strip().splitlines() or ["it said nothing"]
        return ExportError(
            f"{self.name}: the written files cannot be loaded and run in a fresh process ({said[-1]}). Nothing was kept; the "
            "format's packages may not fit each other, otherwise please report this architecture."
        )


def check(
    subject: Subject,
    formats: Sequence[str],
    folder: Path,
    data: DeviceData | None,
    progress: Callable[[int, int], None],
) -> list[Check]:
    """Compare what was written with its source, on random and on real images.

    Args:
        data: Validation images; None compares random ones alone. progress: Called with (images compared, all of them).

    Raises:
        ExportError: an export cannot be loaded, or its scores differ by more than its format allows.
    """
    total = sum(RANDOM_BATCHES) + (0 if data is None else len(data.val_labels))
    counts = {name: _Count() for name in formats}
    done = 0
    with ExitStack() as stack:
        processes = [stack.enter_context(Fresh(name, subject, folder)) for name in formats]
        for images, labels in _batches(subject, data):
            with torch.inference_mode():
                expected = subject.network(torch.from_numpy(images)).numpy()
            for process in processes:
                counts[process.name].add(process, expected, process.scores(images), labels)
            done += len(images)
            progress(done, total)
    return [count.result(name) for name, count in counts.items()]


@dataclass
class _Count:
    difference: float = 0.0
    images: int = 0
    right: int = 0
    source_right: int = 0
    changed: int = 0

    def add(self, process: Fresh, expected: Array, found: Array, labels: Array | None) -> None:
        """Compare a batch.

        Raises:
            ExportError: it differs.
        """
        allowed = EXPORTERS[process.name].tolerance
        if found.shape != expected.shape:
            raise ExportError(
                f"{process.name}: the reloaded export answers {found.shape}, its source {expected.shape}. {_KEPT}"
            )
        difference = float(np.abs(found - expected).max() / max(float(np.abs(expected).max()), 1e-12))
        if not difference <= allowed:  # not a number is no smaller than anything
            raise ExportError(
                f"{process.name}: the reloaded export is not its source: scores differ by {difference:.2g} of the largest, "
                f"{allowed:g} is allowed. {_KEPT}"
            )
        self.difference = max(self.difference, difference)
        if labels is not None:
            named, source = found.argmax(1), expected.argmax(1)
            self.images += len(labels)
            self.right += int((named == labels).sum())
            self.source_right += int((source == labels).sum())
            self.changed += int((named != source).sum())

    def result(self, name: str) -> Check:
        """Return what was seen."""
        return Check(
            format=name,
            allowed=EXPORTERS[name].tolerance,
            difference=self.difference,
            random_images=sum(RANDOM_BATCHES),
            val_images=self.images,
            accuracy=self.right / self.images if self.images else None,
            source_accuracy=self.source_right / self.images if self.images else None,
            changed=self.changed,
        )


_KEPT = "Nothing was kept; please report this architecture."


def _batches(subject: Subject, data: DeviceData | None) -> Iterator[tuple[Array, Array | None]]:
    channels, size, _ = subject.shape
    generator = np.random.default_rng(0)
    for count in RANDOM_BATCHES:
        yield generator.standard_normal((count, channels, size, size), np.float32), None
    if data is None:
        return
    step = max(1, min(250, PIXELS // (size * size)))
    for first in range(0, len(data.val_labels), step):
        index = slice(first, first + step)
        images = eval_batch(data.val_images[index], resolution=size, mean=data.mean, std=data.std)
        yield images.contiguous().numpy(), data.val_labels[index].numpy()
