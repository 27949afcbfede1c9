"""What a search space is, once read: domains of values, arranged as stem, stages and head."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from nas.spec import ArchSpec, Rules, Value


@dataclass(frozen=True)
class Domain:
    """The values that one key may take. A single value is fixed and never asked for.

    Args:
        values: The values; numbers in ascending order.
        ordered: Numbers are ordered, and samplers see their index; names and switches are categories.
    """

    values: tuple[Value, ...]
    ordered: bool

    @property
    def fixed(self) -> bool:
        """Whether there is nothing to choose."""
        return len(self.values) == 1


@dataclass(frozen=True)
class LayerSpace:
    """A run of equal blocks, each key a domain.

    Args:
        options: The keys that any of its blocks reads.
        skip: The skip connections to choose from; the empty one is the block's own.
        scale_width, scale_depth: How the multipliers act, see `nas.spec.LayerSpec`.
        unread: The keys that the file gives and none of its blocks reads; they are never asked for.
    """

    block: Domain
    out_channels: Domain
    num_layers: Domain
    stride: Domain
    activation: Domain | None
    options: Mapping[str, Domain]
    skip: Domain = Domain(("",), ordered=False)
    scale_width: str = "always"
    scale_depth: bool = True
    unread: Mapping[str, Domain] = field(default_factory=dict)


@dataclass(frozen=True)
class StageSpace:
    """One stage. The keys named in `per_layer` are chosen anew for each of its layers."""

    layers: tuple[LayerSpace, ...]
    per_layer: tuple[str, ...] = ()


@dataclass(frozen=True)
class Limit:
    """A bound on a cost, in the unit of its name (`num_params`, `macs`, `step_time_ms`, `latency_ms`, `peak_memory_mib`)."""

    cost: str
    max: float | None = None
    min: float | None = None


@dataclass(frozen=True)
class ForbidRule:
    """A combination that no layer may have: every key has one of its values. `stage` (1, 2, ...) narrows it."""

    values: Mapping[str, tuple[Value, ...]]
    stage: int | None = None

    def __str__(self) -> str:
        where = [] if self.stage is None else [f"stage {self.stage}"]
        return ", ".join(where + [f"{k} {' or '.join(map(str, v))}" for k, v in self.values.items()])


@dataclass(frozen=True)
class SearchSpace:
    """A search space: what `decode` turns into an `ArchSpec`, choice by choice.

    Args:
        rules: The blocks it may name, and the keys they read.
        recipe: Name of the training recipe that suits the space's size, where the user names none.
        text: The file after `extends` was followed, as canonical JSON; `space_hash` is its SHA-256.
        baseline: The network whose step time and size the score is relative to, or None for the middle of the space.
    """

    rules: Rules = field(repr=False, compare=False)
    name: str
    stem: LayerSpace
    stages: tuple[StageSpace, ...]
    head: LayerSpace | None
    resolution: Domain
    activation: Domain
    dropout: Domain
    drop_path: Domain
    width_mult: Domain
    depth_mult: Domain
    resolution_mult: Domain
    num_classes: int = 1000
    in_channels: int = 3
    channel_divisor: int = 8
    round_limit: float = 0.9
    norm_eps: float = 1e-3
    norm_momentum: float = 0.1
    stem_pool: bool = False
    pool_first: bool = False
    reference: str = ""
    recipe: str = "standard"
    forbid: tuple[ForbidRule, ...] = ()
    limits: tuple[Limit, ...] = ()
    baseline: ArchSpec | None = None
    text: str = field(default="", repr=False)
    space_hash: str = ""

    def limit(self, cost: str) -> Limit | None:
        """Return the limit on a cost, if the space has one."""
        return next((limit for limit in self.limits if limit.cost == cost), None)

    @property
    def max_resolution(self) -> int:
        """The largest base resolution, in pixels, before `resolution_mult`."""
        return int(max(float(value) for value in self.resolution.values))

    @property
    def largest_input(self) -> int:
        """The largest resolution of a network of the space, in pixels: `resolution_mult` applied. Images are stored for it."""
        return max(int(float(mult) * self.max_resolution) for mult in self.resolution_mult.values)

    def layers(self) -> Iterator[tuple[str, LayerSpace]]:
        """Return every run of the space with its place (`stem`, `s1`, `s2.r1`, `head`)."""
        yield "stem", self.stem
        for number, stage in enumerate(self.stages, 1):
            for run, layer in enumerate(stage.layers, 1):
                yield (f"s{number}" if len(stage.layers) == 1 else f"s{number}.r{run}"), layer
        if self.head is not None:
            yield "head", self.head
