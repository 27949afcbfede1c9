"""Compound scaling: phi, alpha, beta and gamma to a network. Pure; nothing is trained or measured.

Tan & Le 2019 (EfficientNet), arXiv:1905.11946, equation 3: depth alpha^phi, width beta^phi, resolution gamma^phi, with
alpha * beta^2 * gamma^2 near 2, so that the cost grows like 2^phi. In theory: layers are whole, channels are multiples of
a divisor, and the built network may cost something else. Whoever needs the cost counts the built network.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

from nas.errors import UsageError
from nas.spec import ArchSpec, StageSpec, deepened, round_depth, scaled

MAX_RESOLUTION_V2 = 480
"""Pixels. Tan & Le 2021 (EfficientNetV2), arXiv:2104.00298, section 3.3: larger images cost memory and training time."""


MOST_LAYERS, MOST_WIDTH, MOST_PIXELS = 2000, 64, 4096
"""Beyond these a network is a mistake of who asked for it, and building its description alone would take minutes."""


@dataclass(frozen=True)
class Coefficients:
    """How depth (alpha), width (beta) and resolution (gamma) grow with phi; each is 1 or more."""

    alpha: float
    beta: float
    gamma: float

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not 1 <= value <= 16:
                raise UsageError(f"{name}: found {value:g}; allowed: 1 to 16. A network is scaled up, never down.")

    @property
    def theory(self) -> float:
        """What one step of phi multiplies the cost by, in theory: alpha * beta^2 * gamma^2 (equation 3)."""
        return self.alpha * self.beta**2 * self.gamma**2

    def __str__(self) -> str:
        return f"{self.alpha:g} / {self.beta:g} / {self.gamma:g}"


PUBLISHED = Coefficients(1.2, 1.1, 1.15)
"""What the grid search of EfficientNet-B0 found (section 3.3). Their product is 1.92."""


@dataclass(frozen=True)
class Rules:
    """What happens to a network besides the multipliers.

    Args:
        policy: `v1` deepens all stages alike (EfficientNet). `v2` gives the same number of new layers rather to later
            stages, and has a largest resolution (EfficientNetV2, section 3.3); its `depth_rounding` does not matter.
        depth_rounding: `ceil`, the published rule, adds a layer to every stage as soon as alpha^phi exceeds 1; `round`
            takes the nearest number of layers.
        resolution_multiple: A scaled resolution is the nearest multiple of this (pixels); phi = 0 keeps the network's own.
        max_resolution: Pixels; 0 is no limit.
        keep_stem, keep_head: The width of stem or head is not scaled (timm's `fix_stem_head`; MobileNetV2, EfficientNet-Lite).
        keep_first_last: The first and the last stage keep their number of layers (timm's `fix_first_last`).
    """

    policy: Literal["v1", "v2"] = "v1"
    depth_rounding: Literal["ceil", "round"] = "ceil"
    resolution_multiple: int = 8
    max_resolution: int = 0
    keep_stem: bool = False
    keep_head: bool = False
    keep_first_last: bool = False

    def document(self) -> dict[str, Any]:
        """Return the rules as plain data."""
        return {item.name: getattr(self, item.name) for item in fields(self)}


def scale(base: ArchSpec, coefficients: Coefficients, phi: float, rules: Rules) -> ArchSpec:
    """Return the network that a base becomes at phi. Rounding happens once, from the base's own numbers."""
    return at(
        base,
        depth=coefficients.alpha**phi,
        width=coefficients.beta**phi,
        resolution=coefficients.gamma**phi,
        rules=rules,
    )


def at(base: ArchSpec, *, depth: float, width: float, resolution: float, rules: Rules) -> ArchSpec:
    """Return a network with multipliers on its depth, width and resolution.

    Raises:
        UsageError: the resolution of the base itself is beyond the largest allowed, or the network would be beyond all reason.
    """
    spec = _kept(base, rules)
    layers = depth * sum(stage.num_layers for stage in spec.resolved().stages)
    if layers > MOST_LAYERS or width > MOST_WIDTH or pixels(base, resolution, rules) > MOST_PIXELS:
        raise UsageError(
            f"scaling by {depth:.3g} in depth, {width:.3g} in width and {resolution:.3g} in resolution: found a network of "
            f"{layers:.0f} layers at {pixels(base, resolution, rules)} pixels; allowed: {MOST_LAYERS} layers, {MOST_PIXELS} "
            f"pixels and {MOST_WIDTH} times the width. Give a smaller --phi."
        )
    spec = scaled(_deeper(spec, depth, rules), width=width)
    return replace(spec, resolution=pixels(base, resolution, rules), resolution_mult=1.0)


def pixels(base: ArchSpec, resolution: float, rules: Rules) -> int:
    """Return the resolution of a network scaled by a multiplier: the nearest allowed multiple, never below the base's own.

    Raises:
        UsageError: the resolution of the base itself is beyond the largest allowed.
    """
    own = base.resolved().resolution
    if rules.max_resolution and own > rules.max_resolution:
        raise UsageError(
            f"--max-resolution: found {rules.max_resolution}; the network itself has {own} pixels. Give {own} or more."
        )
    if resolution == 1:
        return own
    step = rules.resolution_multiple
    wanted = max(own, int(own * resolution / step + 0.5) * step)
    return min(wanted, rules.max_resolution or wanted)


def _kept(spec: ArchSpec, rules: Rules) -> ArchSpec:
    """Return a spec with what the rules exempt from scaling marked so; what its own multipliers did to it stays."""
    if rules.keep_stem:
        spec = replace(spec, stem=replace(spec.stem, out_channels=_own_width(spec, spec.stem), scale_width="never"))
    if rules.keep_head and spec.head is not None:
        spec = replace(spec, head=replace(spec.head, out_channels=_own_width(spec, spec.head), scale_width="never"))
    return spec


def _own_width(spec: ArchSpec, layer: Any) -> int:
    resolved = spec.resolved()
    found = resolved.stem if layer is spec.stem else resolved.head
    assert found is not None
    return found.out_channels


def _deeper(spec: ArchSpec, depth: float, rules: Rules) -> ArchSpec:
    """Return a spec with the layers of each stage scaled, written out, so that no multiplier on depth is left."""
    scaling = [_scaling(stage) for stage in spec.stages]
    own = [round_depth(layers, spec.depth_mult) for layers in scaling]
    last = len(own) - 1
    fixed = {0, last} if rules.keep_first_last else set()
    free = [place for place in range(len(own)) if place not in fixed and own[place]]
    if rules.policy == "v2":
        layers = _later(own, free, depth)
    else:
        layers = list(own)
        for place in free:
            wanted = scaling[place] * spec.depth_mult * depth
            # EfficientNet rounds up (`round_repeats`), guarded against 25 * 2.2 = 55.000000000000007.
            whole = math.ceil(round(wanted, 6)) if rules.depth_rounding == "ceil" else int(wanted + 0.5)
            layers[place] = max(own[place], whole)
    stages = tuple(
        deepened(stage, count) if before else stage
        for stage, before, count in zip(spec.stages, scaling, layers, strict=True)
    )
    return replace(spec, stages=stages, depth_mult=1.0)


def _scaling(stage: StageSpec) -> int:
    return sum(layer.num_layers for layer in stage.layers if layer.scale_depth)


def _later(own: Sequence[int], free: Sequence[int], depth: float) -> list[int]:
    """Share out new layers so that later stages get more: in proportion to a stage's layers times its place.

    Their number is that of `v1` with the nearest rounding of the whole network. EfficientNetV2 (section 3.3) says "gradually add
    more layers to later stages" and gives no formula; the rule is ours, and the released tables are explicit.
    """
    new = int(sum(own[place] for place in free) * (depth - 1) + 0.5)
    weights = {place: own[place] * (place + 1) for place in free}
    total = sum(weights.values())
    exact = {place: new * weight / total for place, weight in weights.items()}
    given = {place: int(share) for place, share in exact.items()}
    # Largest remainders get what is left; of equal ones the later stage.
    order = sorted(free, key=lambda place: (exact[place] - given[place], place), reverse=True)
    for place in order[: new - sum(given.values())]:
        given[place] += 1
    return [layers + given.get(place, 0) for place, layers in enumerate(own)]


@dataclass(frozen=True)
class Row:
    """A published network: its multipliers on a base, its resolution in pixels and its dropout."""

    name: str
    base: str
    width: float
    depth: float
    resolution: int
    dropout: float


EFFICIENTNET: tuple[Row, ...] = (
    Row("efficientnet_b0", "efficientnet_b0", 1.0, 1.0, 224, 0.2),
    Row("efficientnet_b1", "efficientnet_b0", 1.0, 1.1, 240, 0.2),
    Row("efficientnet_b2", "efficientnet_b0", 1.1, 1.2, 260, 0.3),
    Row("efficientnet_b3", "efficientnet_b0", 1.2, 1.4, 300, 0.3),
    Row("efficientnet_b4", "efficientnet_b0", 1.4, 1.8, 380, 0.4),
    Row("efficientnet_b5", "efficientnet_b0", 1.6, 2.2, 456, 0.4),
    Row("efficientnet_b6", "efficientnet_b0", 1.8, 2.6, 528, 0.5),
    Row("efficientnet_b7", "efficientnet_b0", 2.0, 3.1, 600, 0.5),
    Row("efficientnetv2_b0", "efficientnetv2_b0", 1.0, 1.0, 192, 0.2),
    Row("efficientnetv2_b1", "efficientnetv2_b0", 1.0, 1.1, 192, 0.2),
    Row("efficientnetv2_b2", "efficientnetv2_b0", 1.1, 1.2, 208, 0.3),
    Row("efficientnetv2_b3", "efficientnetv2_b0", 1.2, 1.4, 240, 0.3),
)
"""The released coefficients of EfficientNet (`efficientnet_params`) and EfficientNetV2-B (training resolutions).

They are a table, not powers: no phi gives them (of the published alpha, beta, gamma B4 has phi 3.2, 3.5 and 3.8).
"""

REPRODUCE = {"efficientnet": EFFICIENTNET}
"""Families that `nas scale --reproduce` builds from their published table."""


def published(row: Row, base: ArchSpec) -> ArchSpec:
    """Return a published network, made from its base by the released coefficients."""
    spec = at(base, depth=row.depth, width=row.width, resolution=1.0, rules=Rules())
    return replace(spec, resolution=row.resolution, resolution_mult=1.0, dropout=row.dropout, name=row.name)


def phi_of(multiplier: float, coefficient: float) -> float:
    """Return the phi at which a coefficient gives a multiplier: log(multiplier) / log(coefficient)."""
    return math.log(multiplier) / math.log(coefficient)
