"""One line of a run: what a trial was, what it measured, how it ended; kept as flat attributes of an Optuna trial."""

from __future__ import annotations

import csv
import io
from bisect import insort
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
from optuna.trial import TrialState

from nas.front import Point, front, point, spread
from nas.objective import Candidate
from nas.runs import write_text
from nas.spec import Value

BUDGETED = ("trained", "pruned")
"""The kinds that cost budget: a network that was trained, to the end or until the pruner stopped it."""

FAILED = ("out_of_memory", "diverged", "timeout", "worker_died", "bug")
"""The kinds that count against the failure budget."""


@dataclass(frozen=True)
class TrialRecord:
    """A trial that has ended.

    Args:
        number: Optuna's number of the trial.
        kind: `trained`, `pruned`, `duplicate`, `infeasible`, `forbidden`, `out_of_memory`, `diverged`, `timeout`,
            `worker_died`, `bug`.
        arch_hash, arch: Identity, and the network in one readable line.
        reward: The score; of a pruned trial its last report.
        val_accuracy, val_error: 0..1 after the last phase trained, with its standard error.
        train_loss: Mean over the last phase.
        step_time_ms, step_time_mad_ms, step_time_n: Median, spread and number of timed steps.
        ref_step_time_ms: The baseline's step time in the same measurement.
        step_time_clock_mhz, step_time_foreign_load, step_time_note: Median clock of the GPU and cores that others kept busy
            while the step was timed, and what is wrong with the time or was not seen; absent in older runs.
        foreseen_ms: Step time that was predicted, of a network that was foreseen to be beyond the limit. Timed all the same,
            it has a step_time_ms too; one that was not timed has none.
        latency_ms, latency_mad_ms, latency_n: Median, spread and number of timed inferences; only where a limit is on them.
        num_params, macs, peak_memory_mib: The other costs.
        phase_accuracy: val_accuracy at each phase's end, as `0.61 0.73`.
        phase_seconds: Wall time of each phase, from phase 0, as `2.1 8.0 19.3`. seconds: Their sum.
        reason: Why it ended early. duplicate_of: Number of the first of its kind.
        audited: `phase 1` where the pruner would have stopped it at that phase's end, and it was trained on to learn what
            stopping costs (`nas.search.stopping`).
        suggested_by: Who made the choices where it was not the sampler by what it has seen: `random` (drawn at random, at the
            start or where the sampler was stuck) or `user`. Absent in older runs.
        origin: The run and trial that it was taken over from, with `--warm-start`; such a record costs no budget.
        params: The choices, by name, as the sampler sees them.
    """

    number: int
    kind: str
    arch_hash: str
    arch: str
    reward: float | None = None
    val_accuracy: float | None = None
    val_error: float | None = None
    train_loss: float | None = None
    step_time_ms: float | None = None
    step_time_mad_ms: float | None = None
    step_time_n: int | None = None
    ref_step_time_ms: float | None = None
    step_time_clock_mhz: float | None = None
    step_time_foreign_load: float | None = None
    step_time_note: str = ""
    foreseen_ms: float | None = None
    latency_ms: float | None = None
    latency_mad_ms: float | None = None
    latency_n: int | None = None
    num_params: float | None = None
    macs: float | None = None
    peak_memory_mib: float | None = None
    phase_accuracy: str = ""
    phase_seconds: str = ""
    seconds: float = 0.0
    reason: str = ""
    duplicate_of: int | None = None
    audited: str = ""
    suggested_by: str = ""
    origin: str = ""
    params: Mapping[str, Value] = field(default_factory=dict)

    def attributes(self) -> dict[str, Any]:
        """Return the attributes to store on the trial: what is known, flat, with units in the names."""
        skip = {"number", "params"}
        known = {item.name: getattr(self, item.name) for item in fields(self) if item.name not in skip}
        return {
            name: value
            for name, value in known.items()
            if value not in (None, "") and not (name == "seconds" and not value)
        }

    @property
    def costs_budget(self) -> bool:
        """Whether the network was trained by this run, to the end or until the pruner stopped it."""
        return self.kind in BUDGETED and not self.origin

    def point(self, costs: Sequence[str]) -> Point:
        """Return accuracy and costs; only of a network that was trained, and whose costs were measured."""
        return point({name: getattr(self, name) for name in ("val_accuracy", "ref_step_time_ms", *costs)}, costs)

    def candidate(self) -> Candidate:
        """Return the raw values that a score is computed from; only of a network that was trained, wholly or in part."""
        values = (self.val_accuracy, self.val_error, self.step_time_ms, self.ref_step_time_ms, self.num_params)
        assert all(value is not None for value in values)
        return Candidate(self.arch_hash, *(float(value) for value in values if value is not None))


def promising(records: Sequence[TrialRecord], costs: Sequence[str], most: int) -> list[TrialRecord]:
    """Return at most so many trained networks: of highest reward, or of the front where accuracy is traded against costs.

    A front of more is thinned evenly. To one of fewer come those that would be the front without it: one network that was lucky
    hides all that are really better.
    """
    if not costs:
        return sorted(records, key=lambda record: -(record.reward or 0))[:most]
    found: list[TrialRecord] = []
    rest = list(records)
    while rest and len(found) < most:
        points = [record.point(costs) for record in rest]
        layer = front(points)
        found += [rest[layer[place]] for place in spread([points[place] for place in layer], most - len(found))]
        rest = [record for place, record in enumerate(rest) if place not in layer]
    return found


def from_trial(trial: optuna.trial.FrozenTrial) -> TrialRecord | None:
    """Return the record of a trial, or None where it has none (it runs, waits, or was interrupted)."""
    # A run killed between a trial's attributes and its end leaves the one without the other. Such a trial is closed as
    # failed and trained again when the run goes on; it must not count twice.
    if "kind" not in trial.user_attrs or trial.state not in (TrialState.COMPLETE, TrialState.PRUNED):
        return None
    known = {item.name for item in fields(TrialRecord)} - {"number", "params"}
    values = {name: value for name, value in trial.user_attrs.items() if name in known}
    return TrialRecord(number=trial.number, params=dict(trial.params), **values)


def table(records: Iterable[TrialRecord]) -> pd.DataFrame:
    """Return records as a table, a row each: the columns of `TrialRecord`, then the choices as `param:<name>`."""
    columns = [item.name for item in fields(TrialRecord) if item.name != "params"]
    rows = [
        {name: getattr(record, name) for name in columns}
        | {f"param:{name}": value for name, value in record.params.items()}
        for record in records
    ]
    return pd.DataFrame(rows, columns=None if rows else columns)


class LiveTable:
    """The file of the records of a run that goes on: whole after each trial, at the price of one row.

    To make thousands of rows anew with `table` takes long between two trials. Here a row is made once, and kept as text. Values
    are those of `table`, but an empty place does not turn the whole numbers of its column into `3.0`.
    """

    def __init__(self, path: Path, records: Iterable[TrialRecord]) -> None:
        self._path = path
        self._columns: list[str] = []
        self._rows: list[tuple[int, str]] = []
        for record in records:
            self._take(record)

    def add(self, record: TrialRecord) -> None:
        """Write the file with one more record; by number, for with several workers they do not end in order."""
        self._take(record)
        write_text(self._path, _row(self._columns) + "".join(text for _, text in self._rows))

    def _take(self, record: TrialRecord) -> None:
        values = {item.name: getattr(record, item.name) for item in fields(record) if item.name != "params"}
        values |= {f"param:{name}": value for name, value in record.params.items()}
        self._columns = self._columns or list(values)  # all trials of a run make the same choices
        insort(
            self._rows, (record.number, _row(["" if values[name] is None else values[name] for name in self._columns]))
        )


def _row(values: Iterable[object]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(values)
    return text.getvalue()
