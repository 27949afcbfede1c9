"""Which packages are installed, and which would add something."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, requires, version

from packaging.requirements import Requirement

import nas
from nas.doctor._check import Check

EXTRAS = {
    "dashboard": "watching a run in the browser (nas dashboard)",
    "onnx": "ONNX files and latency under onnxruntime (nas export --format onnx, nas latency)",
    "timm": "a network as a module of timm (nas export --format timm)",
    "gp": "Optuna's sampler of Gaussian processes (nas search --sampler gp)",
    "postgres": "a study that a team watches in one database (nas search --storage postgresql://...)",
    "ray": "a search on many machines (nas search --engine ray)",
}
"""The optional extras that add something for a user, and what."""


def versions() -> Iterator[Check]:
    """Yield the versions of `phinas`, Python and the packages that are needed."""
    system = f"{platform.system()} {platform.machine()}"
    found = f"{nas.__version__}, Python {platform.python_version()}, {system}"
    yield Check("software", "phinas", "ok", found, values={"phinas": nas.__version__})
    needed = [item for item in _requirements() if item.marker is None or item.marker.evaluate({"extra": ""})]
    numbers = {item.name: _version(item.name) for item in needed}
    absent = [str(item) for item in needed if numbers[item.name] is None]
    wrong = [
        item
        for item in needed
        if (number := numbers[item.name]) and not item.specifier.contains(number, prereleases=True)
    ]
    words = ", ".join(f"{name} {number}" for name, number in numbers.items() if number)
    if absent:
        missing = f"not installed: {', '.join(absent)}"
        yield Check("software", "packages", "problem", missing, f"pip install {_quoted(absent)}", numbers)
    elif wrong:
        odd = "; ".join(f"{item.name} {numbers[item.name]}, tested with {item.specifier}" for item in wrong)
        yield Check("software", "packages", "warning", odd, f"pip install {_quoted(map(str, wrong))}", numbers)
    else:
        yield Check("software", "packages", "ok", words, values=numbers)


def extras() -> Iterator[Check]:
    """Yield the optional extras: what they are for, and how to get those that are absent."""
    for extra, purpose in EXTRAS.items():
        parts = [item for item in _requirements() if item.marker is not None and item.marker.evaluate({"extra": extra})]
        numbers = {item.name: _version(item.name) for item in parts}
        if not numbers:  # metadata of an older installation does not know it
            continue
        absent = [name for name, number in numbers.items() if number is None]
        if absent:
            found = f"optional, not installed ({', '.join(absent)}); for {purpose}"
            yield Check("software", extra, "ok", found, f"to add it: pip install 'phinas[{extra}]'", numbers)
        else:
            yield Check("software", extra, "ok", ", ".join(f"{k} {v}" for k, v in numbers.items()), values=numbers)


def _requirements() -> list[Requirement]:
    return [Requirement(text) for text in requires("phinas") or ()]


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _quoted(items: Iterable[str]) -> str:
    return " ".join(f"'{item}'" for item in items)
