"""What is wrong with a space file beyond single values, and how a problem is written: place, key path, text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from nas.errors import nearest
from nas.space.model import Domain, LayerSpace, Limit, SearchSpace
from nas.space.units import COST_UNITS, parse_quantity
from nas.spec import Value

KeyPath = tuple[str | int, ...]

Problem = tuple[KeyPath, str]
"""The path of a key in the file, and what is wrong there."""


def show_path(path: KeyPath) -> str:
    """Write a path as people do: `stages[2].kernel_size`."""
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text


def line(problem: Problem, places: Mapping[KeyPath, str]) -> str:
    """Write a problem with the `file:line` of its key, or of the nearest mapping around it."""
    path, text = problem
    place = next((places[path[:end]] for end in range(len(path), -1, -1) if path[:end] in places), "space")
    return f"{place}: {show_path(path)}: {text}"


def by_line(lines: list[str]) -> list[str]:
    """Order problems as the file reads: by file, then by line number."""

    def key(text: str) -> tuple[str, int]:
        file, _, rest = text.partition(":")
        number = rest.partition(":")[0]
        return file, int(number) if number.isdigit() else 0

    return sorted(dict.fromkeys(lines), key=key)


def limits(constraints: Mapping[str, Any]) -> tuple[list[Limit], list[Problem]]:
    """Return the limits of a file, and what is wrong with them."""
    found: list[Limit] = []
    problems: list[Problem] = []
    for cost, bounds in constraints.items():
        path = ("constraints", cost)
        if cost not in COST_UNITS:
            known = ", ".join(COST_UNITS)
            problems.append((path, f"unknown cost. Known: {known}.{nearest(cost, COST_UNITS)}"))
            continue
        if not isinstance(bounds, dict) or not bounds or set(bounds) - {"min", "max"}:
            problems.append((path, f"found {bounds!r}; allowed: {{max: 5M}}, {{min: 1M}} or both."))
            continue
        read: dict[str, float] = {}
        for side, text in bounds.items():
            try:
                read[side] = parse_quantity(text, cost)
            except ValueError as error:
                problems.append(((*path, side), f"{error}."))
        if len(read) == 2 and read["min"] > read["max"]:
            problems.append((path, f"found {bounds!r}; allowed: a min that is not above the max."))
        found.append(Limit(cost, max=read.get("max"), min=read.get("min")))
    return found, problems


def raw_problems(data: Mapping[str, Any]) -> Iterator[Problem]:
    """Find what can be seen in the plain data, so that it is reported beside what pydantic finds."""
    constraints = data.get("constraints")
    if isinstance(constraints, dict):
        yield from limits(constraints)[1]
    if isinstance(data.get("stem"), dict):
        yield from _needs(("stem",), data["stem"])
    head = data.get("head")
    if isinstance(head, dict) and set(head) - {"dropout", "pool_first"}:
        yield from _needs(("head",), head)
    stages = data["stages"] if isinstance(data.get("stages"), list) else []
    for index, stage in enumerate(stages):
        runs = stage.get("layers") if isinstance(stage, dict) else None
        if isinstance(runs, list) and runs:
            for run, layer in enumerate(runs):
                yield from _needs(("stages", index, "layers", run), layer, stage)
                if run and isinstance(layer, dict) and layer.get("stride", 1) != 1:
                    path = ("stages", index, "layers", run, "stride")
                    yield path, "only the first block of a stage has a stride. Leave it out."
            for key in set(stage) - {"layers", "per_layer", "stride"}:
                if all(isinstance(layer, dict) and key in layer for layer in runs):
                    text = "every run of this stage has its own, so this would do nothing. Write it in `layers`."
                    yield ("stages", index, key), text
            if stage.get("per_layer"):
                yield ("stages", index, "per_layer"), "a stage has either `layers` or `per_layer`. Keep one."
        elif isinstance(stage, dict):
            yield from _needs(("stages", index), stage)
    forbid = data["forbid"] if isinstance(data.get("forbid"), list) else []
    for index, rule in enumerate(forbid):
        if isinstance(rule, dict):
            yield from _rule_problems(("forbid", index), rule, len(stages))


def _needs(path: KeyPath, *layers: Any) -> Iterator[Problem]:
    for key in ("block", "out_channels"):
        if not any(isinstance(layer, dict) and key in layer for layer in layers):
            yield (*path, key), "missing. Add it."


def _rule_problems(path: KeyPath, rule: Mapping[str, Any], num_stages: int) -> Iterator[Problem]:
    if not set(rule) - {"stage"}:
        yield path, "a rule without keys forbids everything. Name at least one key."
    for key, value in rule.items():
        items = value if isinstance(value, list) else [value]
        if key == "stage":
            whole = isinstance(value, int) and not isinstance(value, bool)
            if not whole or not 1 <= value <= num_stages:
                yield (*path, key), f"found {value!r}; allowed: the number of one stage, 1 to {num_stages}."
        elif not items or any(isinstance(item, list | dict) or item is None for item in items):
            yield (*path, key), f"found {value!r}; allowed: a value or a list of values."


def cross_checks(space: SearchSpace) -> Iterator[Problem]:
    """Find what no single value shows: keys that cannot vary by layer, rules about nothing."""
    for index, stage in enumerate(space.stages):
        searched = {"block", "activation", "skip", *(name for layer in stage.layers for name in layer.options)}
        for item, key in enumerate(stage.per_layer):
            if key not in searched:
                known = ", ".join(sorted(searched))
                text = f"{key!r} cannot vary by layer. Known: {known}.{nearest(key, searched)}"
                yield ("stages", index, "per_layer", item), text
    if space.pool_first and space.head is None:
        yield ("head", "pool_first"), "there is no head to pool before. Name its `block`, or leave `pool_first` out."
    elif space.pool_first and space.head is not None:
        for key, domain in (("kernel_size", space.head.options["kernel_size"]), ("stride", space.head.stride)):
            if domain.values != (1,):
                yield (
                    ("head", key),
                    f"found {domain.values[-1]}; allowed: 1, for the head sees one pixel with `pool_first`.",
                )
    known_keys = {"stage", "block", "activation", "out_channels", "num_layers", "stride", "skip"}
    known_keys |= {name for stage in space.stages for layer in stage.layers for name in layer.options}
    for index, rule in enumerate(space.forbid):
        stages = space.stages if rule.stage is None else space.stages[rule.stage - 1 : rule.stage]
        for key, values in rule.values.items():
            path = ("forbid", index, key)
            if key not in known_keys:
                known = ", ".join(sorted(known_keys))
                yield path, f"unknown key. Known: {known}.{nearest(key, known_keys)}"
                continue
            reachable = {value for stage in stages for layer in stage.layers for value in _values(space, layer, key)}
            for value in values:
                if value not in reachable:
                    where = "this space" if rule.stage is None else f"stage {rule.stage}"
                    options = ", ".join(sorted(map(str, reachable))) or "none"
                    yield path, f"found {value!r}, which no layer can have. Values in {where}: {options}."


def _values(space: SearchSpace, layer: LayerSpace, key: str) -> tuple[Value, ...]:
    if key == "activation":
        return (layer.activation or space.activation).values
    if key == "se_activation" and key in layer.options:
        return layer.options[key].values + (layer.activation or space.activation).values
    if key in layer.options:
        return layer.options[key].values
    if key == "skip":
        own = [space.rules[str(block)].skip for block in layer.block.values]
        return tuple(
            {str(wish) or skip for skip in own if skip for wish in layer.skip.values} | {"none"} if any(own) else ()
        )
    domain = getattr(layer, key, None)
    return domain.values if isinstance(domain, Domain) else ()
