"""Lines of Markdown, as reports are written in, as HTML. What a user named stays text: no tag, link or address comes through."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from markdown_it import MarkdownIt
from markupsafe import Markup, escape

_PICTURE = re.compile(r"!\[[^\]]*\]\(([^()]+)\)")
_HEADING = re.compile(r"(#+) ")


def _renderer() -> MarkdownIt:
    made = MarkdownIt("commonmark", {"html": False}).enable("table").disable(["link", "image", "autolink", "reference"])
    made.add_render_rule("table_open", _table_open)
    made.add_render_rule("table_close", lambda *_: "</table></div>\n")
    made.add_render_rule("code_inline", lambda _, tokens, place, *__: code(tokens[place].content))
    made.add_render_rule("th_open", lambda *_: '<th scope="col">')
    return made


def code(text: str) -> Markup:
    """Return what is typed, as HTML that does not break lines within `--options`."""
    words = (
        Markup('<span class="option">{}</span>' if word.startswith("-") else "{}").format(word)
        for word in text.split(" ")
    )
    return Markup("<code>{}</code>").format(Markup(" ").join(words))


def _table_open(_: Any, tokens: Sequence[Any], place: int, *__: Any) -> str:
    head = next(token.content for token in tokens[place:] if token.type == "inline")
    # What can be scrolled must be reached by keys, and then have a name.
    return f'<div class="scroll" tabindex="0" role="region" aria-label="table by {escape(head)}"><table>'


def prose(lines: Sequence[str], pictures: Mapping[str, Markup] | None = None, *, deeper: int = 0) -> Markup:
    """Return lines as HTML.

    Args:
        pictures: What stands where a line is a picture, by its file; a picture that is not there is left out.
        deeper: By how many levels headings are lowered.
    """
    parts, text = [], list[str]()

    def flush() -> None:
        parts.append(Markup(_renderer().render("\n".join(text))))
        text.clear()

    for line in lines:
        found = _PICTURE.fullmatch(line)
        if found is not None:
            flush()
            parts.append((pictures or {}).get(found[1], Markup("")))
        else:
            text.append("#" * deeper + line if deeper and _HEADING.match(line) else line)
    flush()
    return Markup("").join(parts)


def titled(lines: Sequence[str]) -> tuple[str, Sequence[str]]:
    """Return the heading that lines begin with, and the others."""
    return lines[0].lstrip("# "), lines[1:]
