"""What `nas audit` prints: the plan with its time, a line for each training, and what was found."""

from __future__ import annotations

import math
import shlex
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.markdown import Markdown
from rich.progress import SpinnerColumn, TextColumn

from nas.audit import AuditConfig, AuditResult, Watcher, audit
from nas.audit.plan import Arm, Training
from nas.cli._screen import Screen
from nas.runs import Run


class AuditProgress(Screen, Watcher):
    """A watcher of an audit that prints; used as a context, so that the bar is taken down on errors too."""

    def __init__(self) -> None:
        self.folder: Path | None = None
        super().__init__(before=(SpinnerColumn(),), after=(TextColumn("{task.fields[eta]}", markup=False),), eta="")
        self._known: int | None = None
        self._began = time.monotonic()

    def planned(self, run: Run, arms: Sequence[Arm], wanted: Sequence[Training], left: int, minutes: float) -> None:
        """Say what will be trained, and about how long that takes, before it begins."""
        self.folder = run.folder
        self._say("run", str(run.folder))
        for arm in arms:
            own = [item for item in wanted if item.arm == arm]
            networks = len({item.arch_hash for item in own})
            self._say(
                "", f"{arm.words}: {networks} networks, {_many(len(own), 'training')}, {arm.cost:.2g} x the cost each"
            )
        there = f"; {len(wanted) - left} are there already" if left < len(wanted) else ""
        last = "" if math.isnan(minutes) or not left else f", about {max(1, round(minutes))} min"
        self._say("plan", f"{_many(left, 'training')}{last}, from what the search took{there}", "bold")
        if left:
            self._console.print(
                "network             seed  recipe                          accuracy           seconds", style="dim"
            )

    def note(self, sentence: str) -> None:
        """Say what happened besides the trainings."""
        self._say("", sentence, "dim")

    def waiting(self) -> None:
        """Show that another run has the device."""
        self._bar.update(self._task, description="waiting: another run times or trains on this device")

    def training(self, arm: Arm, label: str, seed: int, phase: int, done: int, total: int) -> None:
        """Show what is trained, how many are done, and what is left."""
        self._known = done if self._known is None else self._known
        eta = ""
        if done > self._known:
            each = (time.monotonic() - self._began) / (done - self._known)
            eta = f"about {each * (total - done) / 60:.0f} min left"
        what = "timing" if phase == 0 else f"training {phase}"
        self._bar.update(
            self._task, description=f"{what} {label}, {arm.words}, seed {seed}", completed=done, total=total, eta=eta
        )

    def trained(self, arm: Arm, label: str, seed: int, values: Mapping[str, Any]) -> None:
        """Print the line of a training that has ended."""
        line = f"{label:19s} {seed:4d}  {arm.words:30s}  "
        if values["outcome"] == "ok":
            line += f"{values['val_accuracy']:.4f} ± {values['val_error']:.4f}   {values['seconds']:7.1f}"
        else:
            line += f"{values['outcome']}: {values.get('reason', '')}"
        self._console.print(line)

    def finished(self, result: AuditResult) -> None:
        """Print what was found, and the command to run next."""
        self._console.print()
        self._console.print(Markdown("\n".join(result.lines[2:])), soft_wrap=False)
        self._console.print()
        self._say("audit", str(result.folder / "report.md"))
        self._say("report", str(result.run.folder / "report.html"))
        recipe = result.folder / "recipe.yaml"
        folder = shlex.quote(str(result.run.folder))
        if recipe.is_file():
            own = result.run.manifest["config"]
            words = " ".join(f"--{name} {shlex.quote(str(own[name]))}" for name in ("space", "data", "budget"))
            self._say("next", f"nas search {words} --recipe {shlex.quote(str(recipe))}")
        elif "tuning" in result.findings:
            more = 2 * len(result.findings["networks"])
            self._say("next", f"nas audit {folder} --tune-proxy --networks {more}   (the same recipes, better known)")
        elif "fidelity" in result.findings:
            self._say("next", f"nas audit {folder} --tune-proxy")
        else:
            self._say("next", f"nas audit {folder}")


def _many(number: int, word: str) -> str:
    return f"{number} {word}{'s' * (number != 1)}"


def run(given: dict[str, Any], progress: AuditProgress) -> None:
    """Audit a run and print.

    Args:
        given: The settings that the user gave.

    Raises:
        NasError: what a user can mend.
    """
    with progress:
        result = audit(AuditConfig(**given), watcher=progress)
    progress.finished(result)
