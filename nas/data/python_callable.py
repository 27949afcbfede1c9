"""Images that a Python function returns: `module:function`, imported from the current directory or what is installed."""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from nas.data._arrays import of_mapping, read_arrays
from nas.data._types import SOURCES, RawDataset, Source, path_of, reason
from nas.errors import DataError, nearest

NAME = "python-callable"
ALLOWED = "(images, labels), a dict of arrays, or a nas.data.RawDataset"
VALUE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")


def _matches(value: str) -> bool:
    return bool(VALUE.fullmatch(value)) and not os.path.exists(path_of(value))


def _read(value: str) -> RawDataset:
    module, _, name = value.partition(":")
    with _current_directory():
        function = _import(value, module, name)
        try:
            returned = function()
        except (Exception, SystemExit) as error:
            raise DataError(
                f"{value}: raised {type(error).__name__} ({reason(error)}); a function that takes no argument and "
                f"returns {ALLOWED} is expected. Run it by itself to see where."
            ) from error
    if isinstance(returned, RawDataset):
        _check(value, returned)
        return returned
    if isinstance(returned, tuple) and len(returned) == 2:
        returned = {"images": returned[0], "labels": returned[1]}
    if not isinstance(returned, Mapping) or not all(isinstance(key, str) for key in returned):
        raise DataError(f"{value}: returned {_kind(returned)}; {ALLOWED} is allowed. Return one of them.")
    return read_arrays(value, name, returned, of_mapping(value, returned))


@contextmanager
def _current_directory() -> Iterator[None]:
    """Let modules of the current directory be imported, as `python -m` does."""
    here = os.getcwd()
    sys.path.insert(0, here)
    try:
        yield
    finally:
        if here in sys.path:
            sys.path.remove(here)


def _import(value: str, module: str, name: str) -> Any:
    """Return what a module calls by a name, which may have dots, and is callable."""
    try:
        found: Any = importlib.import_module(module)
    except (Exception, SystemExit) as error:
        if isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{error.name}."):
            raise DataError(
                f"{value}: there is no module {error.name!r}; one in the current directory or installed is needed. "
                f"Check the name, or change to its directory."
            ) from None
        raise DataError(
            f"{value}: importing {module} raised {type(error).__name__} ({reason(error)}); a module that can be "
            f"imported is needed. Run: python -c 'import {module}'"
        ) from error
    for part in name.split("."):
        if not hasattr(found, part):
            known = [each for each in dir(found) if not each.startswith("_")]
            raise DataError(
                f"{value}: {module} has no {part!r}; it has {', '.join(known[:10]) or 'nothing'}"
                f"{', ...' if len(known) > 10 else ''}. Correct the name.{nearest(part, known)}"
            )
        found = getattr(found, part)
    if not callable(found):
        raise DataError(f"{value}: is {_kind(found)}; a function is needed. Wrap it in one that returns {ALLOWED}.")
    return found


def _kind(value: object) -> str:
    length = f" of {len(value)}" if isinstance(value, (tuple, list)) else ""
    return f"{type(value).__name__}{length}" if value is not None else "nothing (None)"


def _check(value: str, raw: RawDataset) -> None:
    """Refuse a data set whose parts do not fit together. Callers of `nas` made it, so nothing is taken for granted."""
    labels, in_val = raw.labels, raw.in_val
    if not (isinstance(labels, np.ndarray) and labels.ndim == 1 and labels.dtype == np.int64):
        found = "labels that are not an int64 array (N,)"
    elif len(labels) and not 0 <= labels.min() <= labels.max() < len(raw.class_names):
        found = f"labels from {labels.min()} to {labels.max()} for {len(raw.class_names)} class names"
    elif len(set(raw.class_names)) != len(raw.class_names):
        found = "two classes of one name"
    elif in_val is not None and not (
        isinstance(in_val, np.ndarray) and in_val.dtype == np.bool_ and in_val.shape == labels.shape
    ):
        found = "an in_val that is not a bool array of the length of the labels"
    else:
        return
    raise DataError(
        f"{value}: returned a RawDataset with {found}; see nas.data.RawDataset for what is allowed. Correct it."
    )


SOURCES.register(
    NAME,
    Source(
        name=NAME,
        understands="a function module:name that returns (images, labels), a dict of arrays or a RawDataset",
        matches=_matches,
        read=_read,
    ),
)
