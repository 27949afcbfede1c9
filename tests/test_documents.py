"""What README and the pages say to type is understood by the command line, and their Python parses."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from nas.cli import cli

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^( *)```(\w+)[^\n]*\n(.*?)^\1```", re.DOTALL | re.MULTILINE)
INLINE = re.compile(r"(?<!`)`(nas [a-z][^`\n]*)`(?!`)")
ABRIDGED = re.compile(r"\.\.\.|\b(COMMAND|OPTION)\b|[<>]")


def blocks(page: Path, *languages: str) -> Iterator[str]:
    """The fenced blocks of a page in one of the languages."""
    for match in FENCE.finditer(page.read_text()):
        if match[2] in languages:
            yield match[3]


def commands(page: Path) -> set[str]:
    """Every `nas ...` that a page says to type, in blocks and in the text; abridged ones are left out."""
    found = set()
    for block in blocks(page, "sh", "bash", "console"):
        for line in block.replace("\\\n", " ").splitlines():
            for part in line.removeprefix("$ ").split("&&"):
                words = part.strip().removeprefix(".venv/bin/")
                if words.startswith("nas "):
                    found.add(words)
    found |= {match[1].replace("\\|", "|") for match in INLINE.finditer(page.read_text())}
    return {words for words in found if not ABRIDGED.search(words)}


def understood(words: str) -> None:
    """Hand a command to click's parser, without running it; raises `click.UsageError` as the program would."""
    name, *rest = shlex.split(words, comments=True)[1:]
    if name.startswith("-"):
        assert name in {"--help", "--version"}, words
        return
    assert name in cli.commands, f"{words}: no such command"
    command = cli.commands[name]
    context = click.Context(command, info_name=name, resilient_parsing=True)
    known = {
        option for parameter in command.get_params(context) for option in parameter.opts + parameter.secondary_opts
    }
    for word in rest:
        option = word.split("=")[0]
        assert not option.startswith("--") or option in known, f"{words}: no option {option}"
    command.parse_args(context, rest)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_in_a_page_is_one_that_exists(page: Path) -> None:
    for words in sorted(commands(page)):
        understood(words)


def test_a_wrong_command_in_a_page_is_found() -> None:
    for wrong in ("nas serch --space v2_tiny", "nas search --spaces v2_tiny"):
        with pytest.raises(AssertionError):
            understood(wrong)
    assert sum(len(commands(page)) for page in PAGES) > 40


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_python_in_a_page_parses(page: Path) -> None:
    for block in blocks(page, "python"):
        ast.parse(block)
