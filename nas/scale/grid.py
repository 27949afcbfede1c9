"""The grid of alpha, beta and gamma, what each point of it builds, and which of them are worth a training.

Many triples build one network: layers are whole, channels and pixels are rounded. So the grid is walked by what is
built. A network stands for all its triples and is named by one of them: of those with 1 for what is not scaled, the one
whose theory is nearest to the target.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from nas.cost import count
from nas.scale.compound import PUBLISHED, Coefficients, Rules, at, pixels
from nas.spec import ArchSpec

SINGLE = ("depth", "width", "resolution")
"""The kinds of points that scale one dimension alone."""

METRICS = ("macs", "step_time", "params")


Level = tuple[int, int, int]

BASE: Level = (0, 0, 0)
"""The level of the base itself."""


@dataclass(frozen=True)
class Point:
    """A network on the grid.

    Args:
        coefficients: Of the triples that build it, with 1 for what is not scaled, the one whose theory is nearest to the target.
        kind: `compound`, `depth`, `width` or `resolution`: what is scaled.
        level: The place of its depth, width and resolution among those that differ, each from 0. It tells networks apart.
        members: The triples that build it. on_surface: How many of them are the target in theory, within the tolerance.
        macs, params: Multiples of the base's, of the network as it is built.
    """

    coefficients: Coefficients
    spec: ArchSpec
    kind: str
    level: Level
    members: tuple[Coefficients, ...]
    on_surface: int
    macs: float
    params: float


@dataclass(frozen=True)
class Grid:
    """The networks of a grid that cost about the target, in theory or as they are built.

    Args:
        points: By level; the base is none. networks: Different networks in the whole box. surface: Triples whose theory is the
            target, within the tolerance.
    """

    points: tuple[Point, ...]
    networks: int
    surface: int
    target: float
    tolerance: float

    @property
    def surface_points(self) -> tuple[Point, ...]:
        """The networks that the triples on the surface build."""
        return tuple(point for point in self.points if point.on_surface)


ABOUT = 2.0
"""Points whose multiply-adds are within this factor of the target are looked at, on the surface of the theory or off it."""


def grid(
    base: ArchSpec, rules: Rules, *, target: float, tolerance: float, step: float, gamma_too: bool, reach: float
) -> Grid:
    """Return what a grid of alpha, beta, gamma >= 1 builds at phi = 1.

    Tan & Le 2019, section 3.3: alpha * beta^2 * gamma^2 near 2. All triples of the box around that surface are looked at, for
    the network that really costs twice as much may lie off it.

    Args:
        target: The wished multiple of the cost. tolerance: Largest difference of alpha * beta^2 * gamma^2 from it.
        step: Of each coefficient.
        gamma_too: False keeps gamma at 1.
        reach: The box ends at this multiple of what one dimension alone would need in theory.
    """
    most = {"depth": target * reach, "width": math.sqrt(target) * reach, "resolution": math.sqrt(target) * reach}
    levels = {
        "depth": _levels(base, rules, "depth", _values(most["depth"], step)),
        "width": _levels(base, rules, "width", _values(most["width"], step)),
        "resolution": _levels(base, rules, "resolution", _values(most["resolution"], step) if gamma_too else (1.0,)),
    }
    own = count(base)
    points: list[Point] = []
    surface = 0
    for depth, width in itertools.product(range(len(levels["depth"])), range(len(levels["width"]))):
        flat = 0.0
        for place, gammas in enumerate(levels["resolution"]):
            triples = [
                Coefficients(*triple)
                for triple in itertools.product(levels["depth"][depth], levels["width"][width], gammas)
            ]
            near = [item for item in triples if abs(item.theory - target) <= tolerance + 1e-9]
            surface += len(near)
            pixels_ratio = (pixels(base, gammas[0], rules) / pixels(base, 1.0, rules)) ** 2
            # Counting is what takes the time: a network whose cost is far off, by that of its smallest images, is not counted.
            if flat and not near and not target / ABOUT / 1.2 <= flat * pixels_ratio <= target * ABOUT * 1.2:
                continue
            level = (depth, width, place)
            # What is not scaled keeps 1: a coefficient that rounding swallows here would be claimed without having been tried.
            honest = [
                item
                for item in triples
                if all(index or value == 1 for index, value in zip(level, vars(item).values(), strict=True))
            ]
            best = min(honest, key=lambda item: (abs(math.log(item.theory / target)), item.alpha, item.beta))
            spec = at(base, depth=best.alpha, width=best.beta, resolution=best.gamma, rules=rules)
            built = count(spec)
            flat = flat or built.macs / own.macs
            if level == (0, 0, 0) or not (near or target / ABOUT <= built.macs / own.macs <= target * ABOUT):
                continue
            scaled = [name for name, index in zip(SINGLE, level, strict=True) if index]
            points.append(
                Point(
                    coefficients=best,
                    spec=spec,
                    kind=scaled[0] if len(scaled) == 1 else "compound",
                    level=level,
                    members=tuple(triples),
                    on_surface=len(near),
                    macs=built.macs / own.macs,
                    params=built.params / own.params,
                )
            )
    networks = math.prod(len(levels[name]) for name in SINGLE) - 1
    return Grid(tuple(points), networks, surface, target, tolerance)


def largest_resolution(base: ArchSpec, rules: Rules, *, target: float, step: float, reach: float) -> int:
    """Return the largest resolution of a grid, in pixels."""
    return pixels(base, _values(math.sqrt(target) * reach, step)[-1], rules)


def _values(most: float, step: float) -> tuple[float, ...]:
    """Return 1, 1 + step, ... up to the most."""
    return tuple(round(1 + index * step, 6) for index in range(int((most - 1) / step + 1e-9) + 1))


def _levels(base: ArchSpec, rules: Rules, name: str, values: Sequence[float]) -> list[tuple[float, ...]]:
    """Group the values of a coefficient by what they build; the first group holds 1 and is the base's own."""
    groups: dict[str, list[float]] = {}
    for value in values:
        multipliers = {key: value if key == name else 1.0 for key in SINGLE}
        spec = at(base, **multipliers, rules=rules)
        groups.setdefault(spec.arch_hash, []).append(value)
    return [tuple(group) for group in groups.values()]


def published_point(found: Grid) -> Point | None:
    """Return the point that the published coefficients (1.2, 1.1, 1.15) build, where the grid holds it."""
    return next((point for point in found.points if PUBLISHED in point.members), None)


Ratio = Callable[[Point], float]
"""The multiple of the base's cost that a point has, in the metric of the constraint."""


@dataclass(frozen=True)
class Choice:
    """Which points of a grid are trained, and why the others are not.

    Args:
        points: To be trained. reasons: Why another point is not, by its level.
    """

    points: tuple[Point, ...]
    reasons: Mapping[Level, str]


def choose(found: Grid, ratio: Ratio, *, within: float, budget: int, first: Sequence[Level] = ()) -> Choice:
    """Return points whose built cost is the target, spread over the constraint surface.

    Of each single dimension the point nearest to the target is among them, also where rounding leaves it farther away than
    others may be, and so is the published point. Of two networks of which one contains the other (deeper or equal, wider or
    equal, larger images or equal) both cannot be on the surface: of compound ones only that nearer to the target is taken.
    The rest is filled up with those that are farthest from all taken ones, in the logarithms of what depth, width and
    resolution cost in theory.

    Args:
        within: Share of the target by which a cost may differ. budget: How many are taken.
        first: Levels of points that are taken before others, if their cost is the target.
    """
    reasons: dict[Level, str] = {}
    close: list[Point] = []
    for point in found.points:
        if abs(ratio(point) / found.target - 1) <= within:
            close.append(point)
        else:
            reasons[point.level] = f"costs {ratio(point):.2f} times the base, not {found.target:g}"
    compound = [point for point in close if point.kind == "compound"]
    maximal = [point for point in compound if not _dominated(point, compound, ratio, found.target)]
    for point in close:
        if point.kind != "compound":
            reasons[point.level] = "another network that scales this dimension alone is nearer to the target"
        elif point not in maximal:
            reasons[point.level] = "another one contains it or is contained in it, and is nearer to the target"
    taken = [point for point in found.points if point.level in first and point in close]
    for kind in SINGLE:
        single = [point for point in found.points if point.kind == kind]
        nearest = min(single, key=lambda point: _miss(ratio(point), found.target), default=None)
        if nearest is not None and _miss(ratio(nearest), found.target) <= math.log(1.5) and nearest not in taken:
            taken.append(nearest)
    left = [point for point in maximal if point not in taken]
    while left and len(taken) < budget:
        farthest = max(left, key=lambda point: (_apart(point, taken), -_miss(ratio(point), found.target)))
        left.remove(farthest)
        taken.append(farthest)
    for point in taken:
        reasons.pop(point.level, None)
    for point in left:
        reasons[point.level] = "beyond --budget"
    return Choice(tuple(taken), reasons)


def _miss(ratio: float, target: float) -> float:
    return abs(math.log(ratio / target))


def _dominated(point: Point, others: Sequence[Point], ratio: Ratio, target: float) -> bool:
    """Tell whether a comparable network (one contains the other) is nearer to the target."""
    own = _miss(ratio(point), target)
    for other in others:
        if other is point or not (_contains(other, point) or _contains(point, other)):
            continue
        miss = _miss(ratio(other), target)
        if miss < own or (miss == own and _contains(point, other)):
            return True
    return False


def _contains(large: Point, small: Point) -> bool:
    return all(one >= two for one, two in zip(large.level, small.level, strict=True))


def _apart(point: Point, taken: Sequence[Point]) -> float:
    """Return the distance to the nearest taken point."""
    return min((math.dist(_place(point), _place(other)) for other in taken), default=math.inf)


def _place(point: Point) -> tuple[float, float, float]:
    """Return where a point is on the surface: what each dimension contributes to the theory, as a logarithm."""
    found = point.coefficients
    return math.log(found.alpha), 2 * math.log(found.beta), 2 * math.log(found.gamma)
