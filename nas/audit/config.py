"""What an audit is asked to do. Every setting and its default is documented here, once."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from nas.errors import UsageError
from nas.registry import settings_of


@dataclass(frozen=True)
class AuditConfig:
    """The settings of an audit.

    Args:
        run: Folder of the search; None is the latest.
        networks: Trained networks to train once more by the run's recipe and once long, half of them of the better half.
        long: How many times the recipe's epochs the long training has.
        seeds: Fresh seeds for the best, the middle and the worst of them.
        tune_proxy: Train these networks by other recipes too, and name the cheapest that orders them well enough.
        tau: Kendall's tau with the long training that is well enough.
        against: Folder of another search under the same conditions; the two are compared, and nothing is trained.
        devices: Others of the same kind than the run's. data: Where its images are now, if they have moved.
    """

    run: str | None = None
    networks: int = 8
    long: float = 5.0
    seeds: int = 3
    tune_proxy: bool = False
    tau: float = 0.7
    against: str | None = None
    devices: str | None = None
    data: str | None = None

    def __post_init__(self) -> None:
        for name in ("run", "against", "data"):
            value = getattr(self, name)
            if value is not None:
                if not isinstance(value, str | os.PathLike):
                    raise UsageError(f"{option(name)}: found {value!r}; allowed: a path.")
                object.__setattr__(self, name, os.fspath(value))
        for name, (fits, allowed) in _ALLOWED.items():
            value = getattr(self, name)
            if isinstance(value, bool) != (name == "tune_proxy") or not fits(value):
                raise UsageError(f"{option(name)}: found {value}; allowed: {allowed}.")


def option(name: str) -> str:
    """Return the option of the command line that a setting has."""
    return "RUN" if name == "run" else f"--{name.replace('_', '-')}"


def from_settings(settings: dict[str, Any], where: str) -> AuditConfig:
    """Return the settings that were given by name.

    Raises:
        UnknownNameError: no such setting. UsageError: a value that cannot be used.
    """
    return settings_of(AuditConfig, settings, where)


_ALLOWED: dict[str, tuple[Callable[[Any], bool], str]] = {
    "networks": (lambda value: isinstance(value, int) and 4 <= value <= 1000, "a whole number from 4"),
    "long": (lambda value: isinstance(value, int | float) and 1.5 <= value <= 1000, "a number from 1.5"),
    "seeds": (lambda value: isinstance(value, int) and 2 <= value <= 100, "a whole number from 2 to 100"),
    "tau": (lambda value: isinstance(value, int | float) and 0 < value < 1, "a number between 0 and 1"),
    "tune_proxy": (lambda value: isinstance(value, bool), "true or false"),
    "devices": (lambda value: value is None or isinstance(value, str), "text such as auto, cpu or cuda:0,cuda:1"),
}
