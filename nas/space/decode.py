"""From a space and a chooser to one architecture, and what the choices are."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping

from nas.space.model import Domain, LayerSpace, SearchSpace, StageSpace
from nas.spec import ArchSpec, LayerSpec, Rules, StageSpec, Value, has_skip, merged, single_layers

Choose = Callable[[str, Domain], Value]
"""Picks one value of a domain: an Optuna trial, a seeded random generator or stored values, by the choice's name."""

SHAPING = ("activation", "width_mult", "depth_mult")
"""The choices for the whole network that act on its layers; the others are numbers of the network itself."""


def decode(
    space: SearchSpace,
    choose: Choose,
    *,
    num_classes: int | None = None,
    in_channels: int | None = None,
) -> ArchSpec:
    """Make every choice of a space and return the architecture.

    The encoding has a fixed length: layers that the chosen depth leaves out and keys that the chosen block does
    not read are asked for all the same, and masked afterwards. Names are stable: `s2.kernel_size` is the second
    stage's kernel, `s2.l3.kernel_size` its third layer's, `s2.r1.kernel_size` its first run's.

    Args:
        choose: Called once for each open choice, in a fixed order.
        num_classes, in_channels: Those of the data; by default the space's own.
    """

    def pick(name: str, domain: Domain) -> Value:
        return domain.values[0] if domain.fixed else choose(name, domain)

    def number(name: str, domain: Domain) -> float:
        value = pick(name, domain)
        assert isinstance(value, int | float)
        return value

    activation = str(pick("activation", space.activation))
    top = {
        name: float(number(name, getattr(space, name)))
        for name in ("dropout", "drop_path", "width_mult", "depth_mult", "resolution_mult")
    }
    resolution = int(number("resolution", space.resolution))
    stem = _layer("stem", space.stem, pick, activation, space.rules)
    stages = tuple(
        _stage(f"s{index}", stage, pick, activation, space.rules) for index, stage in enumerate(space.stages, 1)
    )
    head = None if space.head is None else _layer("head", space.head, pick, activation, space.rules)
    return ArchSpec(
        stem=stem,
        stages=stages,
        head=head,
        resolution=resolution,
        num_classes=space.num_classes if num_classes is None else num_classes,
        in_channels=space.in_channels if in_channels is None else in_channels,
        channel_divisor=space.channel_divisor,
        round_limit=space.round_limit,
        norm_eps=space.norm_eps,
        norm_momentum=space.norm_momentum,
        stem_pool=space.stem_pool,
        pool_first=space.pool_first,
        name=space.name,
        reference=space.reference,
        **top,
    )


def decode_stage(space: SearchSpace, number: int, choose: Choose, activation: str) -> StageSpec:
    """Make the choices of one stage (numbered from 1) of a space; `activation` is that of the whole network."""

    def pick(name: str, domain: Domain) -> Value:
        return domain.values[0] if domain.fixed else choose(name, domain)

    return _stage(f"s{number}", space.stages[number - 1], pick, activation, space.rules)


def _stage(prefix: str, stage: StageSpace, pick: Choose, activation: str, rules: Rules) -> StageSpec:
    if not stage.per_layer:
        single = len(stage.layers) == 1
        runs = [
            _layer(prefix if single else f"{prefix}.r{run}", layer, pick, activation, rules)
            for run, layer in enumerate(stage.layers, 1)
        ]
        return StageSpec(merged(tuple(runs)))
    layer = stage.layers[0]
    num_layers = int(pick(f"{prefix}.num_layers", layer.num_layers))
    shared: dict[str, Value] = {}

    def pick_layer(name: str, domain: Domain) -> Value:
        where, _, key = name.rpartition(".")
        if key in stage.per_layer:
            return pick(name, domain)
        if key not in shared:  # asked once, under the stage's own name
            shared[key] = 1 if key == "num_layers" else pick(f"{prefix}.{key}", domain)
        return 1 if key == "stride" and where != f"{prefix}.l1" else shared[key]

    most = int(max(float(value) for value in layer.num_layers.values))
    layers = [_layer(f"{prefix}.l{index}", layer, pick_layer, activation, rules) for index in range(1, most + 1)]
    return StageSpec(merged(tuple(layers[:num_layers])))


def _layer(prefix: str, layer: LayerSpace, pick: Choose, activation: str, rules: Rules) -> LayerSpec:
    def chosen(key: str, domain: Domain) -> Value:
        return pick(f"{prefix}.{key}", domain)

    block = str(chosen("block", layer.block))
    options = {key: chosen(key, domain) for key, domain in layer.options.items()}
    own = None if layer.activation is None else str(chosen("activation", layer.activation))
    out_channels, num_layers, stride = (
        int(chosen(key, getattr(layer, key))) for key in ("out_channels", "num_layers", "stride")
    )
    rule = rules[block]
    skip = str(chosen("skip", layer.skip))
    return LayerSpec(
        block=block,
        out_channels=out_channels,
        num_layers=num_layers,
        stride=stride,
        activation=own or activation,
        options=tuple(sorted(rule.read(options, own or activation).items())),
        skip="" if skip == rule.skip or not rule.skip else skip,
        scale_width=layer.scale_width,
        scale_depth=layer.scale_depth,
    )


def choices(space: SearchSpace) -> dict[str, Domain]:
    """Return the open choices of a space by name, in the order in which `decode` asks for them."""
    asked: dict[str, Domain] = {}

    def record(name: str, domain: Domain) -> Value:
        asked[name] = domain
        return domain.values[0]

    decode(space, record)
    return asked


def random_choose(rng: random.Random) -> Choose:
    """Return a chooser that draws every value uniformly."""
    return lambda name, domain: domain.values[rng.randrange(len(domain.values))]


def stored_choose(values: Mapping[str, Value]) -> Choose:
    """Return a chooser that answers from stored values by name."""
    return lambda name, domain: values[name]


def middle_choose(name: str, domain: Domain) -> Value:
    """Choose the middle value of a domain (the lower one of two): the network that stands for a whole space."""
    return domain.values[(len(domain.values) - 1) // 2]


def forbidden(space: SearchSpace, spec: ArchSpec) -> list[str]:
    """Return a line for each `forbid` rule that an architecture breaks: the place and the rule."""
    broken = []
    for rule in space.forbid:
        channels = spec.stem.out_channels
        for number, stage in enumerate(spec.stages, 1):
            blocks = list(_blocks(space.rules, stage, channels))
            channels = stage.layers[-1].out_channels
            if rule.stage in (None, number) and any(
                all(set(values) & content.get(key, set()) for key, values in rule.values.items()) for content in blocks
            ):
                broken.append(f"s{number}: {rule}")
    return broken


def _blocks(rules: Rules, stage: StageSpec, channels: int) -> Iterator[dict[str, set[Value]]]:
    """Yield for each block of a stage the values that it has of each key, under any name that a rule may give them."""
    runs = [run for run in stage.layers for _ in range(run.num_layers)]
    for run, block in zip(runs, single_layers(stage), strict=True):
        known = rules[run.block]
        content = {key: {value} for key, value in (run.document() | known.all_options(dict(run.options))).items()}
        if "block" in content.get("se_activation", ()):
            content["se_activation"].add(run.activation)
        content.pop("skip", None)
        if known.skip:
            content["skip"] = {known.skip_of(block.skip) if has_skip(block, channels) else "none"}
        channels = run.out_channels
        yield content
