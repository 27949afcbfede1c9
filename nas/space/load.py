"""Read a space file: YAML with the place of every key, and `extends` followed."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from nas.errors import SpaceError, UnknownNameError
from nas.space import library
from nas.space.model import SearchSpace
from nas.space.problems import KeyPath, show_path
from nas.space.schema import build_space
from nas.spec import Rules
from nas.yaml_text import LimitError, composed


@dataclass(frozen=True)
class Document:
    """A parsed file: plain data, and `file:line` of every key and list item by its path."""

    data: Any
    places: Mapping[KeyPath, str]


def load(name: str | os.PathLike[str], rules: Rules) -> SearchSpace:
    """Return the space of a file or a shipped name.

    Args:
        rules: The blocks that may be named, and the keys they read.

    Raises:
        UnknownNameError: no such file and no such shipped space.
        SpaceError: everything that is wrong with the file, each problem with its place.
    """
    path = library.find(os.fspath(name))
    document = read(path)
    return build_space(document.data, document.places, rules, default_name=path.stem)


def read(path: Path, seen: tuple[Path, ...] = ()) -> Document:
    """Parse a file and merge it over the one it extends, and its `baseline` over what that extends."""
    document = _parse(path)
    if not isinstance(document.data, dict):
        raise SpaceError([f"{shown(path)}:1: found {type(document.data).__name__}; a space is a mapping of keys."])
    if isinstance(document.data.get("baseline"), str):
        document = _with(document, ("baseline",), {"extends": document.data["baseline"]})
    document = _extended(document, path, (), (*seen, path.resolve()))
    if isinstance(document.data.get("baseline"), dict):
        document = _extended(document, path, ("baseline",), (*seen, path.resolve()))
    return document


def shown(path: Path) -> str:
    """Return a path as people like to read it: relative to the working folder where it is inside."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def _parse(path: Path) -> Document:
    places: dict[KeyPath, str] = {(): f"{shown(path)}:1"}
    problems: list[str] = []
    try:
        loader, root = composed(path, yaml.SafeLoader)
        data = None if root is None else _construct(loader, root, (), places, problems, shown(path))
    except (OSError, UnicodeDecodeError) as error:
        raise SpaceError([f"{shown(path)}: cannot be read ({error}). Give a UTF-8 YAML file."]) from None
    except LimitError as error:
        raise SpaceError([f"{shown(path)}:1: found {error}. Write the space in fewer values."]) from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date such as 2024-13-45
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark else 1
        reason = getattr(error, "problem", None) or str(error)
        raise SpaceError([f"{shown(path)}:{line}: not YAML: {reason}. Check indentation and brackets."]) from None
    if problems:
        raise SpaceError(problems)
    return Document(data, places)


def _construct(
    loader: yaml.SafeLoader,
    node: yaml.Node,
    path: KeyPath,
    places: dict[KeyPath, str],
    problems: list[str],
    file: str,
) -> Any:
    if isinstance(node, yaml.MappingNode):
        mapping: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key, place = str(key_node.value), f"{file}:{key_node.start_mark.line + 1}"
            if key in mapping:
                problems.append(f"{place}: {show_path((*path, key))}: written twice. Keep one.")
            places[(*path, key)] = place
            mapping[key] = _construct(loader, value_node, (*path, key), places, problems, file)
        return mapping
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            places[(*path, index)] = f"{file}:{item.start_mark.line + 1}"
        return [
            _construct(loader, item, (*path, index), places, problems, file) for index, item in enumerate(node.value)
        ]
    # YAML 1.1 takes 1e-5 for text, for want of a point; everyone else takes it for a number.
    if (
        isinstance(node, yaml.ScalarNode)
        and node.style is None
        and re.fullmatch(r"[-+]?\d+e[-+]?\d+", node.value, re.I)
    ):
        return float(node.value)
    return loader.construct_object(node, deep=True)


def _extended(document: Document, path: Path, where: KeyPath, seen: tuple[Path, ...]) -> Document:
    """Merge the mapping at `where` over the file that it extends."""
    child = document.data
    for step in where:
        child = child[step]
    if "extends" not in child:
        return document
    place = document.places[(*where, "extends")] if (*where, "extends") in document.places else shown(path)
    try:
        parent_path = library.find(str(child["extends"]), beside=path.parent)
    except UnknownNameError as error:
        raise SpaceError([f"{place}: {show_path((*where, 'extends'))}: {error}"]) from None
    if parent_path.resolve() in seen:
        raise SpaceError([f"{place}: extends {child['extends']!r}: a file cannot extend itself, not even in a circle."])
    parent = read(parent_path, seen)
    places = {(*where, *key): value for key, value in parent.places.items()}
    own = {key: value for key, value in child.items() if key != "extends"}
    data, problems = _merge(parent.data, own, where, document.places, places)
    places[where] = document.places.get(where, place)
    if problems:
        raise SpaceError(problems)
    return _with(Document(document.data, {**document.places, **places}), where, data)


def _merge(
    parent: Any, child: Any, path: KeyPath, child_places: Mapping[KeyPath, str], places: dict[KeyPath, str]
) -> tuple[Any, list[str]]:
    """Return parent with child laid over it: mappings merge, `sN` keys reach into a list of stages, the rest replaces.

    A range replaces, and so does a mapping that extends a file of its own.
    """
    merges = isinstance(child, dict) and not _is_range(child) and not (path and "extends" in child)
    if merges and isinstance(parent, dict) and not _is_range(parent):
        out, problems = dict(parent), []
        for key, value in child.items():
            places[(*path, key)] = child_places.get((*path, key), "")
            if key in out:
                out[key], more = _merge(out[key], value, (*path, key), child_places, places)
                problems += more
            else:
                out[key] = value
                _copy_places(child_places, places, (*path, key))
        return out, problems
    if merges and isinstance(parent, list) and path and path[-1] == "stages":
        items, problems = list(parent), []
        for key, value in child.items():
            place = child_places.get((*path, key), "")
            number = int(key[1:]) if key[:1] == "s" and key[1:].isdigit() else 0
            if not 1 <= number <= len(items):
                problems.append(f"{place}: {show_path((*path, key))}: unknown stage. Known: s1 to s{len(items)}.")
                continue
            moved = {
                (*path, number - 1, *rest[len(path) + 1 :]): where
                for rest, where in child_places.items()
                if rest[: len(path) + 1] == (*path, key)
            }
            places |= moved
            items[number - 1], more = _merge(items[number - 1], value, (*path, number - 1), moved, places)
            problems += more
        return items, problems
    for old in [key for key in places if key[: len(path)] == path and len(key) > len(path)]:
        del places[old]
    _copy_places(child_places, places, path)
    return child, []


def _copy_places(source: Mapping[KeyPath, str], target: dict[KeyPath, str], path: KeyPath) -> None:
    target.update({key: place for key, place in source.items() if key[: len(path)] == path})


def _is_range(value: Any) -> bool:
    return isinstance(value, dict) and bool({"min", "max"} & set(value))


def _with(document: Document, where: KeyPath, value: Any) -> Document:
    if not where:
        return Document(value, document.places)
    data = dict(document.data)
    data[where[0]] = value
    return Document(data, document.places)
