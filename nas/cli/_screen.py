"""What commands that take long print on: a console, and a bar that is taken down on errors too."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

LOG_WIDTH = 200
"""Columns where no terminal sets a width: tables are not to be folded at 80 in a log."""


class Screen:
    """A console with a bar; used as a context.

    Args:
        before, after: Columns around the bar's own. stderr: Print there. label: Width of the labels of lines.
        fields: Of the bar's task, for the columns.
    """

    def __init__(
        self,
        *,
        before: tuple[ProgressColumn, ...] = (),
        after: tuple[ProgressColumn, ...] = (),
        stderr: bool = False,
        label: int = 9,
        **fields: Any,
    ) -> None:
        self._console = make_console(stderr=stderr)
        self._label = label
        self._bar = Progress(
            *before,
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            *after,
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,  # in a log a bar is only empty lines
        )
        self._task = self._bar.add_task("preparing", total=None, **fields)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def packing(self, done: int, total: int) -> None:
        """Show how many images have been decoded."""
        self._bar.update(self._task, description="packing images", completed=done, total=total)

    def _say(self, label: str, text: str, style: str = "") -> None:
        """Print a line behind its label. Text is never read as markup: a folder may be called `[run]`."""
        self._console.print(Text.assemble((f"{label:{self._label}s}", "bold"), (text, style)))


def make_console(*, stderr: bool = False) -> Console:
    """Return a console that reads no markup into what it prints and folds nothing."""
    console = Console(stderr=stderr, highlight=False, soft_wrap=True, markup=False)
    if not console.is_terminal:
        console.width = LOG_WIDTH
    return console
