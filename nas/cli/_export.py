"""`nas export`: a network and its weights into a folder that does not need `nas`, each format checked."""

from __future__ import annotations

from pathlib import Path

from rich.text import Text

from nas import runs
from nas.cli._screen import Screen
from nas.export import Exported, Watcher, export


class ExportProgress(Screen, Watcher):
    """A watcher that prints; used as a context, so that the bar is taken down on errors too."""

    def __init__(self) -> None:
        super().__init__(label=12)

    def step(self, sentence: str) -> None:
        """Say what begins."""
        self._say("", sentence, "dim")
        self._bar.update(self._task, description=sentence, completed=0, total=None)

    def compared(self, done: int, total: int) -> None:
        """Show how many images have been compared."""
        self._bar.update(self._task, description="comparing images", completed=done, total=total)

    def finished(self, found: Exported) -> None:
        """Print what each format is and showed, and the command to run next."""
        for item in found.checks:
            said = (
                f"{', '.join(found.files[item.format])}: differs by {item.difference:.2g} of the largest score at most"
            )
            said += f" ({item.allowed:g} allowed)"
            if item.accuracy is not None:
                said += f"; accuracy {item.accuracy:.4f}, of the source {item.source_accuracy:.4f}, on {item.val_images} images"
                said += (
                    f", of which {item.changed} are given another class (ties)"
                    if item.changed
                    else ", all given the same class"
                )
            self._say(item.format, said)
        self._say("card", str(found.folder / "README.md"))
        self._console.print(Text(f"\nnext: {found.next}"))


def run(
    source: str | None,
    formats: tuple[str, ...],
    *,
    out: Path | None,
    overwrite: bool,
    trial: str | None,
    weights: Path | None,
    random_weights: bool,
    data: str | None,
) -> None:
    """Export and print."""
    progress = ExportProgress()
    with progress:
        found = export(
            source or runs.latest(),
            formats or ("torch",),
            out=out,
            overwrite=overwrite,
            trial=trial,
            weights=weights,
            random_weights=random_weights,
            data=data,
            watcher=progress,
        )
    progress.finished(found)
