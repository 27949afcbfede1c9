"""Where the time of a run went, from what its trials stored."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from nas.report.read import RunView


@dataclass(frozen=True)
class Share:
    """The trials of one kind, or all, or the finalists measured again.

    Args:
        what: Their kind. number: How many. seconds: What they took. timing: What timing took of that; None where it was not kept.
    """

    what: str
    number: int
    seconds: float
    timing: float | None


@dataclass(frozen=True)
class Spent:
    """Where the time went.

    Args:
        rows: By kind, then `all` of the search, then the finalists where their time was kept.
        taken: Trials taken over from another run, which cost nothing and are in no row.
        said: On timing: its share of the search, and what is wrong with some step times.
    """

    rows: tuple[Share, ...]
    taken: int
    said: tuple[str, ...]


def spent(view: RunView) -> Spent:
    """Return where the time of a run went."""
    trials = view.trials
    taken = trials["origin"].notna() if "origin" in trials else pd.Series(False, index=trials.index)
    own = trials[~taken]
    rows = [_share(str(kind), group["seconds"], _timing(group)) for kind, group in own.groupby("kind", sort=True)]
    rows.append(_share("all", own["seconds"], _timing(own)))
    again = [item for item in view.trainings.values() if "seconds" in item]  # the first runs did not keep them
    if again:
        parts = (pd.Series([item[name] for item in again]) for name in ("seconds", "timing_seconds"))
        rows.append(_share("finalists, timed and trained again", *parts))
    return Spent(tuple(rows), int(taken.sum()), tuple(_said(own, again)))


def _said(own: pd.DataFrame, again: Sequence[Mapping[str, Any]]) -> list[str]:
    """Say which share of a search's time timing took, and what is wrong with some step times, the finalists' with them."""
    timing, lines = _timing(own), []
    if timing is not None and own["seconds"].sum() > 0:
        lines.append(f"Timing took {timing.sum() / own['seconds'].sum():.1%} of the search's time.")
    if "step_time_note" in own:
        timed = own[(own["kind"] != "duplicate") & own["step_time_ms"].notna()]
        notes = Counter([*timed["step_time_note"].dropna(), *(item.get("step_time_note", "") for item in again)])
        notes.pop("", None)
        lines += [f"Of {len(timed) + len(again)} step times {number}: {note}." for note, number in notes.items()]
    return lines


def _share(what: str, seconds: pd.Series, timing: pd.Series | None) -> Share:
    return Share(what, len(seconds), float(seconds.sum()), None if timing is None else float(timing.sum()))


def _timing(trials: pd.DataFrame) -> pd.Series | None:
    """Return the seconds of phase 0, which counts and times; None of the first runs, which did not keep them."""
    if "phase_seconds" not in trials:
        return None
    measured = trials[trials["kind"] != "duplicate"]  # which repeats what the first one took
    return pd.Series([float(str(phases).split()[0]) for phases in measured["phase_seconds"]], dtype=float)
