"""YAML that people give: read as plain data, of a size that cannot grow beyond all bounds."""

from __future__ import annotations

from pathlib import Path

import yaml

MAX_BYTES = 2**20
MAX_VALUES = 100_000
"""Values of a file with its aliases written out. The largest space that ships has under a thousand."""


class LimitError(ValueError):
    """A file that is larger, or deeper, than anything that people write."""


def composed(path: Path, loader: type[yaml.SafeLoader]) -> tuple[yaml.SafeLoader, yaml.Node | None]:
    """Return a file's loader and the root of its nodes, of which nothing has been constructed yet; None where it is empty.

    An alias names a whole part of the file, so that ten lines can stand for a thousand million values; all that looks at these
    one by one, if only for a message, would never end.

    Raises:
        OSError: it cannot be read. UnicodeDecodeError: not UTF-8. yaml.YAMLError: not YAML. LimitError: too long, too many
            values, a part that contains itself, or lists in too many levels.
    """
    with path.open("rb") as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise LimitError(f"a file longer than {MAX_BYTES >> 20} MiB")
    made = loader(content.decode("utf-8"))
    try:
        root = made.get_single_node()
        if root is not None:
            _values(root, {}, set())
    except RecursionError:
        raise LimitError("lists or mappings in more levels than can be read") from None
    return made, root


def _values(node: yaml.Node, known: dict[int, int], above: set[int]) -> int:
    """Return how many values a part has with its aliases written out."""
    if isinstance(node, yaml.ScalarNode):
        return 1
    if id(node) in above:
        raise LimitError(f"a part (line {node.start_mark.line + 1}) that contains itself, by an alias")
    if id(node) not in known:
        above.add(id(node))
        parts = [part for pair in node.value for part in pair] if isinstance(node, yaml.MappingNode) else node.value
        known[id(node)] = 1 + sum(_values(part, known, above) for part in parts)
        above.remove(id(node))
        if known[id(node)] > MAX_VALUES:
            raise LimitError(f"more than {MAX_VALUES:,} values once its aliases are written out")
    return known[id(node)]
