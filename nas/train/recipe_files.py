"""Reading recipes from YAML and manifests, strictly: what the recipes of a search and those of a full training share."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, TypeVar

import yaml

from nas.errors import UnknownNameError, UsageError, nearest
from nas.registry import Registry
from nas.train.schedule import Progressive
from nas.yaml_text import composed

R = TypeVar("R")
Test = tuple[Callable[[Any], bool], str]
"""Whether a value is allowed, and the words for what is."""
Allowed = dict[str, Test]


class _Loader(yaml.SafeLoader):
    """Takes 1e-3 for a number, as a space file does: YAML 1.1 takes it for text, for want of a point."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+"), list("-+.0123456789")
)


def load(name: str | os.PathLike[str], known: Registry[R], from_document: Callable[[dict[str, Any], str], R]) -> R:
    """Return a recipe by name, or from a YAML file that changes some keys of one.

    Args:
        from_document: Makes a recipe of a file's content, and of the file's name for errors.

    Raises:
        UnknownNameError: no such recipe. UsageError: a file that cannot be read; more from `from_document`.
    """
    path = Path(name)
    if path.suffix not in {".yaml", ".yml"}:
        return known[os.fspath(name)]
    try:
        loader, root = composed(path, _Loader)
        data = None if root is None else loader.construct_document(root)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UsageError(f"{path}: cannot be read as a recipe ({error}). Give a YAML file of recipe keys.") from None
    if not isinstance(data, dict):
        raise UsageError(f"{path}: found {type(data).__name__}; a recipe is a mapping of keys.")
    return from_document({"name": path.stem, **data}, str(path))


def changed(base: R, data: dict[str, Any], where: str) -> R:
    """Return a recipe with some keys changed; its values are not looked at yet.

    Raises:
        UnknownNameError: an unknown key, with the nearest one. UsageError: `progressive` is no mapping.
    """
    changes: dict[str, Any] = {}
    for key, value in data.items():
        if key == "progressive":
            if not isinstance(value, dict):
                raise UsageError(f"{where}: progressive: found {value!r}; allowed: a mapping such as {{phases: 2}}.")
            spans: dict[str, Any] = {
                name: tuple(item) if isinstance(item, list) else item for name, item in value.items()
            }
            _known(where, spans, Progressive, "progressive.")
            changes[key] = replace(base.progressive, **spans)  # type: ignore[attr-defined]  # every recipe has one
        else:
            changes[key] = tuple(value) if isinstance(value, list) else value
    _known(where, changes, type(base), "")
    return replace(base, **changes)  # type: ignore[type-var]  # every recipe is a dataclass


def checked(recipe: R, where: str, allowed: Allowed) -> R:
    """Return the recipe, all of whose values are allowed.

    Raises:
        UsageError: the first value that is not.
    """
    for prefix, holder, tests in (
        ("", recipe, allowed),
        ("progressive.", recipe.progressive, ALLOWED_PROGRESSIVE),  # type: ignore[attr-defined]
    ):
        for key, (fits, words) in tests.items():
            value = getattr(holder, key)
            if not fits(value):
                raise UsageError(f"{where}: {prefix}{key}: found {value!r}; allowed: {words}.")
    return recipe


def _known(where: str, found: dict[str, Any], kind: type, prefix: str) -> None:
    known = [item.name for item in fields(kind)]
    for key in found:
        if key not in known:
            raise UnknownNameError(
                f"{where}: {prefix}{key}: unknown key. Known: {', '.join(known)}.{nearest(key, known)}"
            )


# --- what a value may be ----------------------------------------------------------------------------------

MOST = sys.float_info.max
LEAST_ABOVE_ZERO = 5e-324
MOST_BELOW_ONE = 1 - 1e-9


def number(value: object, least: float, most: float) -> bool:
    """Tell whether a value is a number (true and false are none) from `least` to `most`."""
    return isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= most


def whole(value: object, least: int) -> bool:
    """Tell whether a value is a whole number from `least`."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def between(least: float, most: float, words: str) -> Test:
    """Return the test for a number from `least` to `most`."""
    return (lambda value: number(value, least, most)), words


def pair(least: float, most: float, words: str) -> Test:
    """Return the test for two numbers from `least` to `most`."""
    return (
        lambda value: isinstance(value, tuple) and len(value) == 2 and all(number(item, least, most) for item in value)
    ), words


def one_of(*names: str) -> Test:
    """Return the test for one of some names."""
    return (lambda value: isinstance(value, str) and value in names), " or ".join((", ".join(names[:-1]), names[-1]))


NAME: Test = (lambda value: isinstance(value, str), "a name")
SWITCH: Test = (lambda value: isinstance(value, bool), "true or false")
COUNT: Test = (lambda value: whole(value, 1), "a whole number from 1")
COUNT_FROM_ZERO: Test = (lambda value: whole(value, 0), "a whole number from 0")
BATCH: Test = (lambda value: whole(value, 2), "a whole number from 2")
ABOVE_ZERO = between(LEAST_ABOVE_ZERO, MOST, "a number above 0")
FROM_ZERO = between(0, MOST, "a number from 0")
FROM_ONE = between(1, MOST, "a number from 1")
BELOW_ONE = between(0, MOST_BELOW_ONE, "a number from 0, below 1")
SHARE = between(0, 1, "a number from 0 to 1")
ABOVE_ZERO_SHARE = between(1e-6, 1, "a number above 0, up to 1")
SPAN = pair(0, MOST, "two numbers from 0")
BETAS = pair(0, MOST_BELOW_ONE, "two numbers from 0, below 1")

_SIZE = pair(1e-6, 1, "")[0]

ALLOWED_PROGRESSIVE: Allowed = {
    "phases": COUNT,
    "size": (
        lambda value: _SIZE(value) and value[0] <= value[1] == 1,
        "two shares of the network's resolution, the second 1 (a network is trained last at its own)",
    ),
    "magnitude": SPAN,
    "mixup": SPAN,
    "dropout": pair(0, MOST_BELOW_ONE, "two numbers from 0, below 1"),
    "rule": one_of("paper", "shipped"),
    "multiple": COUNT,
}
