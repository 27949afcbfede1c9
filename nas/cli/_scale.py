"""What `nas scale` prints: the plan with its time, a line for each training, the choice and the family."""

from __future__ import annotations

import math
import shlex
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from rich.progress import SpinnerColumn, TextColumn
from rich.table import Table
from rich.text import Text

from nas import catalog
from nas.cli._screen import Screen, make_console
from nas.cost import count
from nas.data import Dataset
from nas.errors import UsageError, nearest
from nas.objective import few_images
from nas.runs import Run
from nas.scale import ScaleConfig, ScaleResult, Watcher, derive, resume
from nas.scale import report as reports
from nas.scale.compound import PUBLISHED, REPRODUCE, phi_of, published
from nas.scale.config import option
from nas.scale.grid import Choice, Grid, Level
from nas.scale.session import kind_of
from nas.space import format_count
from nas.spec import ArchSpec, summary


class ScaleProgress(Screen, Watcher):
    """A watcher of a scaling that prints; used as a context, so that the bar is taken down on errors too."""

    def __init__(self) -> None:
        self.folder: Path | None = None
        super().__init__(before=(SpinnerColumn(),), after=(TextColumn("{task.fields[eta]}", markup=False),), eta="")
        self._known = 0
        self._round = 0
        self._began = time.monotonic()

    def opened(self, run: Run) -> None:
        """Remember what to continue."""
        self.folder = run.folder

    def began(self, run: Run, base: ArchSpec, data: Dataset, notes: Sequence[str]) -> None:
        """Say what is scaled, on what, and where the results go."""
        facts = run.manifest
        found, used = count(base), facts["data"]
        self._say("base", f"{base.name}: {format_count(found.params)} params, {format_count(found.macs)} MACs")
        self._say("", summary(base), "dim")
        self._say(
            "data",
            f"{data.name}: {used['used_train_images']} of {used['train_images']} training, "
            f"{used['used_val_images']} of {used['val_images']} validation images, {used['classes']} classes",
        )
        for note in (*notes, *few_images(used["used_val_images"], used["val_images"])):
            self._say("note", note, "yellow")
        recipe = facts["recipe"]
        self._say("recipe", f"{recipe['name']}: {recipe['epochs']:g} epochs, batch {recipe['batch_size']}")
        self._say("device", f"{facts['device']['type']} ({facts['device']['name']})")
        self._say("run", str(run.folder))

    def planned(self, found: Grid, choice: Choice, ratios: Mapping[Level, float], minutes: float) -> None:
        """Say what the grid holds and what will be trained, and how long that takes."""
        self._say("grid", reports.spread_of(found))
        kinds = [point.kind for point in choice.points]
        single = ", ".join(kind for kind in ("depth", "width", "resolution") if kind in kinds)
        self._say(
            "plan",
            f"{len(choice.points)} networks of {found.networks}: {kinds.count('compound')} compound"
            + (f", and {single} alone" if single else ""),
        )
        if not math.isnan(minutes):
            self._say(
                "",
                f"about {max(1, round(minutes))} min for one training of each, and up to as much again for each further seed",
                "dim",
            )
        self._console.print(
            "alpha / beta / gamma   seed   accuracy           step time, ms (x base)   seconds", style="dim"
        )

    def note(self, sentence: str) -> None:
        """Say what happened besides the trainings."""
        self._say("", sentence, "dim")

    def waiting(self) -> None:
        """Show that another run has the device."""
        self._bar.update(self._task, description="waiting: another run times or trains on this device")

    def timing(self, what: str) -> None:
        """Show what is timed."""
        self._bar.update(self._task, description=f"timing {what}", total=None, eta="")

    def training(self, label: str, seed: int, phase: int, done: int, total: int) -> None:
        """Show what is trained, how many are done, and what is left."""
        if (self._round, total) != (seed, self._bar.tasks[0].total):
            self._round, self._known, self._began = seed, done, time.monotonic()
        what = "timing" if phase == 0 else f"training {phase}"
        eta = ""
        if done > self._known:
            each = (time.monotonic() - self._began) / (done - self._known)
            eta = f"about {each * (total - done) / 60:.0f} min left"
        self._bar.update(self._task, description=f"{what} {label}, seed {seed}", completed=done, total=total, eta=eta)

    def trained(self, label: str, seed: int, values: Mapping[str, Any]) -> None:
        """Print the line of a training that has ended."""
        line = f"{label:22s} {seed:4d}   "
        if values["outcome"] == "ok":
            ratio = values["step_time_ms"] / values["ref_step_time_ms"]
            line += f"{values['val_accuracy']:.4f} ± {values['val_error']:.4f}   {values['step_time_ms']:10.2f} ({ratio:5.2f})"
            line += f"         {values['seconds']:7.1f}"
        else:
            line += f"{values['outcome']}: {values.get('reason', '')}"
        self._console.print(line)

    def finished(self, result: ScaleResult) -> None:
        """Print the table, the choice, the family, and the command to run next."""
        self._console.print()
        if result.decision is not None:
            self._table(reports.HEADS, reports.rows_of(result))
            self._say("", "costs are multiples of the base's, as built or measured", "dim")
            for line in reports.versus_single(result):
                if line:
                    self._say("", line.replace("**", ""))
            for label, reason in result.failed:
                self._say("failed", f"{label}: {reason}", "yellow")
        theory = result.coefficients.theory
        self._say("chosen", f"alpha / beta / gamma {result.coefficients} (theory {theory:.2f})", "bold green")
        if result.decision is not None:
            for line in reports.doubt(result):
                self._say("", line)
        self._table(reports.MEMBER_HEADS, reports.member_rows(result))
        for warning in result.warnings:
            self._say("note", warning, "yellow")
        folder = result.run.folder
        self._say("report", str(folder / "report.md"))
        data = result.run.manifest["config"]["data"]
        self._say(
            "next",
            f"nas train {shlex.quote(str(folder))} --phi {result.members[-1].phi:g} --data {shlex.quote(str(data))}",
        )

    def _table(self, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        table = Table(*heads, box=None, pad_edge=False, header_style="dim")
        for row in rows:
            table.add_row(*(Text(cell) for cell in row))
        self._console.print(table)


def run(given: dict[str, Any], progress: ScaleProgress) -> None:
    """Scale, or continue a scaling, write the files and print.

    Args:
        given: The settings that the user gave.

    Raises:
        NasError: what a user can mend.
    """
    with progress:
        source = given.get("source")
        if source is not None and kind_of(source) == "scale":
            result = resume(source, **_changes(given), watcher=progress)
        else:
            result = derive(ScaleConfig(**given), watcher=progress)
        reports.write(result)
    progress.finished(result)


def _changes(given: dict[str, Any]) -> dict[str, Any]:
    """Return what a continued scaling may change, and refuse the rest."""
    may: dict[str, Any] = {name: given[name] for name in ("phi", "budget", "seeds", "devices", "data") if name in given}
    others = [option(name) for name in given if name not in (*may, "source")]
    if others:
        raise click.UsageError(
            f"{', '.join(others)}: a scaling that is continued keeps its own settings; only --phi, --budget, --seeds, --devices "
            "and --data (where the same images have moved) may be given. Leave the others out, or name the "
            "search and another --out."
        )
    return may


def reproduce(family: str) -> None:
    """Build a published family from its released table and print its counts.

    Raises:
        UsageError: no such family.
    """
    if family not in REPRODUCE:
        known = list(REPRODUCE)
        raise UsageError(f"--reproduce: found {family}; allowed: {', '.join(known)}.{nearest(family, known)}")
    console = make_console()
    heads = ["network", "depth", "width", "pixels", "params", "MACs", "x base", "phi by depth / width / pixels"]
    table = Table(*heads, box=None, pad_edge=False, header_style="dim")
    for row in REPRODUCE[family]:
        base = catalog.load_arch(row.base)
        spec = published(row, base)
        own, found = count(base), count(spec)
        phis = (
            phi_of(row.depth, PUBLISHED.alpha),
            phi_of(row.width, PUBLISHED.beta),
            phi_of(row.resolution / base.resolved().resolution, PUBLISHED.gamma),
        )
        table.add_row(
            row.name,
            f"{row.depth:g}",
            f"{row.width:g}",
            str(row.resolution),
            f"{found.params:,}",
            f"{found.macs:,}",
            f"{found.macs / own.macs:.2f}",
            " / ".join(f"{phi:.2f}" for phi in phis),
        )
    console.print(table)
    console.print(
        f"\nFrom the released table, not from powers of {PUBLISHED}: where the three columns of phi differ, no single phi gives "
        "the network. EfficientNetV2's at its training resolution; relative to its own base."
    )
