"""Things by name: one small registry, for the folders whose files register themselves, and settings."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any, Generic, TypeVar

from nas.errors import UnknownNameError, nearest

T = TypeVar("T")


class Registry(Generic[T]):
    """Values by name. Filled while modules are imported, never after.

    Args:
        kind: What the values are, for error messages ("block", "sampler").
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._values: dict[str, T] = {}

    def register(self, name: str, value: T) -> T:
        """Add a value and return it. A name can be taken once."""
        if name in self._values:
            raise ValueError(f"{self.kind} {name!r} is registered twice")
        self._values[name] = value
        return value

    def __getitem__(self, name: str) -> T:
        """Return the value of a name.

        Raises:
            UnknownNameError: no such name; the message lists the known ones and the nearest match.
        """
        try:
            return self._values[name]
        except KeyError:
            known = ", ".join(sorted(self._values))
            raise UnknownNameError(
                f"{self.kind}: {name!r} is not known. Known: {known}.{nearest(name, self._values)}"
            ) from None

    def __contains__(self, name: object) -> bool:
        return name in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._values))

    def __len__(self) -> int:
        return len(self._values)


def settings_of(kind: type[T], given: Mapping[str, Any], where: str) -> T:
    """Return a dataclass of settings made from those that were given by name.

    Raises:
        UnknownNameError: no such setting.
    """
    known = [item.name for item in fields(kind)]  # type: ignore[arg-type]  # every kind of settings is a dataclass
    for name in given:
        if name not in known:
            raise UnknownNameError(
                f"{where}: {name}: unknown setting. Known: {', '.join(known)}.{nearest(name, known)}"
            )
    return kind(**given)


def import_folder(package: str) -> None:
    """Import every public module of a package, so that each can register what it holds."""
    module = importlib.import_module(package)
    for info in pkgutil.iter_modules(module.__path__):
        if not info.name.startswith("_"):
            importlib.import_module(f"{package}.{info.name}")
