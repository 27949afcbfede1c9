"""Which choices of a space shape a network, and which are masked by the others."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from nas.space.decode import choices
from nas.space.model import Domain, LayerSpace, SearchSpace
from nas.spec import Value

REMEMBERED = 100_000
"""Stages of which the answer is kept: networks that are looked at together differ in few of them."""


Read = Callable[[Mapping[str, Value]], Mapping[str, Value]]
"""Turns what stands for values, such as places in their order, into the values."""


def active_choices(
    space: SearchSpace, read: Read = lambda values: values
) -> Callable[[Mapping[str, Value]], frozenset[str]]:
    """Return a function that names the open choices that shape the network which given values of all of them make.

    Masked are the choices of layers that the chosen depth leaves out, and keys that the chosen block does not read with its
    other values. What only the shapes of the network decide (a skip connection where the stride is 2, say) counts as active.
    """
    names = tuple(choices(space))
    places = [name.partition(".")[0] for name in names]
    parts: dict[str, list[str]] = {
        place: [] for place in ("stem", *(f"s{n + 1}" for n in range(len(space.stages))), "head")
    }
    for name, place in zip(names, places, strict=True):
        parts.get(place, []).append(name)
    whole = frozenset(name for name, place in zip(names, places, strict=True) if place not in parts)
    known: dict[tuple[object, ...], frozenset[str]] = {}

    def active(given: Mapping[str, Value]) -> frozenset[str]:
        found = [whole]
        activation = given.get("activation")
        for part, own in parts.items():
            mark = (part, activation, *[given[name] for name in own])
            if own and mark not in known:
                if len(known) >= REMEMBERED:
                    known.clear()
                values = read(given)
                default = str(values.get("activation", space.activation.values[0]))
                known[mark] = frozenset(own) - _masked(space, part, values, default)
            if own:
                found.append(known[mark])
        return frozenset().union(*found)

    return active


def _masked(space: SearchSpace, part: str, values: Mapping[str, Value], activation: str) -> set[str]:
    """Return the choices of the stem, the head or a stage (`s2`) that have no effect."""
    if not part.startswith("s") or part == "stem":
        layer = space.stem if part == "stem" else space.head
        return set() if layer is None else _unread(space, layer, values, activation, lambda key: f"{part}.{key}")
    stage = space.stages[int(part[1:]) - 1]
    if not stage.per_layer:
        off: set[str] = set()
        for run, layer in enumerate(stage.layers, 1):
            place = part if len(stage.layers) == 1 else f"{part}.r{run}"
            off |= _unread(space, layer, values, activation, lambda key, place=place: f"{place}.{key}")  # type: ignore[misc]
        return off
    layer = stage.layers[0]
    depth, most = (
        int(value)
        for value in (
            values.get(f"{part}.num_layers", layer.num_layers.values[0]),
            max(float(value) for value in layer.num_layers.values),
        )
    )
    by_layer = [
        _unread(
            space,
            layer,
            values,
            activation,
            lambda key, index=index: f"{part}.l{index}.{key}" if key in stage.per_layer else f"{part}.{key}",  # type: ignore[misc]
        )
        for index in range(1, depth + 1)
    ]
    own = {name for masked in by_layer for name in masked if name.count(".") == 2}
    shared = (
        set.intersection(*by_layer) - own if by_layer else set()
    )  # a key of all layers has an effect if it has one in any
    gone = {f"{part}.l{index}.{key}" for index in range(depth + 1, most + 1) for key in stage.per_layer}
    return own | shared | gone


def _unread(
    space: SearchSpace,
    layer: LayerSpace,
    values: Mapping[str, Value],
    activation: str,
    name_of: Callable[[str], str],
) -> set[str]:
    """Return the choices of a layer that its block does not read with its other values."""

    def value(key: str, domain: Domain) -> Value:
        return values.get(name_of(key), domain.values[0])

    rule = space.rules[str(value("block", layer.block))]
    own = activation if layer.activation is None else str(value("activation", layer.activation))
    options = {key: value(key, domain) for key, domain in layer.options.items()}
    made = rule.read(options, own)
    found = {
        key
        for key, domain in layer.options.items()
        if key not in rule.keys
        or any(rule.read({**options, key: other}, own) == made for other in _another(domain, options[key]))
    }
    if not rule.skip:
        found.add("skip")
    return {name_of(key) for key in found}


def _another(domain: Domain, value: Value) -> tuple[Value, ...]:
    return tuple(other for other in domain.values if other != value)[:1]
