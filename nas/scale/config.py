"""What a scaling is asked to do. Every setting and its default is documented here, once."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nas.errors import UsageError
from nas.registry import settings_of
from nas.scale.compound import MAX_RESOLUTION_V2, Coefficients, Rules
from nas.scale.grid import METRICS


@dataclass(frozen=True)
class ScaleConfig:
    """The settings of a scaling.

    Args:
        source: A search run (its winner is scaled), an architecture by name or YAML file; None is the latest search.
        phi: The sizes to build; 0.5 is one as well. Each is that many times "the target's multiple of the cost".
        data: Images; None takes those of the run, or the built-in ones.
        skip_broken: As in a search.
        recipe: How candidates are trained; None takes the run's, or `standard`.
        devices: As in a search.
        budget: Networks of the grid that are trained, the three single-dimension baselines and the published point among them.
        budget_metric: What a step of phi multiplies by `target`: `macs`, `step_time` (measured), or `params`. Resolution has no
            parameters, so with `params` gamma is 1.
        target: The multiple of the cost at phi = 1.
        tolerance: Largest difference of alpha * beta^2 * gamma^2 from the target for a triple to be on the surface of the theory.
            0.1 admits the published 1.2, 1.1, 1.15 (1.92); 0.05 would not.
        within: Share of the target by which the cost of a candidate, as it is built, may differ.
        grid_step: Of each coefficient.
        seeds: Trainings of each network that cannot be told from the best, of the baselines and of the base.
        seed: The first of them. It fixes weights, order and augmentation, not step times.
        coefficients: Use these (alpha, beta, gamma) and train nothing.
        policy, depth_rounding, resolution_multiple, max_resolution, keep_stem, keep_head, keep_first_last: See `Rules`;
            a `max_resolution` of None is 480 with policy `v2` and no limit with `v1`.
        out: Folder; None is RUN/scale, or `results/<time>-scale-<name>-<device>` for an architecture.
    """

    source: str | None = None
    phi: tuple[float, ...] = (1.0,)
    data: str | None = None
    skip_broken: bool = False
    recipe: str | None = None
    devices: str = "auto"
    budget: int = 12
    budget_metric: str = "macs"
    target: float = 2.0
    tolerance: float = 0.1
    within: float = 0.15
    grid_step: float = 0.05
    seeds: int = 2
    seed: int = 0
    coefficients: tuple[float, float, float] | None = None
    policy: str = "v1"
    depth_rounding: str = "ceil"
    resolution_multiple: int = 8
    max_resolution: int | None = None
    keep_stem: bool = False
    keep_head: bool = False
    keep_first_last: bool = False
    out: Path | None = None

    def __post_init__(self) -> None:
        for name in ("source", "data", "recipe", "out"):
            value = getattr(self, name)
            if value is None:
                continue
            if not isinstance(value, str | os.PathLike):
                raise UsageError(f"{option(name)}: found {value!r}; allowed: a name or a path.")
            object.__setattr__(self, name, Path(value) if name == "out" else os.fspath(value))
        phi: Any = self.phi
        sizes = tuple(phi) if isinstance(phi, tuple | list) else (phi,)
        if all(_number(item, 0, math.inf) for item in sizes):
            sizes = tuple(sorted(set(sizes)))
        object.__setattr__(self, "phi", sizes)
        given: Any = self.coefficients
        object.__setattr__(self, "coefficients", tuple(given) if isinstance(given, list) else given)
        for name, (fits, allowed) in _ALLOWED.items():
            value = getattr(self, name)
            if not fits(value):
                shown = ", ".join(f"{item}" for item in value) if isinstance(value, tuple) else value
                raise UsageError(f"{option(name)}: found {shown}; allowed: {allowed}.")
        if self.coefficients is not None:
            Coefficients(*self.coefficients)

    def rules(self) -> Rules:
        """Return what happens to a network besides the multipliers."""
        own = {name: getattr(self, name) for name in Rules.__dataclass_fields__}
        if self.max_resolution is None:
            own["max_resolution"] = MAX_RESOLUTION_V2 if self.policy == "v2" else 0
        return Rules(**own)

    def document(self) -> dict[str, Any]:
        """Return the settings as plain data, for the manifest."""
        return {name: str(value) if isinstance(value, Path) else value for name, value in asdict(self).items()}


def option(name: str) -> str:
    """Return the option of the command line that a setting has."""
    return "--from" if name == "source" else f"--{name.replace('_', '-')}"


def from_settings(settings: dict[str, Any], where: str) -> ScaleConfig:
    """Return the settings that were given by name.

    Raises:
        UnknownNameError: no such setting. UsageError: a value that cannot be used.
    """
    return settings_of(ScaleConfig, settings, where)


def _number(value: object, least: float, most: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= most


def _whole(value: object, least: int, most: int) -> bool:
    return isinstance(value, int) and _number(value, least, most)


_ALLOWED: dict[str, tuple[Callable[[Any], bool], str]] = {
    "phi": (
        lambda value: bool(value) and all(_number(item, 1e-6, 20) for item in value),
        "numbers above 0, up to 20, such as 1,2,3",
    ),
    "devices": (lambda value: isinstance(value, str), "text such as auto, cpu or cuda:0,cuda:1"),
    "budget": (
        lambda value: _whole(value, 4, 10_000),
        "a whole number from 4 (depth, width and resolution alone, and one that is compound)",
    ),
    "budget_metric": (lambda value: value in METRICS, ", ".join(METRICS)),
    "target": (lambda value: _number(value, 1.1, 16), "a number from 1.1 to 16; 2 is twice the cost"),
    "tolerance": (lambda value: _number(value, 0, 1), "a number from 0 to 1"),
    "within": (lambda value: _number(value, 0.01, 0.5), "a share from 0.01 to 0.5"),
    "grid_step": (lambda value: _number(value, 0.01, 0.5), "a number from 0.01 to 0.5"),
    "seeds": (lambda value: _whole(value, 1, 100), "a whole number from 1"),
    "seed": (lambda value: _whole(value, 0, 2**31), "a whole number from 0"),
    "coefficients": (
        lambda value: (
            value is None
            or (isinstance(value, tuple) and len(value) == 3 and all(_number(item, 1, 16) for item in value))
        ),
        "alpha,beta,gamma, each from 1, such as 1.2,1.1,1.15",
    ),
    "policy": (lambda value: value in ("v1", "v2"), "v1, v2"),
    "depth_rounding": (lambda value: value in ("ceil", "round"), "ceil, round"),
    "resolution_multiple": (lambda value: _whole(value, 1, 256), "a whole number of pixels from 1"),
    **dict.fromkeys(
        ("skip_broken", "keep_stem", "keep_head", "keep_first_last"),
        (lambda value: isinstance(value, bool), "true or false"),
    ),
    "max_resolution": (lambda value: value is None or _whole(value, 0, 16_384), "pixels; 0 is no limit"),
}
