"""Which choices of a space shape a network, and which are masked by the others."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from nas.space.decode import choices
from nas.space.model import LayerSpace, SearchSpace
from nas.spec import BlockRule, Value


def active_choices(space: SearchSpace) -> Callable[[Mapping[str, Value]], frozenset[str]]:
    """Return a function that names the open choices that shape the network which given values of all of them make.

    Masked are the choices of layers that the chosen depth leaves out, and keys that the chosen block does not read with its
    other values. What only the shapes of the network decide (a skip connection where the stride is 2, say) counts as active.
    """
    names = frozenset(choices(space))
    known: dict[tuple[object, ...], frozenset[str]] = {}

    def unread(layer: LayerSpace, value: Callable[[str], Value], activation: str) -> frozenset[str]:
        """Return the keys of a layer without effect; there are few different layers, so that each is looked at once."""
        block = str(value("block"))
        options = {key: value(key) for key in layer.options}
        own = activation if layer.activation is None else str(value("activation"))
        mark = (id(layer), block, own, *options.values())
        if mark not in known:
            known[mark] = _unread(layer, space.rules[block], options, own)
        return known[mark]

    def active(values: Mapping[str, Value]) -> frozenset[str]:
        activation = str(values.get("activation", space.activation.values[0]))
        off: set[str] = set()

        def look(layer: LayerSpace, name_of: Callable[[str], str]) -> set[str]:
            def value(key: str) -> Value:
                domain = layer.options.get(key) or getattr(layer, key)
                chosen: Value = values.get(name_of(key), domain.values[0])
                return chosen

            return {name_of(key) for key in unread(layer, value, activation)}

        for place, layer in (("stem", space.stem), ("head", space.head)):
            if layer is not None:
                off |= look(layer, lambda key, place=place: f"{place}.{key}")  # type: ignore[misc]
        for number, stage in enumerate(space.stages, 1):
            prefix = f"s{number}"
            if not stage.per_layer:
                for run, layer in enumerate(stage.layers, 1):
                    place = prefix if len(stage.layers) == 1 else f"{prefix}.r{run}"
                    off |= look(layer, lambda key, place=place: f"{place}.{key}")  # type: ignore[misc]
                continue
            layer = stage.layers[0]
            depth = int(values.get(f"{prefix}.num_layers", layer.num_layers.values[0]))
            most = int(max(float(value) for value in layer.num_layers.values))
            shared: list[set[str]] = []
            for index in range(1, depth + 1):

                def name_of(key: str, index: int = index) -> str:
                    return f"{prefix}.l{index}.{key}" if key in stage.per_layer else f"{prefix}.{key}"

                masked = look(layer, name_of)
                off |= {name for name in masked if name.startswith(f"{prefix}.l{index}.")}
                shared.append({name for name in masked if not name.startswith(f"{prefix}.l{index}.")})
            off |= set.intersection(*shared) if shared else set()  # a key of all layers has an effect if it has one in any
            gone = tuple(f"{prefix}.l{index}." for index in range(depth + 1, most + 1))
            off |= {name for name in names if gone and name.startswith(gone)}
        return names - off

    return active


def _unread(layer: LayerSpace, rule: BlockRule, options: Mapping[str, Value], activation: str) -> frozenset[str]:
    made = rule.read(options, activation)
    found = set()
    for key, domain in layer.options.items():
        others = [value for value in domain.values if value != options[key]]
        if key not in rule.keys or (others and rule.read({**options, key: others[0]}, activation) == made):
            found.add(key)
    if not rule.skip:
        found.add("skip")
    return frozenset(found)
