"""Spaces and networks by name or file, read with the registered blocks."""

from __future__ import annotations

import os
from dataclasses import replace

from nas import blocks, space
from nas.errors import SpaceError
from nas.space import Domain, SearchSpace
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
    """Return the architecture of a space without choices: a reference network or a winner file.

    Args:
        resolution, num_classes: In place of the file's own.

    Raises:
        SpaceError: the file leaves choices open.
    """
    found = load_space(name)
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


def baseline(found: SearchSpace, *, num_classes: int, in_channels: int) -> ArchSpec:
    """Return the network that a space's scores are relative to: its `baseline`, or else the middle of the space."""
    if found.baseline is not None:
        return replace(found.baseline, num_classes=num_classes, in_channels=in_channels)
    spec = space.decode(found, space.middle_choose, num_classes=num_classes, in_channels=in_channels)
    return replace(spec, name=f"{found.name}-middle")
