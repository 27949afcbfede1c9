"""The exception tree. Every error a user can cause or meet has a class here, with its exit code.

```
NasError                 1   any error that `nas` explains in one line
├── UsageError           2   a wrong option or argument
├── UnknownNameError     2   a name that a registry does not hold
├── SpaceError           1   a space file that cannot be understood, with every problem in it
├── WeightsError         1   weights that cannot be read, or are of another network
├── DataError            1   images that cannot be read or used
├── DeviceError          1   a device that is absent, or cannot do what was asked
├── MeasurementError     1   a cost that could not be measured
├── RunError             1   a run folder that cannot be written, found or continued
├── ExportError          1   a network that a format cannot express, or a written one that is not its source
└── SearchError          1   a search that cannot go on
    └── TrialBug         1   the program failed on one architecture, which was saved for replay
```

A message reads *where: what was found; what is allowed. What to do.* and fits one line where it can.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import SequenceMatcher, get_close_matches


class NasError(Exception):
    """An error that the command line prints as one line, without a traceback."""

    exit_code = 1


class UsageError(NasError):
    """A wrong option or argument."""

    exit_code = 2


class UnknownNameError(UsageError):
    """A name that is not registered. The message lists the known names and the nearest one."""


class SpaceError(NasError):
    """A space file that cannot be understood. `problems` holds one line for each thing wrong with it."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))

    def __reduce__(self) -> tuple[type[SpaceError], tuple[tuple[str, ...]]]:
        return type(self), (self.problems,)


class WeightsError(NasError):
    """Weights that cannot be read, or that are those of another network."""


class DataError(NasError):
    """Images that cannot be read, or cannot be used for a search."""


class DeviceError(NasError):
    """A device that is absent, or cannot do what was asked of it."""


class MeasurementError(NasError):
    """A cost that could not be measured: it came out missing, zero, negative or not finite."""


class RunError(NasError):
    """A run folder that cannot be written, found or continued."""


class ExportError(NasError):
    """A network that a format cannot express, or an export that could not be written or is not equal to its source."""


class SearchError(NasError):
    """A search that cannot go on."""


class TrialBug(SearchError):
    """The program failed on one architecture; the message names the file that replays it."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ` Did you mean X?` for the nearest known name (the first of equally near ones), or an empty string."""
    words = sorted(known)
    matches = get_close_matches(name, words, n=max(1, len(words)), cutoff=0.6)
    # difflib puts the last of equals first: efficientnet_bo would be told of efficientnet_b7.
    best = min(matches, key=lambda word: (-SequenceMatcher(None, word, name).ratio(), word), default="")
    return f" Did you mean {best}?" if best else ""
