"""What a search needs, looked at before it is started: software, device, folders, space, and images with their speed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from nas.doctor import device as devices
from nas.doctor import folders, images, software
from nas.doctor._check import Check, Level, isolated

if TYPE_CHECKING:
    from nas.data import Dataset
    from nas.space import SearchSpace
    from nas.spec import ArchSpec
    from nas.train.recipes import Recipe

__all__ = ["Check", "Level", "examine"]


def examine(
    *,
    space: str = "v2",
    data: str | None = None,
    skip_broken: bool = False,
    recipe: str | None = None,
    device: str = "auto",
    batch_size: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    doing: Callable[[str], None] | None = None,
) -> Iterator[Check]:
    """Yield findings as they are made, area by area. Nothing is raised: a look that fails is a finding.

    Args:
        space: The space that is to be searched. skip_broken, recipe, device: As of `nas search`.
        data: Images to look at and to time on; None leaves both out.
        batch_size: Of the timing; the recipe's unless given.
        progress: Called with (images decoded, all images) while images are packed.
        doing: Told what takes time now.
    """
    say = doing or (lambda _: None)
    yield from isolated("software", "versions", software.versions)
    yield from isolated("software", "extras", software.extras)
    build = isolated("device", "torch", lambda: devices.torch_build(device))
    yield from build
    if any(check.level == "problem" for check in build):
        return  # nothing below can be looked at without torch
    yield from isolated("device", "device", lambda: devices.chosen(device), "problem")
    yield from isolated("device", "cores", devices.cores)
    yield from isolated("device", "memory", devices.memory)
    yield from isolated("device", "timing lane", lambda: devices.timing_lane(device))
    yield from isolated("folders", "results", folders.results)
    yield from isolated("folders", "cache", folders.cache)
    held = _Held()
    yield from isolated("space", "space", lambda: _space(space, recipe, batch_size, held), "problem")
    if data is None:
        return
    say("reading images")
    yield from isolated("data", "data", lambda: _data(data, skip_broken, held, progress), "problem")
    say("timing the input and the training step")
    yield from isolated("speed", "speed", lambda: _speed(held, device, say), "problem")


@dataclass
class _Held:
    """What one look hands to the next; None where it failed."""

    space: SearchSpace | None = None
    recipe: Recipe | None = None
    data: Dataset | None = None


def _space(name: str, wanted: str | None, batch_size: int | None, held: _Held) -> Iterable[Check]:
    from nas import catalog
    from nas.errors import UsageError
    from nas.space import choices
    from nas.train.recipes import load_recipe

    space = catalog.load_space(name)
    if not choices(space):
        raise UsageError(f"--space: {name} is an architecture without open choices; name a space (see nas show).")
    recipe = load_recipe(wanted or space.recipe)
    if batch_size is not None:
        recipe = replace(recipe, batch_size=batch_size)
    baseline = catalog.baseline(space, num_classes=space.num_classes, in_channels=space.in_channels)
    held.space, held.recipe = space, recipe
    found = (
        f"{space.name}: {len(choices(space))} choices, up to {_largest(space)} pixels, recipe {recipe.name} (batch "
        f"{recipe.batch_size}), baseline {baseline.name}"
    )
    yield Check("space", "space", "ok", found, values={"resolution": _largest(space), "batch_size": recipe.batch_size})


def _largest(space: SearchSpace) -> int:
    return max(int(float(mult) * space.max_resolution) for mult in space.resolution_mult.values)


def _data(source: str, skip_broken: bool, held: _Held, progress: Callable[[int, int], None] | None) -> Iterable[Check]:
    from nas.data import load

    if held.space is None or held.recipe is None:
        return []  # said of the space already
    held.data = load(source, resolution=_largest(held.space), seed=0, progress=progress, skip_broken=skip_broken)
    return images.described(held.data, held.recipe)


def _speed(held: _Held, wanted: str, say: Callable[[str], None]) -> Iterator[Check]:
    import torch

    from nas.devices import pick_device

    if held.space is None or held.recipe is None or held.data is None:
        return
    spec = _baseline(held.space, held.data)
    try:
        found = images.throughput(
            held.data, spec, held.recipe, pick_device(wanted), lambda: say("waiting: another run has the device")
        )
    except (torch.OutOfMemoryError, RuntimeError) as error:
        if not isinstance(error, torch.OutOfMemoryError) and "memory" not in str(error):
            raise
        room = f"out of memory: a step of {spec.name} at batch {held.recipe.batch_size} does not fit"
        yield Check("speed", "memory", "problem", room, "Give a smaller --batch-size, and the search a recipe with it.")
        return
    yield from images.told(found, spec)


def _baseline(space: SearchSpace, data: Dataset) -> ArchSpec:
    from nas import catalog

    return catalog.baseline(space, num_classes=data.num_classes, in_channels=data.in_channels)
