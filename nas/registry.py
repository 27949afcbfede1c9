"""One small registry, for the folders whose files register themselves."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from typing import Generic, TypeVar

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


def import_folder(package: str) -> None:
    """Import every public module of a package, so that each can register what it holds."""
    module = importlib.import_module(package)
    for info in pkgutil.iter_modules(module.__path__):
        if not info.name.startswith("_"):
            importlib.import_module(f"{package}.{info.name}")
