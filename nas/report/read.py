"""Read a run folder back: manifest, trials, finalists, winner."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from nas import catalog
from nas.errors import RunError
from nas.objective import Candidate, Reward
from nas.runs import Run, open_run
from nas.spec import ArchSpec


@dataclass(frozen=True)
class RunView:
    """A run as it lies on the disk.

    Args:
        run: The folder and its manifest.
        trials: A row for each trial that ended, with the columns of `nas.search.record.TrialRecord`.
        finalists: The best networks measured again, the winner first; empty while the search goes on.
        warnings: What to know before trusting the winner.
    """

    run: Run
    trials: pd.DataFrame
    finalists: tuple[Mapping[str, Any], ...]
    warnings: tuple[str, ...]

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

    def trained(self) -> pd.DataFrame:
        """Return the rows of networks that were trained to the end, by falling reward."""
        rows = self.trials[self.trials["kind"] == "trained"]
        return rows.sort_values("reward", ascending=False, kind="stable")

    def candidates(self) -> list[Candidate]:
        """Return the raw values of the networks that were trained to the end."""
        columns = ["arch_hash", "val_accuracy", "val_error", "step_time_ms", "ref_step_time_ms", "num_params"]
        return [Candidate(*row) for row in self.trained()[columns].itertuples(index=False, name=None)]


def load_run(folder: str | os.PathLike[str]) -> RunView:
    """Read a run.

    Raises:
        RunError: no run there, or no trial has ended in it.
    """
    run = open_run(folder)
    trials, finalists, warnings = (run.path(name) for name in ("trials.csv", "finalists.json", "warnings.json"))
    if not trials.is_file():
        raise RunError(f"{run.folder}: no trial has ended in it yet. Continue it: nas search --resume {run.folder}")
    last = json.loads(finalists.read_text(encoding="utf-8")) if finalists.is_file() else {}
    return RunView(
        run=run,
        trials=pd.read_csv(trials, dtype={"arch_hash": str, "reason": str, "phase_accuracy": str}),
        finalists=tuple(last.get("finalists", ())),
        warnings=tuple(json.loads(warnings.read_text(encoding="utf-8"))) if warnings.is_file() else (),
    )
