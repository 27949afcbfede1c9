"""What a search brings back, and who may see it go on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nas.data import Dataset
from nas.runs import Run
from nas.search.finalists import Finalist, Fresh
from nas.search.record import TrialRecord
from nas.spec import ArchSpec


@dataclass(frozen=True)
class SearchResult:
    """What a search found.

    Args:
        run: Its folder. records: Every trial that ended. finalists: The best, measured again, the winner first.
        winner: The winning network. warnings: What the reader should know before trusting it.
    """

    run: Run
    records: tuple[TrialRecord, ...]
    finalists: tuple[Finalist, ...]
    winner: ArchSpec
    warnings: tuple[str, ...]


class Watcher:
    """Whoever wants to see a search go on overrides what interests them; the command line draws its progress so."""

    def packing(self, done: int, total: int) -> None:
        """Images have been decoded."""

    def started(self, run: Run, data: Dataset, facts: Mapping[str, Any], known: Sequence[TrialRecord]) -> None:
        """The search begins, with the records of trials that have ended already."""

    def opened(self, run: Run) -> None:
        """The run has its folder: from now on it can be continued."""

    def note(self, sentence: str) -> None:
        """Something happened that the user should know."""

    def waiting(self) -> None:
        """Another run holds the device."""

    def phase(self, record: TrialRecord, phase: int, phases: int) -> None:
        """A phase of a trial begins."""

    def trial(self, record: TrialRecord) -> None:
        """A trial has ended."""

    def finalist(self, fresh: Fresh) -> None:
        """A phase of a finalist's fresh training begins."""
