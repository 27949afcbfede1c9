"""What a check says, and how checks are kept from taking each other down."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from nas.errors import NasError

Level = Literal["ok", "warning", "problem"]


@dataclass(frozen=True)
class Check:
    """One finding.

    Args:
        area: What it belongs to: `software`, `device`, `folders`, `space`, `data`, `speed`.
        name: What was looked at, in a word or two.
        level: `ok`; `warning`: a search runs, but heed this; `problem`: it would stop `nas search`.
        found: What was found, in words. advice: What to do about it.
        values: The figures behind the words.
    """

    area: str
    name: str
    level: Level
    found: str
    advice: str = ""
    values: Mapping[str, Any] = field(default_factory=dict)


def isolated(area: str, name: str, look: Callable[[], Iterable[Check]], unexpected: Level = "warning") -> list[Check]:
    """Return the findings of one look. A look that fails is a finding of its own, and the others still take place.

    Args:
        unexpected: What an exception is that `nas` has no words for: a problem where a search would meet it too, and a
            warning where it only means that this could not be told. An error with words is a problem.
    """
    try:
        return list(look())
    except NasError as error:
        return [Check(area, name, "problem", str(error))]
    except Exception as error:  # whatever it was, the page goes on
        return [Check(area, name, unexpected, f"could not be looked at ({type(error).__name__}: {error})")]
