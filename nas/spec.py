"""What one architecture *is*: frozen values, their canonical text and hash, and the rounding rules.

A spec holds the numbers of the paper (base channels and layers) beside its multipliers, so that scaling a
network again never rounds twice. `ArchSpec.resolved()` applies the multipliers; identity is the hash of the
canonical JSON of the resolved spec, so two ways to write one network have one hash.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

Value = bool | int | float | str
"""What a key of a layer can hold."""

SCHEMA_VERSION = 1
"""Version of the canonical JSON. It is part of the hash: a change of meaning must change it."""


# --- rounding ---------------------------------------------------------------------------------------------


def round_channels(channels: float, divisor: int = 8, limit: float = 0.9) -> int:
    """Round a number of channels to a multiple of `divisor`, never below `limit` of the wish.

    The 10 percent rule (`limit=0.9`) is that of MnasNet, EfficientNet, timm and torchvision; EfficientNetV2
    has none (`limit=0`), and EfficientNet-B3 and EfficientNetV2-B3 differ by it (19.2 -> 24 or 16).
    Source: Sandler et al. 2018, arXiv:1801.04381, released code `_make_divisible`.
    """
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < limit * channels else rounded


def round_depth(num_layers: int, mult: float) -> int:
    """Round a scaled number of layers up. Guarded against 25 * 2.2 = 55.000000000000007, which is 55.

    Source: Tan & Le 2019, arXiv:1905.11946, released code `round_repeats`.
    """
    return math.ceil(round(num_layers * mult, 6))


def round_resolution(resolution: float) -> int:
    """Round a scaled resolution (pixels) to the nearest multiple of 8, at least 8.

    The published sizes follow no single rule (240, 260, 300); multiples of 8 keep the stride-2 maps even, and
    uneven ones cost up to 15 % more multiply-adds (a map of 257 pixels has the cost of 260).
    """
    return max(8, int(resolution / 8 + 0.5) * 8)


# --- what a block reads -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Key:
    """One key that a block reads from its layer, such as `kernel_size`.

    Args:
        kind: Type of the value. An `int` is accepted where a `float` is asked for.
        default: Value where the file gives none.
        minimum, maximum: Bounds of a number, both allowed values.
        odd: A number must be odd (a kernel that has a centre).
        names: The names that a `str` may be.
        quiet: The small print of one family: may be given once for the whole file, and is left out of a layer (of its
            text and its hash) where it has its default.
        doc: What it means, with its unit.
    """

    kind: type
    default: Value
    minimum: float | None = None
    maximum: float | None = None
    odd: bool = False
    names: tuple[str, ...] = ()
    quiet: bool = False
    doc: str = ""

    def problem(self, value: object) -> str | None:
        """Say what is wrong with a value, or return None."""
        number = isinstance(value, int | float) and not isinstance(value, bool)
        fits = number if self.kind is float else isinstance(value, self.kind) and number == (self.kind is int)
        if not fits or (self.names and value not in self.names):
            return f"found {value!r}; allowed: {self.allowed()}"
        if number:
            assert isinstance(value, int | float)
            low = self.minimum is not None and value < self.minimum
            high = self.maximum is not None and value > self.maximum
            if low or high or not math.isfinite(value) or (self.odd and value % 2 == 0):
                return f"found {value!r}; allowed: {self.allowed()}"
        return None

    def allowed(self) -> str:
        """Say which values are allowed."""
        if self.names:
            return " or ".join(self.names)
        words = {int: "a whole number", float: "a number", bool: "true or false", str: "a name"}[self.kind]
        if self.odd:
            words = words.replace("a whole", "an odd whole")
        if self.minimum is not None:
            words += f" from {self.minimum:g}"
        if self.maximum is not None:
            words += f" up to {self.maximum:g}"
        return words


@dataclass(frozen=True)
class BlockRule:
    """What the space language must know of a block: the keys it reads, and when it does not read them.

    Args:
        keys: The keys by name.
        masked: Maps the options of a layer to those that shape the network: a key that the block does not read
            *with these other values* is set to the value it has without effect (no squeeze-excitation in a
            fused block without expansion, say). It is also given the layer's `activation`, and may not change it.
        roles: Where the block may stand: `stem`, `stage`, `head`.
        skip: The skip connection that the block has where the file names none: `identity` or `none`. Empty: its skip
            connection cannot be chosen.
    """

    keys: Mapping[str, Key]
    masked: Callable[[Mapping[str, Value]], Mapping[str, Value]] = lambda options: options
    roles: frozenset[str] = frozenset({"stage"})
    skip: str = ""

    def read(self, options: Mapping[str, Value], activation: str) -> dict[str, Value]:
        """Return the options that shape the network: masked, and without small print that has its default."""
        masked = self.masked({"activation": activation} | {key: options[key] for key in self.keys})
        return {
            name: masked[name] for name, key in self.keys.items() if not (key.quiet and masked[name] == key.default)
        }

    def skip_of(self, wish: str) -> str:
        """Return the skip connection that a block has with a wish, where the shapes allow it."""
        return wish or self.skip or "none"

    def all_options(self, options: Mapping[str, Value]) -> dict[str, Value]:
        """Return options with the small print that was left out."""
        return {name: key.default for name, key in self.keys.items() if key.quiet} | dict(options)


Rules = Mapping[str, BlockRule]
"""The known blocks by name."""


# --- the spec ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LayerSpec:
    """A run of equal blocks.

    Args:
        block: Name of the block type.
        out_channels: Channels that each block hands on, before `width_mult`.
        num_layers: Blocks in the run, before `depth_mult`.
        stride: Stride of the first block; the others have 1.
        activation: Name of the activation function.
        options: The keys that the block reads besides, sorted by name.
        skip: `identity`, `pool` or `none`: what is added to the output of each block where the shapes allow it; empty:
            what the block has by itself.
        scale_width: Whether `width_mult` acts on `out_channels`: `always`, `up` (only above 1) or `never`.
        scale_depth: Whether `depth_mult` acts on `num_layers`.
    """

    block: str
    out_channels: int
    num_layers: int = 1
    stride: int = 1
    activation: str = "silu"
    options: tuple[tuple[str, Value], ...] = ()
    skip: str = ""
    scale_width: str = "always"
    scale_depth: bool = True

    def __getitem__(self, key: str) -> Any:
        """Return an option, such as `layer["kernel_size"]`."""
        return dict(self.options)[key]

    def document(self) -> dict[str, Any]:
        """Return the layer as the space language writes it."""
        return {
            "block": self.block,
            **{key: _plain(value) for key, value in self.options},
            "out_channels": self.out_channels,
            "num_layers": self.num_layers,
            "stride": self.stride,
            "activation": self.activation,
            **{key: getattr(self, key) for key, default in _QUIET_LAYER.items() if getattr(self, key) != default},
        }


_QUIET_LAYER: dict[str, Value] = {"skip": "", "scale_width": "always", "scale_depth": True}


@dataclass(frozen=True)
class StageSpec:
    """One stage: runs of blocks, of which only the first may have a stride."""

    layers: tuple[LayerSpec, ...]

    @property
    def num_layers(self) -> int:
        """Blocks in the stage, before `depth_mult`."""
        return sum(layer.num_layers for layer in self.layers)


@dataclass(frozen=True)
class ArchSpec:
    """One architecture: stem, stages and head, and the multipliers on them.

    Args:
        stem, stages, head: The layers; a head of None means pool and classify.
        stem_pool: Whether a 3 x 3 max pooling of stride 2 follows the stem (ResNet).
        pool_first: Whether the image is pooled before the head, not after it (MobileNetV3).
        resolution: Input height and width in pixels, before `resolution_mult`.
        num_classes, in_channels: Outputs, and channels of the image.
        dropout: Rate before the classifier. drop_path: Rate of the last block; block i of N has `rate * i / N`.
        width_mult, depth_mult, resolution_mult: Multipliers on channels, layers and resolution.
        channel_divisor, round_limit: How scaled channels are rounded, see `round_channels`.
        norm_eps, norm_momentum: Batch norm; the momentum is torch's (0.1 is 0.9 in TensorFlow's terms).
        name, reference: For people; not part of the identity.
    """

    stem: LayerSpec
    stages: tuple[StageSpec, ...]
    head: LayerSpec | None
    resolution: int
    num_classes: int = 1000
    in_channels: int = 3
    dropout: float = 0.2
    drop_path: float = 0.2
    width_mult: float = 1.0
    depth_mult: float = 1.0
    resolution_mult: float = 1.0
    channel_divisor: int = 8
    round_limit: float = 0.9
    norm_eps: float = 1e-3
    norm_momentum: float = 0.1
    stem_pool: bool = False
    pool_first: bool = False
    name: str = ""
    reference: str = ""

    def resolved(self) -> ArchSpec:
        """Return the same network with its multipliers applied, so that they are all 1."""
        stem = self._wide(self.stem)
        stages, channels = [], stem.out_channels
        for stage in self.stages:
            stages.append(settled(self.resolved_stage(stage), channels))
            channels = stages[-1].layers[-1].out_channels
        return replace(
            self,
            stem=stem,
            stages=tuple(stages),
            head=None if self.head is None else self._wide(self.head),
            resolution=(
                self.resolution
                if self.resolution_mult == 1
                else round_resolution(self.resolution * self.resolution_mult)
            ),
            width_mult=1.0,
            depth_mult=1.0,
            resolution_mult=1.0,
            pool_first=self.pool_first and self.head is not None,
        )

    def resolved_stage(self, stage: StageSpec) -> StageSpec:
        """Return a stage with the multipliers of this spec applied. (`settled` comes after: it needs the stage before.)"""
        left = sum(layer.num_layers for layer in stage.layers if layer.scale_depth)
        deep = stage if self.depth_mult == 1 else deepened(stage, round_depth(left, self.depth_mult))
        runs = [self._wide(layer) for layer in deep.layers]
        return StageSpec(merged(tuple(runs)))

    def _wide(self, layer: LayerSpec) -> LayerSpec:
        """Return a layer with its width scaled, and without the fields that say how it scales: they are used up."""
        if self.width_mult == 1 or layer.scale_width == "never" or (layer.scale_width == "up" and self.width_mult < 1):
            wide = layer.out_channels
        else:
            wide = round_channels(layer.out_channels * self.width_mult, self.channel_divisor, self.round_limit)
        return replace(layer, out_channels=wide, scale_width="always", scale_depth=True)

    def canonical(self) -> str:
        """Return the canonical JSON of the resolved network: sorted keys, no names, no neutral numbers."""
        spec = self.resolved()
        content = {
            "schema": SCHEMA_VERSION,
            "stem": spec.stem.document(),
            "stages": [[layer.document() for layer in stage.layers] for stage in spec.stages],
            "head": None if spec.head is None else spec.head.document(),
            **{key: _plain(getattr(spec, key)) for key in _IDENTITY},
            **{key: True for key in ("stem_pool", "pool_first") if getattr(spec, key)},
        }
        return json.dumps(content, sort_keys=True, separators=(",", ":"))

    @property
    def arch_hash(self) -> str:
        """Identity of the network: 16 hexadecimal digits of the SHA-256 of `canonical()`."""
        return hashlib.sha256(self.canonical().encode()).hexdigest()[:16]

    def document(self) -> dict[str, Any]:
        """Return the architecture as the space language writes it: a space with no choices left."""
        head: dict[str, Any] = {"dropout": _plain(self.dropout)}
        if self.head is not None:
            head = _without(self.head.document(), "num_layers") | head
        if self.pool_first:
            head["pool_first"] = True
        stages = [
            stage.layers[0].document()
            if len(stage.layers) == 1
            else {"layers": [layer.document() for layer in stage.layers]}
            for stage in self.stages
        ]
        named = {key: getattr(self, key) for key in ("name", "reference") if getattr(self, key)}
        rest = {key: _plain(getattr(self, key)) for key in _DOCUMENT if getattr(self, key) != _DEFAULTS[key]}
        return named | {
            "resolution": self.resolution,
            "num_classes": self.num_classes,
            "in_channels": self.in_channels,
            **rest,
            "stem": _without(self.stem.document(), "num_layers") | ({"max_pool": True} if self.stem_pool else {}),
            "stages": stages,
            "head": head,
        }


_IDENTITY = ("resolution", "num_classes", "in_channels", "dropout", "drop_path", "norm_eps", "norm_momentum")
_DOCUMENT = (
    "drop_path",
    "width_mult",
    "depth_mult",
    "resolution_mult",
    "channel_divisor",
    "round_limit",
    "norm_eps",
    "norm_momentum",
)
_DEFAULTS = {key: ArchSpec.__dataclass_fields__[key].default for key in _DOCUMENT}


def scaled(spec: ArchSpec, *, depth: float = 1.0, width: float = 1.0, resolution: float = 1.0) -> ArchSpec:
    """Return a spec scaled by multipliers on top of its own; rounding happens once, from the base numbers."""
    return replace(
        spec,
        depth_mult=spec.depth_mult * depth,
        width_mult=spec.width_mult * width,
        resolution_mult=spec.resolution_mult * resolution,
    )


def deepened(stage: StageSpec, num_layers: int) -> StageSpec:
    """Return a stage with so many layers, besides those that `depth_mult` does not act on.

    A stage of several runs is scaled as a whole and the layers are spread from its last run backwards, as timm does
    (`_scale_stage_depth`): the total is that of the whole stage, or more where a run needs its one layer.
    """
    runs = list(stage.layers)
    before, after = sum(layer.num_layers for layer in runs if layer.scale_depth), num_layers
    for index in reversed(range(len(runs))):
        if not runs[index].scale_depth:
            continue
        own = runs[index].num_layers
        given = max(1, round(own / before * after))
        runs[index] = replace(runs[index], num_layers=given)
        before, after = before - own, after - given
    return StageSpec(tuple(runs))


def merged(layers: tuple[LayerSpec, ...]) -> tuple[LayerSpec, ...]:
    """Join neighbouring runs that are the same but for their length: one network, one text."""
    out: list[LayerSpec] = []
    for layer in layers:
        if (
            out
            and layer.stride == 1
            and replace(layer, num_layers=1, stride=out[-1].stride) == replace(out[-1], num_layers=1)
        ):
            out[-1] = replace(out[-1], num_layers=out[-1].num_layers + layer.num_layers)
        else:
            out.append(layer)
    return tuple(out)


def settled(stage: StageSpec, in_channels: int) -> StageSpec:
    """Return a resolved stage without wishes for a skip connection where a block can have none.

    So that a wish without effect makes no second text of one network: a block that can have none takes the wish of the
    block after it where that makes one run of them, and else loses its own.
    """
    only = stage.layers[0]
    if not any(layer.skip for layer in stage.layers) or (len(stage.layers) == 1 and only.num_layers > 1):
        return stage  # what follows would find the same; nearly every stage ends here
    layers = settled_layers(stage, in_channels)
    for index in reversed(range(len(layers) - 1)):
        this, after = layers[index], layers[index + 1]
        before = layers[index - 1].out_channels if index else in_channels
        joined = replace(this, skip=after.skip)
        if joined == replace(after, stride=this.stride) and not (has_skip(this, before) or has_skip(joined, before)):
            layers[index] = joined
    return StageSpec(merged(tuple(layers)))


def settled_layers(stage: StageSpec, in_channels: int) -> list[LayerSpec]:
    """Return a resolved stage block by block, each without a wish for a skip connection that it cannot have.

    Two stages with the same blocks here are one, and have one text once they are `settled`.
    """
    layers = []
    for layer in single_layers(stage):
        layers.append(layer if has_skip(layer, in_channels) else replace(layer, skip=""))
        in_channels = layer.out_channels
    return layers


def has_skip(layer: LayerSpec, in_channels: int) -> bool:
    """Tell whether a block's shapes allow what it wishes: identity needs stride 1 and equal channels, pooling the latter."""
    return layer.out_channels == in_channels and (layer.stride == 1 or layer.skip == "pool")


def summary(spec: ArchSpec) -> str:
    """Return one readable line: each stage of the resolved network as block, kernel, expansion, SE, skip, width, depth.

    Without the small print of squeeze-excitation, which is a family's and not a network's.
    """
    parts = []
    for stage in spec.resolved().stages:
        for layer in stage.layers:
            options = "".join(
                f"_{_SHORT.get(key, key)}{_plain(value)}"
                for key, value in layer.options
                if value not in (0, False) and (key == "se_ratio" or not key.startswith("se_"))
            )
            options += "".join(f"_no-{key}" for key, value in layer.options if value is False)
            options += f"_skip-{layer.skip}" if layer.skip else ""
            parts.append(f"{_SHORT.get(layer.block, layer.block)}{options}_c{layer.out_channels}x{layer.num_layers}")
    return f"{spec.resolved().resolution}px " + " ".join(parts)


_SHORT = {"kernel_size": "k", "expand_ratio": "e", "se_ratio": "se", "fused_mbconv": "fused"}


def single_layers(stage: StageSpec) -> list[LayerSpec]:
    """Return a stage block by block, each with its own stride: the run's for the first of a run, 1 for the others."""
    return [
        replace(run, num_layers=1, stride=run.stride if place == 0 else 1)
        for run in stage.layers
        for place in range(run.num_layers)
    ]


def _plain(value: Any) -> Any:
    """Write 4.0 as 4, so that a number has one text."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _without(mapping: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in mapping.items() if name != key}
