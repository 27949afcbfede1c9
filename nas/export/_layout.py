"""Python source in the layout of the common formatters: 88 columns, one argument a line where a call does not fit.

Only what the modules of `nas.blocks` are written in is understood; a test formats every export with ruff.
"""

from __future__ import annotations

import ast
import re

import numpy as np

WIDTH = 88


def definition(node: ast.stmt, indent: int = 0) -> list[str]:
    """Return a class, a function or a statement as lines."""
    space = " " * indent
    match node:
        case ast.ClassDef():
            lines = [f"{space}class {node.name}({', '.join(map(ast.unparse, node.bases))}):"]
            for index, item in enumerate(node.body):
                lines += ([""] if index else []) + definition(item, indent + 4)
            return lines
        case ast.FunctionDef():
            returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
            head = broken(f"def {node.name}({_parameters(node.args)}){returns}:", indent)
            return head + [line for item in node.body for line in definition(item, indent + 4)]
        case ast.If():
            lines = _condition(node.test, indent) + [
                line for item in node.body for line in definition(item, indent + 4)
            ]
            if node.orelse:
                lines += [f"{space}else:", *(line for item in node.orelse for line in definition(item, indent + 4))]
            return lines
        case ast.Expr(value=ast.Constant(value=str(text))):
            return f'{space}"""{text}"""'.split("\n")
    return broken(quoted(ast.unparse(node)), indent)


def _parameters(arguments: ast.arguments) -> str:
    """Return parameters with spaces around the defaults of annotated ones, which `ast` leaves out."""
    first = len(arguments.args) - len(arguments.defaults)
    words = [ast.unparse(item) for item in arguments.args]
    for index, default in enumerate(arguments.defaults, first):
        words[index] += f" = {quoted(ast.unparse(default))}"
    return ", ".join(words)


def _condition(test: ast.expr, indent: int) -> list[str]:
    text = quoted(f"if {ast.unparse(test)}:")
    if indent + len(text) <= WIDTH or not isinstance(test, ast.BoolOp):
        return broken(text, indent)
    word = "or" if isinstance(test.op, ast.Or) else "and"
    parts = [quoted(ast.unparse(item)) for item in test.values]
    parts = [
        f"({part})" if isinstance(item, ast.BoolOp) else part for part, item in zip(parts, test.values, strict=True)
    ]
    space = " " * indent
    inner = [f"{space}    {word + ' ' if index else ''}{part}" for index, part in enumerate(parts)]
    return [f"{space}if (", *inner, f"{space}):"]


def quoted(text: str) -> str:
    """Return source from `ast` as people write it: double quotes, 1e-6."""
    return re.sub(r"'([^'\"\\]*)'", r'"\1"', re.sub(r"(\de[-+]?)0(\d)", r"\1\2", text))


def broken(text: str, indent: int) -> list[str]:
    """Return a statement as one line where it fits, and else broken at its last bracket."""
    space = " " * indent
    if indent + len(text) <= WIDTH:
        return [space + text]
    first, last = _last_bracket(text)
    if first is None:
        return [space + text]
    head, body, tail = text[: first + 1], text[first + 1 : last], text[last:]
    if indent + 4 + len(body) <= WIDTH:
        return [space + head, f"{space}    {body}", space + tail]
    lines = [space + head]
    for part in _parts(body):
        lines += broken(part + ",", indent + 4)
    return [*lines, space + tail]


def repeated(text: str, times: int, indent: int) -> list[str]:
    """Return an argument that is the same call several times."""
    space, loop = " " * indent, f"for _ in range({times})"
    line = f"{space}*({text} {loop}),"
    if len(line) <= WIDTH:
        return [line]
    inner = [f"{space}    {text} {loop}"]
    if len(inner[0]) > WIDTH:
        inner = [*broken(text, indent + 4), f"{space}    {loop}"]
    return [f"{space}*(", *inner, f"{space}),"]


def _last_bracket(text: str) -> tuple[int | None, int]:
    """Return the places of the last outermost pair of brackets."""
    depth, last = 0, len(text)
    for place in range(len(text) - 1, -1, -1):
        if text[place] in ")]}":
            last = place if depth == 0 else last
            depth += 1
        elif text[place] in "([{":
            depth -= 1
            if depth == 0:
                return place, last
    return None, last


def _parts(text: str) -> list[str]:
    """Return what commas divide on the outermost level."""
    depth, first, parts = 0, 0, []
    for place, letter in enumerate(text):
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and depth == 0:
            parts.append(text[first:place].strip())
            first = place + 1
    return [part for part in (*parts, text[first:].strip()) if part]


def literal(value: object) -> str:
    """Return a number or a tuple of them without digits that float32 does not hold."""
    if isinstance(value, tuple):
        return f"({', '.join(map(literal, value))}{',' if len(value) == 1 else ''})"
    text = str(np.float32(value)) if isinstance(value, float) else repr(value)
    return re.sub(r"(e[-+]?)0(\d)", r"\1\2", text)


def listed(head: str, words: tuple[str, ...], tail: str) -> list[str]:
    """Return a list of strings: on one line where it fits, else one a line."""
    texts = [
        f'"{word}"' if '"' not in word and "\\" not in word and word.isprintable() else repr(word) for word in words
    ]
    line = f"{head}{', '.join(texts)}{',' if len(texts) == 1 else ''}{tail}"
    if len(line) <= WIDTH:
        return [line]
    return [head, *(f"    {text}," for text in texts), tail]
