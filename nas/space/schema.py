"""The grammar of a space file: pydantic models made from the keys that the blocks read.

Every problem of a file is collected before any is reported; each line gives the place, the key, what was found,
what is allowed, and the nearest match of a misspelt name.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache, partial
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainValidator, ValidationError, create_model
from pydantic_core import ErrorDetails

from nas.errors import SpaceError, nearest
from nas.space.decode import choices, decode
from nas.space.model import Domain, ForbidRule, LayerSpace, SearchSpace, StageSpace
from nas.space.problems import KeyPath, Problem, by_line, cross_checks, limits, line, raw_problems
from nas.spec import BlockRule, Key, Rules, Value

ACTIVATIONS = ("silu", "relu", "relu6", "hard_swish")
"""The activation functions, by the field's names; `nas.blocks` builds them."""

ALIASES = {
    "swish": "silu",
    "hswish": "hard_swish",
    "hardswish": "hard_swish",
    "inverted_residual": "mbconv",
    "edge_residual": "fused_mbconv",
    "depthwise_separable": "dwsep",
}
"""Other names of the field, for a hint: the nearest spelling of one may be another thing (swish is silu, not hard_swish)."""

LAYER_KEYS: dict[str, Key] = {
    "out_channels": Key(int, 0, minimum=1, doc="channels that each block hands on"),
    "num_layers": Key(int, 1, minimum=1, doc="blocks in the stage"),
    "stride": Key(int, 1, minimum=1, maximum=4, doc="stride of the stage's first block"),
    "skip": Key(
        str,
        "",
        names=("identity", "pool", "none"),
        doc="what is added to each block's output where the shapes allow it; the block's own unless given",
    ),
}
"""The keys of every layer, whatever its block."""

SCALE_KEYS: dict[str, Key] = {
    "scale_width": Key(
        str, "always", names=("always", "up", "never"), doc="whether `width_mult` acts here; `up`: only above 1"
    ),
    "scale_depth": Key(bool, True, doc="whether `depth_mult` acts here"),
}
"""How the multipliers act on a layer. They cannot be searched."""

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


def build_space(data: Any, places: Mapping[KeyPath, str], rules: Rules, default_name: str) -> SearchSpace:
    """Turn the plain data of a file into a space.

    Args:
        data: The mapping that YAML gave, `extends` followed.
        places: `file:line` by path.
        rules: The blocks that may be named, and the keys they read.

    Raises:
        SpaceError: all problems of the file, its baseline's among them.
    """
    space, problems = _read(data, rules, default_name)
    if space is None or problems:
        raise SpaceError(by_line([line(problem, places) for problem in problems]))
    text = json.dumps(data, sort_keys=True, separators=(",", ":"))
    return replace(space, text=text, space_hash=hashlib.sha256(text.encode()).hexdigest()[:16])


def _read(data: Any, rules: Rules, default_name: str) -> tuple[SearchSpace | None, list[Problem]]:
    """Return the space, where its own keys allow one, and every problem of it and of its baseline."""
    space = None
    problems = list(raw_problems(data))
    try:
        model = _models(rules).model_validate(data)
    except ValidationError as error:
        problems += [_problem(item, rules) for item in error.errors()]
    else:
        if not problems:
            space = _space(model, rules, default_name)
            problems += cross_checks(space)
    if isinstance(data.get("baseline"), dict):
        name = default_name if space is None else space.name
        baseline, more = _read(data["baseline"], rules, f"{name}-baseline")
        problems += [(("baseline", *path), text) for path, text in more]
        still_open = [] if baseline is None else list(choices(baseline))
        if still_open:
            text = f"leaves {', '.join(still_open)} open; a network has no choices. Fix them."
            problems.append((("baseline",), text))
        elif space is not None and baseline is not None:
            space = replace(space, baseline=decode(baseline, _never))
    return space, problems


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
            alias = ALIASES.get(str(item), "")
            hint = f" {item} is called {alias} here." if alias in known else nearest(str(item), known)
            raise ValueError(f"found {item!r}; known: {', '.join(known)}.{hint}")
    return parse_domain(Key(str, "", doc=kind), value)


def _checked(key: Key, value: Any) -> Value:
    domain = parse_domain(key, value)
    if not domain.fixed or isinstance(value, list | dict):
        why = "for all layers at once; in a layer it can be a choice" if key.quiet else "this key cannot be searched"
        raise ValueError(f"found {value!r}; allowed: one value, {key.allowed()} ({why})")
    return domain.values[0]


def _one_line(value: str) -> str:
    """Names are printed, and written into other files."""
    if not value.isprintable():
        raise ValueError(f"found {value!r}; allowed: one line of text")
    return value


def _field(check: Callable[[Any], Any], default: Any = ...) -> Any:
    return (Annotated[Any, PlainValidator(check)], default)


_STAGE_ONLY = {"num_layers", "scale_depth", "skip"}
"""Keys that stem and head, which are one convolution, do not have."""

_STRICT = ConfigDict(extra="forbid", arbitrary_types_allowed=True)


def _models(rules: Rules) -> type[BaseModel]:
    """Return the pydantic models of a file, made from the registered blocks."""
    return _models_of(tuple((name, tuple(rule.keys.items()), rule.roles) for name, rule in sorted(rules.items())))


@cache  # making them takes longer than reading a file
def _models_of(blocks: tuple[tuple[str, tuple[tuple[str, Key], ...], frozenset[str]], ...]) -> type[BaseModel]:
    rules = {name: BlockRule(dict(keys), roles=roles) for name, keys, roles in blocks}
    options = _options(rules)

    def block(role: str) -> Any:
        known = tuple(sorted(name for name, rule in rules.items() if role in rule.roles))
        return _field(partial(_name_domain, "block", known), None)

    activation = _field(partial(_name_domain, "activation", ACTIVATIONS), None)
    keys = {name: _field(partial(parse_domain, key), None) for name, key in (LAYER_KEYS | options).items()}
    scale = {name: _field(partial(_checked, key), None) for name, key in SCALE_KEYS.items()}
    layer_keys: dict[str, Any] = {"block": block("stage"), "activation": activation, **keys, **scale}

    run = create_model("Run", __config__=_STRICT, **layer_keys)
    stage_keys = layer_keys | {
        "layers": (Annotated[list[run], Field(min_length=1)] | None, None),
        "per_layer": (list[str], []),
    }
    stage = create_model("Stage", __config__=_STRICT, **stage_keys)
    stages: Any = Annotated[list[stage], Field(min_length=1)]
    ends = {name: field for name, field in layer_keys.items() if name not in _STAGE_ONLY}
    switch = _field(partial(_checked, Key(bool, False)), False)
    stem = create_model("Stem", __config__=_STRICT, **ends | {"block": block("stem"), "max_pool": switch})
    dropout = _field(partial(parse_domain, _DROPOUT), None)
    head_keys = ends | {"block": block("head"), "dropout": dropout, "pool_first": switch}
    head = create_model("Head", __config__=_STRICT, **head_keys)
    top: dict[str, Any] = {
        "name": (Annotated[str, AfterValidator(_one_line)], ""),
        "reference": (Annotated[str, AfterValidator(_one_line)], ""),
        "recipe": (str, "standard"),
        "activation": activation,
        "stem": (stem, ...),
        "stages": (stages, ...),
        "head": (head, ...),
        "forbid": (list[dict[str, Any]], []),
        "constraints": (dict[str, Any], {}),
        "baseline": (dict[str, Any], {}),
        **{name: _field(partial(parse_domain, key), None) for name, key in _TOP_KEYS.items()},
        **{name: _field(partial(_checked, key), key.default) for name, key in _FIXED_KEYS.items()},
        **{name: _field(partial(_checked, key), None) for name, key in options.items() if key.quiet},
    }
    top["resolution"] = _field(partial(parse_domain, _TOP_KEYS["resolution"]))
    model = create_model("Space", __config__=_STRICT, **top)
    return model


def _options(rules: Rules) -> dict[str, Key]:
    return {name: key for rule in rules.values() for name, key in rule.keys.items()}


def _problem(detail: ErrorDetails, rules: Rules) -> Problem:
    path = tuple(detail["loc"])
    if detail["type"] == "extra_forbidden":
        known = _known_keys(path, rules)
        text = f"unknown key. Known: {', '.join(known)}.{nearest(str(path[-1]), known)}"
    elif detail["type"] == "missing":
        text = "missing. Add it."
    else:
        text = detail["msg"].removeprefix("Value error, ")
        if detail["type"] not in ("value_error", "assertion_error"):
            text = f"found {detail['input']!r}; {text[0].lower()}{text[1:]}"
    return path, text + ("" if text[-1] in ".?" else ".")


def _known_keys(path: KeyPath, rules: Rules) -> list[str]:
    small_print = sorted(name for name, key in _options(rules).items() if key.quiet)
    options = sorted(set(_options(rules)) - set(small_print))
    if len(path) == 1:
        known = [
            *_TOP_KEYS,
            *_FIXED_KEYS,
            "name",
            "reference",
            "recipe",
            "extends",
            "activation",
            "stem",
            "stages",
            "head",
        ]
        return [*known, "forbid", "constraints", "baseline", *small_print]
    layer = ["block", *options, *LAYER_KEYS, "activation"]
    if path[0] == "stages" and "layers" not in path:
        layer += ["layers", "per_layer"]
    layer += [*SCALE_KEYS, *small_print]
    if path[0] == "stages":
        return layer
    own = ["dropout", "pool_first"] if path[0] == "head" else ["max_pool"]
    return [key for key in layer if key not in _STAGE_ONLY] + own


# --- from the checked models to the space -----------------------------------------------------------------


def _space(model: Any, rules: Rules, default_name: str) -> SearchSpace:
    options = _options(rules)
    for_all = {
        name: getattr(model, name) for name, key in options.items() if key.quiet and getattr(model, name) is not None
    }

    def single(value: Value, ordered: bool = True) -> Domain:
        return Domain((value,), ordered)

    def layer(source: Any, over: Any = None) -> LayerSpace:
        def pick(name: str, default: Any) -> Any:
            own = getattr(source, name, None)
            outer = getattr(over, name, None) if over is not None else None
            return own if own is not None else outer if outer is not None else default

        block: Domain = pick("block", single("", ordered=False))
        read = {name for value in block.values for name in (rules[str(value)].keys if value else ())}
        if any(value and rules[str(value)].skip for value in block.values):
            read.add("skip")
        return LayerSpace(
            block=block,
            out_channels=pick("out_channels", single(0)),
            num_layers=pick("num_layers", single(1)),
            stride=pick("stride", single(1)),
            activation=pick("activation", None),
            options={
                name: pick(name, single(for_all.get(name, key.default), ordered=key.kind in (int, float)))
                for name, key in options.items()
                if name in read
            },
            skip=pick("skip", single("", ordered=False)),
            scale_width=str(pick("scale_width", "always")),
            scale_depth=bool(pick("scale_depth", True)),
            unread={
                name: getattr(source, name)
                for name in sorted({*options, "skip"} - read)
                if getattr(source, name, None) is not None
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

    top: dict[str, Any] = {name: getattr(model, name) or single(key.default) for name, key in _TOP_KEYS.items()}
    fixed: dict[str, Any] = {name: getattr(model, name) for name in _FIXED_KEYS}
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
        stem_pool=model.stem.max_pool,
        pool_first=model.head.pool_first,
        forbid=tuple(_forbid(rule) for rule in model.forbid),
        limits=tuple(limits(model.constraints)[0]),
        **top,
        **fixed,
    )


def _forbid(rule: Mapping[str, Any]) -> ForbidRule:
    values = {
        name: tuple(value) if isinstance(value, list) else (value,) for name, value in rule.items() if name != "stage"
    }
    return ForbidRule(values, rule.get("stage"))


def _never(name: str, domain: Domain) -> Value:
    raise AssertionError(f"{name} is open in a network without choices")
