"""The grammar of a space file: pydantic models made from the keys that the blocks read.

Every problem of a file is collected before any is reported; each line gives the place, the key, what was found,
what is allowed, and the nearest match of a misspelt name.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, ValidationError, create_model
from pydantic_core import ErrorDetails

from nas.errors import SpaceError, nearest
from nas.space.decode import choices, decode
from nas.space.model import Domain, ForbidRule, LayerSpace, Limit, SearchSpace, StageSpace
from nas.space.units import COST_UNITS, parse_quantity
from nas.spec import Key, Rules, Value

ACTIVATIONS = ("silu", "relu", "relu6", "hard_swish")
"""The activation functions, by the field's names; `nas.blocks` builds them."""

LAYER_KEYS: dict[str, Key] = {
    "out_channels": Key(int, 0, minimum=1, doc="channels that each block hands on"),
    "num_layers": Key(int, 1, minimum=1, doc="blocks in the stage"),
    "stride": Key(int, 1, minimum=1, maximum=4, doc="stride of the stage's first block"),
}
"""The keys of every layer, whatever its block."""

_TOP_KEYS: dict[str, Key] = {
    "resolution": Key(int, 224, minimum=8, maximum=4096),
    "drop_path": Key(float, 0.2, minimum=0, maximum=0.95),
    "width_mult": Key(float, 1.0, minimum=0.01, maximum=100),
    "depth_mult": Key(float, 1.0, minimum=0.01, maximum=100),
    "resolution_mult": Key(float, 1.0, minimum=0.01, maximum=100),
}
_FIXED_KEYS: dict[str, Key] = {
    "num_classes": Key(int, 1000, minimum=1),
    "in_channels": Key(int, 3, minimum=1),
    "channel_divisor": Key(int, 8, minimum=1),
    "round_limit": Key(float, 0.9, minimum=0, maximum=1),
    "norm_eps": Key(float, 1e-3, minimum=0),
    "norm_momentum": Key(float, 0.1, minimum=0, maximum=1),
}
_DROPOUT = Key(float, 0.2, minimum=0, maximum=0.95)


def build_space(data: Any, places: Mapping[tuple[str | int, ...], str], rules: Rules, default_name: str) -> SearchSpace:
    """Turn the plain data of a file into a space.

    Args:
        data: The mapping that YAML gave, `extends` followed.
        places: `file:line` by path.
        rules: The blocks that may be named, and the keys they read.

    Raises:
        SpaceError: all problems of the file.
    """
    problems = [f"{_place(places, path)}: {show_loc(path)}: {text}" for path, text in _raw_problems(data)]
    try:
        model = _models(rules).model_validate(data)
    except ValidationError as error:
        raise SpaceError(_by_line([_line(item, places, rules) for item in error.errors()] + problems)) from None
    if problems:
        raise SpaceError(_by_line(problems))
    space = _space(model, rules, default_name)
    problems = _cross_checks(space, places)
    if problems:
        raise SpaceError(_by_line(problems))
    text = json.dumps(data, sort_keys=True, separators=(",", ":"))
    space = replace(space, text=text, space_hash=hashlib.sha256(text.encode()).hexdigest()[:16])
    if "baseline" not in data:
        return space
    nested = {path[1:]: place for path, place in places.items() if path[:1] == ("baseline",)}
    baseline = build_space(data["baseline"], nested, rules, default_name=f"{space.name}-baseline")
    still_open = ", ".join(choices(baseline))
    if still_open:
        place = _place(places, ("baseline",))
        raise SpaceError([f"{place}: baseline: leaves {still_open} open; a network has no choices. Fix them."])
    return replace(space, baseline=decode(baseline, _never))


def parse_domain(key: Key, value: Any) -> Domain:
    """Read a value of the space language: a scalar is fixed, a list is a choice, `{min, max, step}` a range.

    Raises:
        ValueError: what was found and what is allowed.
    """
    if isinstance(value, dict):
        values = _range(key, value)
    else:
        values = value if isinstance(value, list) else [value]
    if not values:
        raise ValueError("found an empty list; allowed: at least one value")
    for item in values:
        problem = key.problem(item)
        if problem:
            raise ValueError(problem)
    typed = tuple(float(item) if key.kind is float else item for item in values)
    if len(set(typed)) != len(typed):
        raise ValueError(f"found {value!r}; allowed: each value once")
    ordered = key.kind in (int, float)
    return Domain(tuple(sorted(typed)) if ordered else typed, ordered)


def _range(key: Key, value: dict[str, Any]) -> list[Any]:
    if key.kind not in (int, float):
        raise ValueError(f"found a range; allowed: {key.allowed()}, or a list of them")
    unknown = set(value) - {"min", "max", "step"}
    if unknown or not {"min", "max"} <= set(value):
        raise ValueError(f"found {value!r}; allowed: a range {{min: 1, max: 6, step: 1}}")
    low, high, step = value["min"], value["max"], value.get("step", 1)
    if not all(isinstance(number, int) and not isinstance(number, bool) for number in (low, high, step)):
        raise ValueError(f"found {value!r}; allowed: whole numbers in a range (write a list for others)")
    if step < 1 or high < low or (high - low) % step or (high - low) // step > 1000:
        raise ValueError(f"found {value!r}; allowed: min up to max in at most 1000 whole steps")
    return list(range(low, high + 1, step))


def _name_domain(kind: str, known: tuple[str, ...], value: Any) -> Domain:
    for item in value if isinstance(value, list) else [value]:
        if not isinstance(item, str) or item not in known:
            raise ValueError(f"found {item!r}; known: {', '.join(known)}.{nearest(str(item), known)}")
    return parse_domain(Key(str, "", doc=kind), value)


def _checked(key: Key, value: Any) -> Value:
    domain = parse_domain(key, value)
    if not domain.fixed or isinstance(value, list | dict):
        raise ValueError(f"found {value!r}; allowed: one value, {key.allowed()} (this key cannot be searched)")
    return domain.values[0]


def _field(check: Callable[[Any], Any], default: Any = ...) -> Any:
    return (Annotated[Any, PlainValidator(check)], default)


_STRICT = ConfigDict(extra="forbid", arbitrary_types_allowed=True)


def _models(rules: Rules) -> type[BaseModel]:
    """Make the pydantic models of a file from the registered blocks."""
    options = _options(rules)

    def block(role: str) -> Any:
        known = tuple(sorted(name for name, rule in rules.items() if role in rule.roles))
        return _field(partial(_name_domain, "block", known), None)

    activation = _field(partial(_name_domain, "activation", ACTIVATIONS), None)
    keys = {name: _field(partial(parse_domain, key), None) for name, key in (LAYER_KEYS | options).items()}
    layer_keys: dict[str, Any] = {"block": block("stage"), "activation": activation, **keys}

    run = create_model("Run", __config__=_STRICT, **layer_keys)
    stage_keys = layer_keys | {"layers": (Annotated[list[run], Field(min_length=1)] | None, None), "per_layer": (list[str], [])}  # type: ignore[valid-type]
    stage = create_model("Stage", __config__=_STRICT, **stage_keys)
    ends = _without(layer_keys, "num_layers")
    stem = create_model("Stem", __config__=_STRICT, **ends | {"block": block("stem")})
    dropout = _field(partial(parse_domain, _DROPOUT), None)
    head_keys = ends | {"block": block("head"), "dropout": dropout}
    head = create_model("Head", __config__=_STRICT, **head_keys)
    top: dict[str, Any] = {
        "name": (str, ""),
        "reference": (str, ""),
        "recipe": (str, "standard"),
        "activation": activation,
        "stem": (stem, ...),
        "stages": (Annotated[list[stage], Field(min_length=1)], ...),  # type: ignore[valid-type]
        "head": (head, ...),
        "forbid": (list[dict[str, Any]], []),
        "constraints": (dict[str, Any], {}),
        "baseline": (dict[str, Any], {}),
        **{name: _field(partial(parse_domain, key), None) for name, key in _TOP_KEYS.items()},
        **{name: _field(partial(_checked, key), key.default) for name, key in _FIXED_KEYS.items()},
    }
    top["resolution"] = _field(partial(parse_domain, _TOP_KEYS["resolution"]))
    model = create_model("Space", __config__=_STRICT, **top)
    return model


def _options(rules: Rules) -> dict[str, Key]:
    return {name: key for rule in rules.values() for name, key in rule.keys.items()}


def _by_line(lines: list[str]) -> list[str]:
    """Order problems as the file reads: by file, then by line number."""

    def key(line: str) -> tuple[str, int]:
        file, _, rest = line.partition(":")
        number = rest.partition(":")[0]
        return file, int(number) if number.isdigit() else 0

    return sorted(dict.fromkeys(lines), key=key)


def _without(mapping: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in mapping.items() if name != key}


def _line(detail: ErrorDetails, places: Mapping[tuple[str | int, ...], str], rules: Rules) -> str:
    path = tuple(detail["loc"])
    shown = show_loc(path)
    if detail["type"] == "extra_forbidden":
        known = _known_keys(path, rules)
        text = f"unknown key. Known: {', '.join(known)}.{nearest(str(path[-1]), known)}"
    elif detail["type"] == "missing":
        return f"{_place(places, path[:-1])}: {shown}: missing. Add it."
    else:
        text = detail["msg"].removeprefix("Value error, ")
        if detail["type"] not in ("value_error", "assertion_error"):
            text = f"found {detail['input']!r}; {text[0].lower()}{text[1:]}"
    return f"{_place(places, path)}: {shown}: {text}" + ("" if text[-1] in ".?" else ".")


def _known_keys(path: tuple[str | int, ...], rules: Rules) -> list[str]:
    options = sorted(_options(rules))
    if len(path) == 1:
        known = [*_TOP_KEYS, *_FIXED_KEYS, "name", "reference", "recipe", "extends", "activation", "stem", "stages", "head"]
        return [*known, "forbid", "constraints", "baseline"]
    layer = ["block", *options, "out_channels", "num_layers", "stride", "activation"]
    if path[0] == "stages":
        return layer if "layers" in path else [*layer, "layers", "per_layer"]
    return [key for key in layer if key != "num_layers"] + (["dropout"] if path[0] == "head" else [])


def _place(places: Mapping[tuple[str | int, ...], str], path: tuple[str | int, ...]) -> str:
    for length in range(len(path), -1, -1):
        if path[:length] in places:
            return places[path[:length]]
    return "space"


def show_loc(path: tuple[str | int, ...]) -> str:
    """Write a path as people do: `stages[2].kernel_size`."""
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text


# --- from the checked models to the space -----------------------------------------------------------------


def _space(model: Any, rules: Rules, default_name: str) -> SearchSpace:
    options = _options(rules)

    def single(value: Value, ordered: bool = True) -> Domain:
        return Domain((value,), ordered)

    def layer(source: Any, over: Any = None) -> LayerSpace:
        def pick(name: str, default: Domain | None) -> Any:
            own = getattr(source, name, None)
            outer = getattr(over, name, None) if over is not None else None
            return own if own is not None else outer if outer is not None else default

        block: Domain = pick("block", single("", ordered=False))
        read = {name for value in block.values for name in (rules[str(value)].keys if value else ())}
        return LayerSpace(
            block=block,
            out_channels=pick("out_channels", single(0)),
            num_layers=pick("num_layers", single(1)),
            stride=pick("stride", single(1)),
            activation=pick("activation", None),
            options={
                name: pick(name, single(key.default, ordered=key.kind in (int, float)))
                for name, key in options.items()
                if name in read
            },
        )

    def stage(source: Any) -> StageSpace:
        if source.layers is None:
            return StageSpace((layer(source),), tuple(source.per_layer))
        runs = [layer(run, over=source) for run in source.layers]
        # A stage's stride is its first block's; a later run inherits everything but that.
        later = [
            replace(run, stride=item.stride if item.stride is not None else single(1))
            for run, item in zip(runs[1:], source.layers[1:], strict=True)
        ]
        return StageSpace((*runs[:1], *later), tuple(source.per_layer))

    top = {name: getattr(model, name) or single(key.default) for name, key in _TOP_KEYS.items()}
    head_given = model.head.block is not None
    return SearchSpace(
        rules=rules,
        name=model.name or default_name,
        reference=model.reference,
        recipe=model.recipe,
        stem=layer(model.stem),
        stages=tuple(stage(item) for item in model.stages),
        head=layer(model.head) if head_given else None,
        activation=model.activation or single("silu", ordered=False),
        dropout=model.head.dropout or single(0.2),
        forbid=tuple(_forbid(rule) for rule in model.forbid),
        limits=tuple(_limits(model.constraints)[0]),
        **top,
        **{name: getattr(model, name) for name in _FIXED_KEYS},
    )


def _forbid(rule: Mapping[str, Any]) -> ForbidRule:
    values = {
        name: tuple(value) if isinstance(value, list) else (value,) for name, value in rule.items() if name != "stage"
    }
    stage = rule.get("stage")
    return ForbidRule(values, stage if isinstance(stage, int) else None)


Problem = tuple[tuple[str | int, ...], str]


def _limits(constraints: Mapping[str, Any]) -> tuple[list[Limit], list[Problem]]:
    """Return the limits, and what is wrong with them."""
    limits: list[Limit] = []
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
        limits.append(Limit(cost, max=read.get("max"), min=read.get("min")))
    return limits, problems


def _raw_problems(data: Mapping[str, Any]) -> list[Problem]:
    """Find what can be seen in the plain data, so that it is reported beside what pydantic finds."""
    constraints = data.get("constraints")
    problems = _limits(constraints)[1] if isinstance(constraints, dict) else []

    def needs(path: tuple[str | int, ...], *layers: Any) -> None:
        for key in ("block", "out_channels"):
            if not any(isinstance(layer, dict) and key in layer for layer in layers):
                problems.append(((*path, key), "missing. Add it."))

    if isinstance(data.get("stem"), dict):
        needs(("stem",), data["stem"])
    head = data.get("head")
    if isinstance(head, dict) and set(head) - {"dropout"}:
        needs(("head",), head)
    stages = data.get("stages")
    for index, stage in enumerate(stages if isinstance(stages, list) else []):
        runs = stage.get("layers") if isinstance(stage, dict) else None
        if isinstance(runs, list) and runs:
            for run, layer in enumerate(runs):
                needs(("stages", index, "layers", run), layer, stage)
        elif isinstance(stage, dict):
            needs(("stages", index), stage)
    return problems


def _cross_checks(space: SearchSpace, places: Mapping[tuple[str | int, ...], str]) -> list[str]:
    """Find what no single value shows: a stride in the middle of a stage, rules about nothing."""
    problems = []

    def problem(path: tuple[str | int, ...], text: str) -> None:
        problems.append(f"{_place(places, path)}: {show_loc(path)}: {text}")

    for index, stage in enumerate(space.stages):
        for run, layer in enumerate(stage.layers[1:], 1):
            if layer.stride.values != (1,):
                problem(("stages", index, "layers", run, "stride"), "only the first block of a stage has a stride.")
        searched = {"block", "activation", *(name for layer in stage.layers for name in layer.options)}
        for item, key in enumerate(stage.per_layer):
            if key not in searched:
                known = ", ".join(sorted(searched))
                problem(
                    ("stages", index, "per_layer", item),
                    f"{key!r} cannot vary by layer. Known: {known}.{nearest(key, searched)}",
                )
        if stage.per_layer and len(stage.layers) > 1:
            problem(("stages", index, "per_layer"), "a stage has either `layers` or `per_layer`.")
    known_keys = {"stage", "block", "activation", "out_channels", "num_layers", "stride"}
    known_keys |= {name for _, layer in space.layers() for name in layer.options}
    for index, rule in enumerate(space.forbid):
        for key, values in rule.values.items():
            path = ("forbid", index, key)
            if key not in known_keys:
                known = ", ".join(sorted(known_keys))
                problem(path, f"unknown key. Known: {known}.{nearest(key, known_keys)}")
                continue
            reachable = {
                value
                for _, layer in space.layers()
                for value in (_values(layer, key) if key != "activation" else space.activation.values)
            }
            for value in values:
                if value not in reachable:
                    options = ", ".join(sorted(map(str, reachable)))
                    problem(path, f"found {value!r}, which no layer can have. Values in this space: {options}.")
        if not rule.values:
            problem(("forbid", index), "an empty rule forbids everything. Name at least one key.")
    return problems


def _values(layer: LayerSpace, key: str) -> tuple[Value, ...]:
    if key in layer.options:
        return layer.options[key].values
    domain = getattr(layer, key, None)
    return domain.values if isinstance(domain, Domain) else ()


def _never(name: str, domain: Domain) -> Value:
    raise AssertionError(f"{name} is open in a network without choices")
