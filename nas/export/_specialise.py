"""The classes that a network is built of, as source with only what this network uses.

`MBConv` can do more than any one network asks of it. An argument that is the same word or truth value in all calls is put
in its place, branches that are then decided go, and so do helpers that nobody calls any more: what is left reads as if it had
been written for the network.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from torch import nn

from nas.blocks import Call
from nas.blocks._layers import ACTIVATIONS, activation

Definition = ast.ClassDef | ast.FunctionDef


@dataclass
class Specialised:
    """Definitions in an order that can be read from top to bottom, and how its classes are called.

    Args:
        definitions: Parts before the blocks that are made of them.
        imports: Names from outside `nas`, each with the module that has it; "" where the name is a module itself.
        parameters: Of each class the parameters that are left, with their defaults.
        activations: Words that are left in calls; empty where each class knows its own.
    """

    definitions: list[Definition] = field(default_factory=list)
    imports: dict[str, str] = field(default_factory=dict)
    parameters: dict[type[nn.Module], dict[str, Any]] = field(default_factory=dict)
    activations: list[str] = field(default_factory=list)


def specialise(calls: Sequence[Call]) -> Specialised:
    """Return the source of the classes of some calls and of what they need."""
    found = Specialised()
    given = _by_kind(calls)
    texts: dict[str, Definition] = {}
    homes: dict[str, Any] = {}
    for kind, each in given.items():
        own = _defaults(kind)
        fixed = {name: value for name, value in own.items() if _same(name, value, each)}
        left = {name: _usual(name, value, each) for name, value in own.items() if name not in fixed}
        found.parameters[kind] = left
        texts[kind.__name__] = _class(_parsed(kind), {name: each[0].get(name, own[name]) for name in fixed}, left)
        homes[kind.__name__] = kind
    left_open = [
        call.get(name, own) for kind in given for call in given[kind] for name, own in found.parameters[kind].items()
    ]
    found.activations = sorted({word for word in left_open if isinstance(word, str) and word in ACTIVATIONS})
    queue = [*texts]
    while queue:  # all that the classes need, callers before what they call
        name = queue.pop(0)
        for other in _free(texts[name]):
            value = _global(homes[name], other)
            ours = (inspect.isfunction(value) or inspect.isclass(value)) and value.__module__.startswith("nas.")
            if ours and other not in texts:
                texts[other], homes[other] = _parsed(value), value
                queue.append(other)
    _fold_functions(texts)
    order: list[str] = []
    for kind in given:
        _visit(kind.__name__, texts, order)
    found.definitions = [texts[name] for name in order]
    if activation.__name__ not in order:
        found.activations = []
    for name in order:
        for other in _free(texts[name]):
            value = _global(homes[name], other)
            if other not in texts and other != "ACTIVATIONS" and value is not None:
                found.imports[other] = _home(other, value)
    return found


def activation_source(word: str) -> str:
    """Return the expression that makes an activation."""
    return ast.unparse(_activations()[word])


# --- what the calls share ---------------------------------------------------------------------------------


def _by_kind(calls: Iterable[Call]) -> dict[type[nn.Module], list[Mapping[str, Any]]]:
    found: dict[type[nn.Module], list[Mapping[str, Any]]] = {}
    for call in calls:
        for value in call.given.values():
            if isinstance(value, Call):
                for kind, inner in _by_kind([value]).items():
                    found.setdefault(kind, []).extend(inner)
        found.setdefault(call.kind, []).append(call.given)
    return found


def _defaults(kind: type[nn.Module]) -> dict[str, Any]:
    return {name: item.default for name, item in inspect.signature(kind).parameters.items()}


def _same(name: str, default: Any, calls: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a parameter is one word or truth value in all calls. Numbers stay: they are what one reads a network for."""
    if default is inspect.Parameter.empty:
        return False
    values = [call.get(name, default) for call in calls]
    return all(value is None or isinstance(value, str | bool) for value in values) and len(set(values)) == 1


def _usual(name: str, default: Any, calls: Sequence[Mapping[str, Any]]) -> Any:
    """Return the default of a parameter that is left: a word is the usual one of this network, so that few calls name it."""
    if not isinstance(default, str):
        return default
    return Counter(call.get(name, default) for call in calls).most_common(1)[0][0]


# --- the source as a tree ---------------------------------------------------------------------------------


def _parsed(value: Any) -> Definition:
    node = ast.parse(textwrap.dedent(inspect.getsource(value))).body[0]
    assert isinstance(node, ast.ClassDef | ast.FunctionDef)
    return node


def _activations() -> dict[str, ast.expr]:
    """Return the expression behind each word of `ACTIVATIONS`."""
    module = inspect.getmodule(activation)
    assert module is not None
    for node in ast.parse(inspect.getsource(module)).body:
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "ACTIVATIONS":
            assert isinstance(node.value, ast.Dict)
            return {
                ast.literal_eval(key): value.body
                for key, value in zip(node.value.keys, node.value.values, strict=True)
                if key is not None and isinstance(value, ast.Lambda)
            }
    raise AssertionError("ACTIVATIONS is written otherwise than it is read here")


def _global(home: Any, name: str) -> Any:
    return vars(inspect.getmodule(home)).get(name)


def _home(name: str, value: Any) -> str:
    """Return the module to import a name from; "" where the name is itself a module."""
    if isinstance(value, ModuleType):
        return value.__name__.rpartition(".")[0]
    return str(value.__module__)


def _free(node: ast.AST) -> list[str]:
    """Return the names that a definition reads from its module, each once."""
    bound: set[str] = set()
    for item in ast.walk(node):
        if isinstance(item, ast.arg):
            bound.add(item.arg)
        elif isinstance(item, ast.Name) and isinstance(item.ctx, ast.Store):
            bound.add(item.id)
    names = [item.id for item in ast.walk(node) if isinstance(item, ast.Name) and item.id not in bound]
    return list(dict.fromkeys(names))


def _visit(name: str, texts: Mapping[str, Definition], order: list[str]) -> None:
    """Append a definition behind all that it needs."""
    if name in order:
        return
    for other in _free(texts[name]):
        if other in texts:
            _visit(other, texts, order)
    order.append(name)


# --- decided before it runs -------------------------------------------------------------------------------


class _Fold(ast.NodeTransformer):
    """Puts constants in the place of names, and decides what they decide."""

    def __init__(self, names: Mapping[str, Any]) -> None:
        self.names = names

    def visit_Name(self, node: ast.Name) -> ast.expr:
        if isinstance(node.ctx, ast.Load) and node.id in self.names:
            return ast.Constant(self.names[node.id])
        return node

    def visit_Compare(self, node: ast.Compare) -> ast.expr:
        self.generic_visit(node)
        left, right = node.left, node.comparators[0]
        if len(node.ops) == 1 and isinstance(left, ast.Constant) and isinstance(right, ast.Constant):
            match node.ops[0]:
                case ast.Eq() | ast.Is():
                    return ast.Constant(left.value == right.value)
                case ast.NotEq() | ast.IsNot():
                    return ast.Constant(left.value != right.value)
        return node

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.expr:
        self.generic_visit(node)
        decides = isinstance(node.op, ast.Or)
        left = [item for item in node.values if not (isinstance(item, ast.Constant) and bool(item.value) != decides)]
        for item in left:
            if isinstance(item, ast.Constant):  # `x or True`, where only the truth of it is asked for
                return ast.Constant(decides)
        if len(left) < 2:
            return left[0] if left else node.values[-1]
        node.values = left
        return node

    def visit_IfExp(self, node: ast.IfExp) -> ast.expr:
        self.generic_visit(node)
        if isinstance(node.test, ast.Constant):
            return node.body if node.test.value else node.orelse
        return node

    def visit_If(self, node: ast.If) -> ast.stmt | list[ast.stmt]:
        self.generic_visit(node)
        if isinstance(node.test, ast.Constant):
            return node.body if node.test.value else node.orelse
        return node

    def visit_Call(self, node: ast.Call) -> ast.expr:
        self.generic_visit(node)
        known = isinstance(node.func, ast.Name) and node.func.id == activation.__name__
        if known and node.args and isinstance(node.args[0], ast.Constant):
            return _activations()[str(node.args[0].value)]
        return node


def _folded(node: Definition, names: Mapping[str, Any]) -> None:
    """Decide what constants decide in a definition, and cut what comes after a return."""
    _Fold(names).visit(node)
    for item in ast.walk(node):
        if isinstance(item, ast.FunctionDef):
            ends = [index for index, line in enumerate(item.body) if isinstance(line, ast.Return)]
            del item.body[ends[0] + 1 if ends else len(item.body) :]


def _class(node: Definition, fixed: Mapping[str, Any], left: Mapping[str, Any]) -> Definition:
    """Return a class with the arguments in place that all calls share, and the usual words as defaults."""
    assert isinstance(node, ast.ClassDef)
    (make,) = [item for item in node.body if isinstance(item, ast.FunctionDef) and item.name == "__init__"]
    _without_parameters(make.args, fixed)
    first = len(make.args.args) - len(make.args.defaults)
    for index, item in enumerate(make.args.args[first:]):
        if isinstance(left[item.arg], str):
            make.args.defaults[index] = ast.Constant(left[item.arg])
    _folded(make, fixed)
    return node


def _without_parameters(arguments: ast.arguments, names: Iterable[str]) -> None:
    first = len(arguments.args) - len(arguments.defaults)
    pairs = [
        (item, arguments.defaults[index - first] if index >= first else None)
        for index, item in enumerate(arguments.args)
        if item.arg not in set(names)
    ]
    arguments.args = [item for item, _ in pairs]
    arguments.defaults = [default for _, default in pairs if default is not None]


def _fold_functions(texts: Mapping[str, Definition]) -> None:
    """Fold arguments that all callers of a helper share, then attributes that a class holds for nothing."""
    for name, node in texts.items():
        if not isinstance(node, ast.FunctionDef):
            continue
        _inline_constants(name, node, texts)
        places = [
            item
            for text in texts.values()
            for item in ast.walk(text)
            if isinstance(item, ast.Call) and isinstance(item.func, ast.Name) and item.func.id == name
        ]
        if not places:
            continue
        bound = [_bound(node, place) for place in places]
        fixed = {}
        for item in node.args.args:
            values = [arguments.get(item.arg) for arguments in bound]
            constants = [value.value for value in values if isinstance(value, ast.Constant)]
            words = all(value is None or isinstance(value, str | bool) for value in constants)
            if len(constants) == len(values) and words and len(set(constants)) == 1:
                fixed[item.arg] = constants[0]
        order = [item.arg for item in node.args.args]
        for place in places:
            place.args = [value for index, value in enumerate(place.args) if order[index] not in fixed]
            place.keywords = [item for item in place.keywords if item.arg not in fixed]
        _without_parameters(node.args, fixed)
        _folded(node, fixed)
    for node in texts.values():
        if isinstance(node, ast.ClassDef):
            _spare_attributes(node)


def _bound(node: ast.FunctionDef, place: ast.Call) -> dict[str, ast.expr]:
    """Return the expression of each argument of a call."""
    names = [item.arg for item in node.args.args]
    defaults = dict(zip(names[len(names) - len(node.args.defaults) :], node.args.defaults, strict=True))
    given = {item.arg: item.value for item in place.keywords if item.arg is not None}
    return defaults | dict(zip(names, place.args, strict=False)) | given


def _inline_constants(name: str, node: ast.FunctionDef, texts: Mapping[str, Definition]) -> None:
    """Put the answer in the place of calls whose constants decide it: no skip connection is None."""

    class Inline(ast.NodeTransformer):
        def visit_Call(self, place: ast.Call) -> ast.expr:
            self.generic_visit(place)
            if not (isinstance(place.func, ast.Name) and place.func.id == name):
                return place
            words = {key: item.value for key, item in _bound(node, place).items() if isinstance(item, ast.Constant)}
            copy = ast.parse(ast.unparse(node)).body[0]
            assert isinstance(copy, ast.FunctionDef)
            _folded(copy, {key: value for key, value in words.items() if isinstance(value, str | bool)})
            (*_, last) = copy.body
            lines = [line for line in copy.body if not (isinstance(line, ast.Expr) and ast.get_docstring(copy))]
            decided = len(lines) == 1 and isinstance(last, ast.Return) and isinstance(last.value, ast.Constant)
            return last.value if decided and isinstance(last, ast.Return) and last.value is not None else place

    for text in texts.values():
        Inline().visit(text)


def _spare_attributes(node: ast.ClassDef) -> None:
    """Take away attributes that are None or the identity, and then those that nobody reads."""
    make = next((item for item in node.body if isinstance(item, ast.FunctionDef) and item.name == "__init__"), None)
    if make is None:  # a class of torch with another forward
        return
    held = {_attribute(line): line.value for line in make.body if isinstance(line, ast.Assign) and _attribute(line)}
    empty = {name for name, value in held.items() if ast.unparse(value) in ("None", "nn.Identity()")}

    class Spare(ast.NodeTransformer):
        def visit_Attribute(self, item: ast.Attribute) -> ast.expr:
            nothing = _name(item) in empty and isinstance(item.ctx, ast.Load)
            return ast.Constant(None) if nothing and ast.unparse(held[item.attr]) == "None" else item

        def visit_Call(self, item: ast.Call) -> ast.expr:
            self.generic_visit(item)
            through = isinstance(item.func, ast.Attribute) and _name(item.func) in empty
            return item.args[0] if through else item

    for method in node.body:
        if isinstance(method, ast.FunctionDef) and method is not make:
            Spare().visit(method)
            _folded(method, {})
    read = {
        item.attr for item in ast.walk(node) if isinstance(item, ast.Attribute) and not isinstance(item.ctx, ast.Store)
    }
    make.body = [line for line in make.body if not (_attribute(line) and _attribute(line) not in read)]


def _attribute(line: ast.stmt) -> str:
    """Return X of `self.X = ...`."""
    if isinstance(line, ast.Assign) and isinstance(line.targets[0], ast.Attribute):
        return _name(line.targets[0])
    return ""


def _name(node: ast.Attribute) -> str:
    return node.attr if isinstance(node.value, ast.Name) and node.value.id == "self" else ""
