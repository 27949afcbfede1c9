"""Read a run folder back: manifest, trials, finalists, winner."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from nas import catalog
from nas.errors import RunError
from nas.front import Point, point
from nas.objective import Candidate, Reward
from nas.runs import Run, open_search, read_json
from nas.spec import ArchSpec

FINALISTS = "finalists.json"
FORESEEN = "foreseen.json"
AUDIT = "audit/audit.json"
_RECORD = {"arch_hash", "arch", "reward", "num_params", "macs"}
_TEXTS = ("kind", "arch_hash", "arch")
_TIMES = ("step_time_ms", "step_time_mad_ms", "ref_step_time_ms")
_FINALIST = {"record", "accuracies", "accuracy", "accuracy_error", "reward", "optimism", *_TIMES}
TEXTS = (
    *("kind", "arch_hash", "arch", "step_time_note", "phase_accuracy", "phase_seconds"),
    *("reason", "audited", "suggested_by", "origin"),
)
"""Columns of `trials.csv` that hold text; the others hold numbers where they hold anything, those of choices either."""
_NUMBERS = ("number", "reward", "val_accuracy", "val_error", *_TIMES, "num_params", "macs")


@dataclass(frozen=True)
class RunView:
    """A run as it lies on the disk.

    Args:
        run: The folder and its manifest.
        trials: A row for each trial that ended, with the columns of `nas.search.record.TrialRecord`.
        finalists: The best networks measured again, the winner first; empty while the search goes on.
        trainings: The fresh trainings and timings of finalists, by network and seed.
        warnings: What to know before trusting the winner.
        foreseen: How well step times were predicted by the block table (`table`) and by MACs (`macs`); empty without a limit.
        audit: What `nas audit` found; empty where the run was not audited.
    """

    run: Run
    trials: pd.DataFrame
    finalists: tuple[Mapping[str, Any], ...]
    warnings: tuple[str, ...]
    trainings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    foreseen: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    audit: Mapping[str, Any] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """What the run is called on its pages."""
        return f"Search of {self.run.manifest['space']} on {self.run.manifest['data']['name']}"

    @property
    def winner(self) -> ArchSpec:
        """The winning network.

        Raises:
            RunError: the search has not ended.
        """
        path = self.run.path("winner.yaml")
        if not path.is_file():
            raise RunError(f"{self.run.folder}: has no winner yet. Finish it: nas search --resume {self.run.folder}")
        return catalog.load_arch(path)

    @property
    def reward(self) -> Reward:
        """The score of the run."""
        manifest = self.run.manifest
        return Reward(manifest["reward"]["w"], manifest["reward"]["v"], manifest["baseline"]["num_params"])

    @property
    def costs(self) -> tuple[str, ...]:
        """The costs that accuracy was traded against; none where the run maximized its reward."""
        return tuple(self.run.manifest.get("costs", ()))

    def trained(self) -> pd.DataFrame:
        """Return the rows of networks that were trained to the end, by falling reward."""
        rows = self.trials[self.trials["kind"] == "trained"]
        return rows.sort_values("reward", ascending=False, kind="stable")

    def points(self) -> list[Point]:
        """Return accuracy and costs of the networks that were trained to the end, in the order of `trained`."""
        names = ["val_accuracy", "ref_step_time_ms", *self.costs]
        rows = zip(*(self.trained()[name].astype(float) for name in names), strict=True)
        return [point(dict(zip(names, row, strict=True)), self.costs) for row in rows]

    def candidates(self) -> list[Candidate]:
        """Return the raw values of the networks that were trained to the end."""
        columns = ["arch_hash", "val_accuracy", "val_error", "step_time_ms", "ref_step_time_ms", "num_params"]
        return [Candidate(*row) for row in self.trained()[columns].itertuples(index=False, name=None)]


def load_run(folder: str | os.PathLike[str]) -> RunView:
    """Read a run.

    Raises:
        RunError: no run there, no trial has ended in it, or a file of it is damaged.
    """
    run = open_search(folder)
    trials, warnings, foreseen, audit = (run.path(name) for name in ("trials.csv", "warnings.json", FORESEEN, AUDIT))
    if not trials.is_file():
        raise RunError(f"{run.folder}: no trial has ended in it yet. Continue it: {_continue(run)}")
    last = read_finalists(run)
    again = f"Have it written again: {_continue(run)}"
    return RunView(
        run=run,
        trials=_read_trials(trials, again),
        finalists=tuple(last.get("finalists", ())),
        trainings=last["trainings"],
        warnings=tuple(map(str, read_json(warnings, list, again))) if warnings.is_file() else (),
        foreseen=read_json(foreseen, dict, again) if foreseen.is_file() else {},
        audit=read_json(audit, dict, f"Have it written again: nas audit {shlex.quote(str(run.folder))}")
        if audit.is_file()
        else {},
    )


def read_finalists(run: Run) -> dict[str, Any]:
    """Read what was measured again of a run: `trainings` by network and seed, and `finalists` once all are there.

    Raises:
        RunError: the file is damaged.
    """
    path = run.path(FINALISTS)
    if not path.is_file():
        return {"trainings": {}}
    remedy = f"Delete it, and have the finalists measured again: {_continue(run)}"
    found = read_json(path, dict, remedy)
    trainings, finalists = found.get("trainings"), found.get("finalists", [])
    whole = (
        isinstance(trainings, dict)
        and all(isinstance(item, dict) and "outcome" in item for item in trainings.values())
        and isinstance(finalists, list)
        and all(isinstance(item, dict) and set(item) >= _FINALIST for item in finalists)
        and all(isinstance(item["record"], dict) and set(item["record"]) >= _RECORD for item in finalists)
    )
    if not whole:
        raise RunError(f"{path}: is not what a search writes (trainings and finalists with their values). {remedy}")
    return found


def _read_trials(path: Path, remedy: str) -> pd.DataFrame:
    try:
        trials = pd.read_csv(path, dtype=dict.fromkeys(TEXTS, str))
    except (OSError, ValueError) as error:  # pandas' own errors are values that are wrong
        raise RunError(f"{path}: cannot be read as a table ({error}). {remedy}") from None
    absent = [name for name in (*_TEXTS, *_NUMBERS, "seconds") if name not in trials]
    if absent:
        raise RunError(f"{path}: has no column {absent[0]}. {remedy}")
    for name in trials.columns:
        if name in TEXTS or name.startswith("param:"):
            continue
        trials[name] = _numeric(trials, name, trials[name], path, remedy)
    for name in {"phase_accuracy", "phase_seconds"} & set(trials):
        _numeric(trials, name, trials[name].dropna().str.split().explode(), path, remedy)
    if (trials["number"] % 1).any():
        part = trials["number"][trials["number"] % 1 != 0].iloc[0]
        raise RunError(f"{path}: number: found {part:g}; trials have whole numbers. {remedy}")
    trials["number"] = trials["number"].astype(int)
    if trials["number"].duplicated().any():
        twice = trials["number"][trials["number"].duplicated()].iloc[0]
        raise RunError(f"{path}: number: found {twice} twice; a trial has one row. {remedy}")
    trained = trials[trials["kind"] == "trained"]
    for name in _NUMBERS:
        if trained[name].isna().any():
            number = trained["number"][trained[name].isna()].iloc[0]
            raise RunError(
                f"{path}: {name}: found nothing in the row of trial {number}, which was trained; a number is expected. {remedy}"
            )
    return trials


def _numeric(trials: pd.DataFrame, name: str, cells: pd.Series, path: Path, remedy: str) -> pd.Series:
    """Return cells as finite numbers, empty ones left empty; their index is that of the table."""
    values = pd.to_numeric(cells, errors="coerce")
    wrong = cells.notna() & (values.isna() | np.isinf(values))
    if wrong.any() or (name == "number" and values.isna().any()):
        at = (wrong | cells.isna()).idxmax()
        raise RunError(
            f"{path}: {name}: found {cells.loc[[at]].iloc[0]!r} in line {at + 2}; a number is expected. {remedy}"
        )
    return values


def _continue(run: Run) -> str:
    return f"nas search --resume {shlex.quote(str(run.folder))}"
