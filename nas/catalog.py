"""Spaces and networks by name or file, read with the registered blocks."""

from __future__ import annotations

import os
import shlex
from dataclasses import replace
from pathlib import Path

from nas import blocks, runs, space
from nas.errors import RunError, SpaceError, UnknownNameError, UsageError
from nas.space import Domain, SearchSpace, library
from nas.spec import ArchSpec


def load_space(name: str | os.PathLike[str]) -> SearchSpace:
    """Return the search space of a shipped name (`v2`, `efficientnet_b0`) or of a YAML file.

    Raises:
        UnknownNameError: no such file and no such shipped space.
        SpaceError: everything that is wrong with the file, each problem with its line.
    """
    return space.load(name, blocks.rules())


def adapted(found: SearchSpace, *, resolution: int | None = None, num_classes: int | None = None) -> SearchSpace:
    """Return a space with another input size (pixels) or number of classes, its baseline's too."""
    if resolution is not None:
        found = replace(found, resolution=Domain((resolution,), True), resolution_mult=Domain((1.0,), True))
        if found.baseline is not None:
            found = replace(found, baseline=replace(found.baseline, resolution=resolution, resolution_mult=1.0))
    if num_classes is not None:
        found = replace(found, num_classes=num_classes)
        if found.baseline is not None:
            found = replace(found, baseline=replace(found.baseline, num_classes=num_classes))
    return found


def load_arch(
    name: str | os.PathLike[str], *, resolution: int | None = None, num_classes: int | None = None
) -> ArchSpec:
    """Return the architecture of a space without choices: a reference network or a winner file, or that of a run's folder.

    Args:
        resolution, num_classes: In place of the file's own.

    Raises:
        SpaceError: the file leaves choices open. RunError, UsageError: a folder without a network.
    """
    found = load_space(arch_file(name))
    still_open = list(space.choices(found))
    if still_open:
        shown = ", ".join(still_open[:3]) + (", ..." if len(still_open) > 3 else "")
        raise SpaceError(
            [
                f"{name}: a search space with {len(still_open)} open choices ({shown}), not an architecture. "
                "Name a network, or a space file in which every key has one value."
            ]
        )
    spec = space.decode(found, space.middle_choose, num_classes=num_classes)
    return spec if resolution is None else replace(spec, resolution=resolution, resolution_mult=1.0)


_NETWORKS = {"search": ("winner.yaml", "winner", "search"), "train": ("arch.yaml", "network", "train")}
"""Of a kind of run the file of its network, what it is called, and the command that continues the run."""


def arch_file(name: str | os.PathLike[str]) -> str:
    """Return the file of the network of a folder: a search's winner, what a training trained, an export; else the name.

    Raises:
        RunError: no run, or one that has no network yet. UsageError: a run of another kind.
    """
    folder, given = Path(name), os.fspath(name)
    if not folder.is_dir():
        return given
    if (folder / "export.json").is_file() and (folder / "architecture.yaml").is_file():
        return str(folder / "architecture.yaml")
    if not (folder / "manifest.json").is_file():
        try:  # a folder may be called like a shipped network
            library.find(given)
        except UnknownNameError:
            runs.open_run(folder)  # says that it is no run
        return given
    kind = runs.open_run(folder).manifest.get("kind")
    if kind not in _NETWORKS:
        raise UsageError(
            f"{given}: is a {kind} run, which has no network of its own; the runs of nas search and nas train have. "
            "Name one of them, or a YAML file."
        )
    file, word, command = _NETWORKS[kind]
    if not (folder / file).is_file():
        raise RunError(f"{given}: has no {word} yet. Finish it: nas {command} --resume {shlex.quote(given)}")
    return str(folder / file)


def baseline(found: SearchSpace, *, num_classes: int, in_channels: int) -> ArchSpec:
    """Return the network that a space's scores are relative to: its `baseline`, or else the middle of the space."""
    if found.baseline is not None:
        return replace(found.baseline, num_classes=num_classes, in_channels=in_channels)
    spec = space.decode(found, space.middle_choose, num_classes=num_classes, in_channels=in_channels)
    return replace(spec, name=f"{found.name}-middle")
