"""`nas rerank`: the networks of a run under other exponents or limits, and the exponents that its own slope suggests."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from nas import runs
from nas.errors import UsageError
from nas.objective import warnings
from nas.report import Calibration, Reranking, RunView, calibrate, load_run, rerank
from nas.report.calibration import MIN_NETWORKS, Slope
from nas.search.config import LIMIT_FIELDS, SearchConfig, from_document, option
from nas.space import format_count

KEPT = ("space", "data", "skip_broken", "budget", "recipe", "devices", "sampler", "pruner", "w", "v", *LIMIT_FIELDS)
"""Settings of a run that the search suggested after it has too."""


def show(
    run: Path | None,
    *,
    w: float | None,
    v: float | None,
    top: int,
    calibration: bool,
    csv: Path | None,
    limits: Mapping[str, Any],
) -> None:
    """Print the networks of a run in their new order, and what that order is worth."""
    view = load_run(run or runs.latest())
    own = view.reward
    reward = replace(own, w=own.w if w is None else w, v=own.v if v is None else v)
    bounds = SearchConfig(w=reward.w, v=reward.v, **dict(limits)).limits()  # the ranges and units of a search
    found = rerank(view, reward, bounds)
    fitted = calibrate(view.candidates(), own) if calibration else None
    if csv is not None:
        _write(found, csv)
    given = {name: text for name, text in limits.items() if text is not None}
    page = _Page()
    _order(page, view, found, given, top)
    if fitted is not None:
        page.line()
        _calibration(page, view, fitted)
    page.line()
    if csv is not None:
        page.say("table", f"{csv} ({len(found.table)} networks)", whole=True)
    page.say("next", _next(view, found, fitted, given, top), whole=True)


class _Page:
    """Prints lines behind labels. Text is never read as markup: a folder may be called `[run]`."""

    def __init__(self) -> None:
        self._console = Console(highlight=False, soft_wrap=True, markup=False)

    def say(self, label: str, text: str, style: str = "", *, whole: bool = False) -> None:
        """Print text behind a label. On a terminal it is folded beside the label; commands and files stay `whole`."""
        if whole or not self._console.is_terminal:
            self._console.print(Text.assemble((f"{label:13s}", "bold"), (text, style)))
            return
        grid = Table.grid()
        grid.add_column(width=13)
        grid.add_column(overflow="fold")
        grid.add_row(Text(label, "bold"), Text(text, style))
        self._console.print(grid, soft_wrap=False)

    def line(self, text: str = "", style: str = "") -> None:
        """Print a line as it is."""
        self._console.print(Text(text, style))


def _order(page: _Page, view: RunView, found: Reranking, limits: Mapping[str, str], top: int) -> None:
    page.say("run", f"{view.run.folder}" + ("" if view.finalists else "  (the search has not ended)"))
    same = found.reward == found.own
    other = ", the run's own" if same else f"; the run's own are w = {found.own.w:g}, v = {found.own.v:g}"
    page.say("exponents", f"w = {found.reward.w:g} (step time), v = {found.reward.v:g} (parameters){other}")
    left = f"{found.trained} trained to the end"
    if limits:
        left = f"{len(found.table)} of {left} are within {' '.join(_options(limits))}"
    page.say("networks", f"{left}; {found.pruned} stopped early have no rank (their accuracy is of an earlier phase)")
    page.line()
    page.line("rank  was  reward        accuracy        step time  ratio  params    MACs  trial", "dim")
    for row in found.table.head(top).to_dict("records"):
        style = "bold green" if row["rank"] == 1 else ""
        page.line(
            f"{row['rank']:4d} {row['old_rank']:4d}  {row['reward']:.4f}  {row['val_accuracy']:.4f} ± {row['val_error']:.4f}  "
            f"{row['step_time_ms']:9.2f} ms  {row['relative_time']:5.2f}  {format_count(row['num_params']):>6s}  "
            f"{format_count(row['macs']):>6s}  {row['number']:5d}",
            style,
        )
        page.line(f"           {row['arch_hash']}  {row['arch']}", "dim")
    page.line()
    _moved(page, view, found)
    for limit in ("max_step_time", "max_latency"):
        if limit in limits:
            _drift(page, view, option(limit))
    for warning in warnings(_left(view, found), found.reward):
        page.say("note", warning, "yellow")


def _moved(page: _Page, view: RunView, found: Reranking) -> None:
    """Say how far the order moved, and how much of it the accuracies can carry."""
    first = found.table.iloc[0]
    moved = "the same order" if found.tau == 1 else "1 is the same order, 0 an unrelated one"
    page.say("moved", f"Kendall tau {found.tau:.3f} between the old order and the new ({moved})")
    page.say(
        "first",
        f"{first['arch_hash']}, rank {first['old_rank']} before; until now {found.old_first}"
        if found.first_changed
        else f"{first['arch_hash']}, as before",
    )
    if view.finalists:
        winner = str(view.finalists[0]["record"]["arch_hash"])
        place = found.table[found.table["arch_hash"] == winner]["rank"]
        rank = f"rank {place.iloc[0]} here" if len(place) else "beyond the limits here"
        page.say("", f"the run's winner, chosen among its finalists with fresh seeds, is {winner}: {rank}")
    if len(found.table) > 1:
        gap, error = found.first_gap()
        verdict = "can" if gap >= 2 * error else "cannot"
        page.say(
            "certainty",
            f"the first two {verdict} be told apart: their rewards differ by {gap:.4f}, and twice the error that "
            f"accuracies put on that is {2 * error:.4f}",
        )
        page.say("", f"{found.not_told_apart()} of the other {len(found.table) - 1} cannot be told from the first")


def _drift(page: _Page, view: RunView, option: str) -> None:
    """Warn where the machine's speed changed during the run, for a limit is on a time as it was measured."""
    times = view.trained()["ref_step_time_ms"]
    if times.max() > 1.1 * times.min():
        page.say(
            "note",
            f"{option} bounds times as they were measured, and the machine's speed was not steady: the baseline's "
            f"own step took {times.min():.1f} to {times.max():.1f} ms. The ratio is free of that.",
            "yellow",
        )


def _left(view: RunView, found: Reranking) -> list[Any]:
    kept = set(found.table["arch_hash"])
    return [item for item in view.candidates() if item.arch_hash in kept]


def _calibration(page: _Page, view: RunView, found: Calibration) -> None:
    """Print the slopes of the run, and the exponents that follow from them or why none do."""
    own = found.reward
    page.say(
        "calibration",
        f"what twice the cost brings in accuracy, and what the run's reward charges for it: {found.networks} networks, along "
        "the line of accuracy that a tenth of them lie above",
    )
    page.line("             twice the    brings     95 % interval         charged  even at", "dim")
    for name, exponent_name, slope, exponent in (
        ("step time", "w", found.time, own.w),
        ("parameters", "v", found.params, own.v),
    ):
        even = f"{exponent_name} = {-slope.value:.3g}" if slope.rises else "none seen"
        interval = f"{_doubled(slope.low)} to {_doubled(slope.high)}"
        page.line(
            f"             {name:10s}  {_doubled(slope.value):>7s}  {interval:>19s}  {_doubled(-exponent):>11s}  {even}"
        )
    _suggestion(page, view, found)


def _suggestion(page: _Page, view: RunView, found: Calibration) -> None:
    reward, scale = found.suggested(), found.together
    if scale is None:
        page.say("suggested", "none: the run has w = 0 and v = 0, so there is no proportion of the two to keep")
    elif reward is None:
        page.say("suggested", "none: " + _why_not(scale), "yellow")
        errors = view.trained()["val_error"].median()
        page.say(
            "",
            f"What would help: a longer recipe, and more validation images (an accuracy is known to ± {errors:.4f}), so that "
            "accuracy shows; until then limits (--max-step-time, --max-params) say more than exponents.",
        )
    else:
        page.say("suggested", f"--w {reward.w:.3g} --v {reward.v:.3g}", "bold")
        page.say(
            "",
            f"the run's own times {scale.value:.2f} (95 % interval {scale.low:.2f} to {scale.high:.2f}): with these the best "
            "networks of every cost have the same reward. Step time and parameters rise together, so each alone above holds "
            "the other's share too; take these two, or one alone with the other 0.",
        )
    if view.run.manifest["pruner"] != "none" and (view.trials["kind"] == "pruned").any():
        page.say(
            "note",
            "Networks were stopped early by the run's own score, which leans these slopes towards the run's own exponents. "
            "A search with --pruner none has no such lean.",
            "yellow",
        )


def _why_not(scale: Slope) -> str:
    interval = f"{scale.low:.2f} to {scale.high:.2f} of what the run charges"
    if scale.high < 0:
        return (
            f"dearer networks are less accurate here (95 % interval {interval}): a training this short does not reach "
            "what they can do."
        )
    return f"accuracy cannot be seen to rise with cost here (95 % interval {interval}, which holds 0)."


def _doubled(slope: float) -> str:
    """Write what twice the cost multiplies accuracy by, as a percentage."""
    return f"{round((2**slope - 1) * 100, 1) + 0.0:+.1f} %"  # + 0.0: no minus before a zero


def _options(limits: Mapping[str, str]) -> list[str]:
    return [f"--{name.replace('_', '-')} {shlex.quote(text)}" for name, text in limits.items()]


def _next(view: RunView, found: Reranking, fitted: Calibration | None, limits: Mapping[str, str], top: int) -> str:
    """Return the command to run next: calibrate, look at what was suggested, or search under the new terms."""
    folder = shlex.quote(str(view.run.folder))
    manifest = view.run.manifest
    again = [f"nas rerank {folder}", *([f"--top {top}"] if top != 10 else [])]
    changed: dict[str, Any] = dict(limits)
    if found.reward != found.own:
        changed |= {"w": found.reward.w, "v": found.reward.v}
    elif fitted is not None and (reward := fitted.suggested()) is not None:
        return " ".join([*again, f"--w {reward.w:.3g} --v {reward.v:.3g}", *_options(limits)])
    elif fitted is not None:
        changed |= {"recipe": "standard"} if manifest["recipe"]["name"] == "quick" else {"pruner": "none"}
    elif not limits and found.trained < MIN_NETWORKS:  # too few for a slope
        more = max(2 * MIN_NETWORKS, 2 * manifest["config"]["budget"])
        return f"nas search --resume {folder} --budget {more}"
    elif not limits:
        return " ".join([*again, "--calibrate"])
    return _search(from_document(manifest["config"]), changed)


def _search(config: SearchConfig, changed: Mapping[str, Any]) -> str:
    """Return the command of a search like that of the run, with some settings changed."""
    usual = SearchConfig()
    words = ["nas search"]
    for name in KEPT:
        value = changed.get(name, getattr(config, name))
        if name in ("space", "data", "budget") or value != getattr(usual, name):
            text = f"{value:g}" if isinstance(value, float) else str(value)
            words.append(option(name) if value is True else f"{option(name)} {shlex.quote(text)}")
    return " ".join(words)


def _write(found: Reranking, path: Path) -> None:
    try:
        found.table.to_csv(path, index=False)
    except OSError as error:
        raise UsageError(
            f"--csv: {path}: cannot be written ({error.strerror or error}). Name a file in a folder that can be written."
        ) from None
