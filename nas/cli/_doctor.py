"""`nas doctor`: what a search needs, a line for each finding, and the command to run next."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from itertools import groupby

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn
from rich.table import Table
from rich.text import Text

from nas.doctor import Check, examine

BUILTIN = "fashion-mnist-subset"
STYLES = {"ok": "green", "warning": "yellow", "problem": "bold red"}


def show(
    *, data: str | None, skip_broken: bool, space: str, recipe: str | None, device: str, batch_size: int | None
) -> bool:
    """Print every finding as it is made; return whether a search could run."""
    plain = Console(highlight=False, markup=False)
    console = plain if plain.is_terminal else Console(highlight=False, markup=False, width=400)
    bar = Progress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(24),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    task = bar.add_task("looking", total=None)
    found: list[Check] = []
    with bar:
        checks = examine(
            space=space,
            data=data,
            skip_broken=skip_broken,
            recipe=recipe,
            device=device,
            batch_size=batch_size,
            progress=lambda done, total: bar.update(task, description="packing images", completed=done, total=total),
            doing=lambda what: bar.update(task, description=what, completed=0, total=None),
        )
        for area, group in groupby(_kept(checks, found), key=lambda check: check.area):
            console.print(Text(area, "bold"))
            for check in group:
                console.print(_line(check))
    problems, warnings = (sum(check.level == level for check in found) for level in ("problem", "warning"))
    if data is None:
        console.print(Text("data", "bold"))
        text = f"not looked at; with --data FOLDER (or {BUILTIN}) its images and the speed of the input are"
        console.print(_line(Check("data", "note", "ok", text)))
    console.print()
    console.print(Text.assemble(("verdict  ", "bold"), _verdict(problems, warnings)))
    given = {"--space": space, "--data": data, "--recipe": recipe, "--device": None if device == "auto" else device}
    console.print(Text.assemble(("next     ", "bold"), _next(problems, given, skip_broken, batch_size)), soft_wrap=True)
    return not problems


def _kept(checks: Iterator[Check], found: list[Check]) -> Iterator[Check]:
    for check in checks:
        found.append(check)
        yield check


def _line(check: Check) -> Table:
    """Return a finding as a line that folds beside its name. Text is never read as markup."""
    grid = Table.grid(padding=(0, 1))
    grid.add_column(width=9)
    grid.add_column(width=11)
    grid.add_column(overflow="fold")
    level = "note" if check.name == "note" else check.level  # what the data says of itself is neither good nor bad
    words = Text(check.found)
    if check.advice:
        words.append(
            ("\n" if len(check.found) > 20 else "  ") + check.advice,
            STYLES[check.level] if check.level != "ok" else "dim",
        )
    grid.add_row(Text(f"  {level}", STYLES.get(level, "")), Text(check.name if level != "note" else ""), words)
    return grid


def _verdict(problems: int, warnings: int) -> tuple[str, str]:
    def count(number: int, word: str) -> str:
        return f"{number} {word}" + ("s" if number != 1 else "")

    if problems:
        words = f"{count(problems, 'problem')} would stop a search, {count(warnings, 'warning')}"
        return words, STYLES["problem"]
    if warnings:
        return f"a search can run; {count(warnings, 'warning')}", STYLES["warning"]
    return "a search can run", STYLES["ok"]


def _next(problems: int, given: Mapping[str, str | None], skip_broken: bool, batch_size: int | None) -> str:
    """Return the command to run next: a search, or the doctor again once the problems are mended."""
    without_data = given["--data"] is None
    command = "mend that, then: nas doctor" if problems else f"nas search --budget {12 if without_data else 50}"
    options = dict(given)
    if without_data and not problems:
        options["--space"] = "v2_tiny"  # the built-in images suit small networks
    if problems and batch_size is not None:
        options["--batch-size"] = str(batch_size)
    words = [f"{option} {shlex.quote(value)}" for option, value in options.items() if value is not None]
    return " ".join([command, *words, *(["--skip-broken"] if skip_broken else [])])
