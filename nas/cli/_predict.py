"""`nas predict`: the classes of images as a CSV file, and the accuracy where folders say what they are."""

from __future__ import annotations

import csv
import io
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import click
from rich.console import Console
from rich.progress import TimeRemainingColumn
from rich.table import Table

from nas import runs
from nas.cli._screen import Screen
from nas.data import loose
from nas.devices import pick_device
from nas.errors import DataError
from nas.predict import Score, header, load_trained, predict, row

EVERY_S = 30.0
"""Seconds between two lines of progress where there is no terminal."""

Write = Callable[[Sequence[str]], None]


class Bar(Screen):
    """A bar on a terminal's stderr, and a line now and then in a log; used as a context."""

    def __init__(self) -> None:
        super().__init__(after=(TimeRemainingColumn(),), stderr=True)
        self.console = self._console
        self._said = time.monotonic()

    def show(self, what: str, done: int, total: int) -> None:
        """Show how far something is."""
        self._bar.update(self._task, description=what, completed=done, total=total)
        if not self.console.is_terminal and time.monotonic() - self._said >= EVERY_S:
            self._said = time.monotonic()
            self.console.print(f"{what}: {done:,} of {total:,}")


def run(
    source: str,
    images: Sequence[Path],
    *,
    out: Path | None,
    top: int,
    batch_size: int | None,
    device: str,
    weights: Path | None,
    data: str | None,
    skip_broken: bool,
) -> None:
    """Predict, and write or print."""
    where = pick_device(device)
    found = loose.find(images)
    done, broken = 0, 0
    with Bar() as bar:
        trained = load_trained(
            source, weights=weights, data=data, progress=lambda done, total: bar.show("packing images", done, total)
        )
        assert trained.images is not None
        score = Score(trained.images.classes)
        with _table(out) as write:
            answers = predict(trained, found, top=top, batch_size=batch_size, device=where, skip_broken=skip_broken)
            for answer in answers:
                if not done + broken:
                    write(header(top))
                if isinstance(answer, loose.Broken):
                    broken += 1
                    bar.console.print(f"left out: {loose.one_line(answer.where)} ({answer.reason})")
                else:
                    done += 1
                    write(row(answer))
                    score.add(answer)
                bar.show("images", done + broken, found.count)
            if not done:
                raise DataError(
                    f"{shlex.join(map(str, images))}: none of the {broken} images can be read; there is nothing to predict. "
                    "Check the files."
                )
    if broken:
        click.echo(f"{broken} of {done + broken} images could not be read; they are in no row and no count.", err=True)
    size = trained.resolution
    _accuracy(score, f"{size} x {size} pixels, {trained.origin}", to_stderr=out is None)
    data_of_run = trained.run.manifest["config"]["data"] if trained.run else None
    if score.images and data_of_run is not None:
        _point_out(loose.shared_with(data_of_run, found.paths), to_stderr=out is None)
    if out is not None:
        click.echo(f"predictions of {done} images: {out}")


@contextmanager
def _table(out: Path | None) -> Iterator[Write]:
    """Yield what writes a row: into a file that is whole or absent, or to stdout."""
    if out is None:
        try:
            yield lambda cells: click.echo(_line(cells), nl=False)
        except BrokenPipeError:  # who read the rows has enough of them; nothing more may be written, at the end neither
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(1)
        return
    if out.exists() and not out.is_file():
        raise DataError(f"{out}: is no regular file, and would be replaced. Name another file with --out.")
    if not out.parent.is_dir():
        raise DataError(f"{out}: {out.parent} is no folder. Make it, or name another file with --out.")
    with runs.being_written(out, "then predict again") as file:
        yield lambda cells: _to_file(file.write, cells)


def _to_file(write: Callable[[bytes], int], cells: Sequence[str]) -> None:
    write(_line(cells))


def _line(cells: Sequence[str]) -> bytes:
    """Return a line of CSV; names of files come out with the bytes that they have."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue().encode("utf-8", "surrogateescape")


def _accuracy(score: Score, where: str, *, to_stderr: bool) -> None:
    """Print accuracy by class and overall, where folders are named as classes."""
    rows = score.rows()
    if not rows:
        return
    stream = sys.stderr if to_stderr else sys.stdout
    console = Console(file=stream, highlight=False, markup=False)
    if not console.is_terminal:  # in a file nothing is cut off
        console = Console(file=stream, highlight=False, markup=False, width=200)
    grid = Table(box=None, header_style="bold", pad_edge=False)
    grid.add_column("class", overflow="fold")
    for head in ("images", "right", "accuracy", "error"):
        grid.add_column(head, justify="right")
    for place, (name, images, right, accuracy, error) in enumerate(rows, 1):
        style = "bold" if place == len(rows) else ""
        grid.add_row(name, f"{images:,}", f"{right:,}", f"{accuracy:.4f}", f"± {error:.4f}", style=style)
    console.print(grid)
    console.print(f"at {where}; a class is the folder that an image lies in; error: standard error of the accuracy")
    if score.elsewhere:
        console.print(
            f"{score.elsewhere:,} images lie in folders that are no class (such as {score.other!r}); not counted"
        )


def _point_out(shared: Sequence[Path], *, to_stderr: bool) -> None:
    """Say that an accuracy is of images that the network knows."""
    if shared:
        click.echo(
            f"{loose.one_line(shared[0])}: its images lie in the data of the training, or hold it; on images that it was "
            "trained on, or chosen by, the accuracy flatters the network.",
            err=to_stderr,
        )
