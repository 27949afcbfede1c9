"""Charts and network pictures as inline SVG: they take their colours from the page's style, and their hover from titles."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.ticker import MaxNLocator

WIDTH, HEIGHT = 640, 380
LEFT, RIGHT, TOP, BOTTOM = 66, 18, 46, 52

COLOURS = 6
"""Colours of a page, `c1` to `c6` in its style."""

pages = Environment(
    loader=PackageLoader("nas.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
)
"""The templates of the pages, everything in them escaped."""

SHAPES = {
    "dot": "M-4 0A4 4 0 1 1 4 0A4 4 0 1 1 -4 0Z",
    "diamond": "M0 -6L6 0L0 6L-6 0Z",
    "square": "M-4.5 -4.5H4.5V4.5H-4.5Z",
    "triangle": "M0 -6L5.5 4.5H-5.5Z",
    "cross": "M-5 -5L5 5M-5 5L5 -5",
    "star": "M0 -10L2.4 -3.2L9.5 -3.1L3.8 1.2L5.9 8.1L0 4L-5.9 8.1L-3.8 1.2L-9.5 -3.1L-2.4 -3.2Z",
}
"""Marks around their centre, in units of the picture."""


@dataclass(frozen=True)
class Mark:
    """A point of a chart with its standard errors, and what is shown when it is pointed at, a line for each part."""

    x: float
    y: float
    said: tuple[str, ...] = ()
    x_error: float = 0.0
    y_error: float = 0.0


@dataclass(frozen=True)
class Series:
    """Points of one kind.

    Args:
        colour: `c1` ... or `faint`. shape: Of `SHAPES`; empty for none. line: `steps`, `straight`, `dashed` or empty: what joins
            the points, in their order.
        aside: The axes reach as far as the other series; of this one the points outside are left out, and counted in the legend.
    """

    name: str
    marks: tuple[Mark, ...]
    colour: str
    shape: str = "dot"
    line: str = ""
    aside: bool = False


@dataclass(frozen=True)
class Axis:
    """An axis.

    Args:
        log: Whether equal steps are equal ratios. text: How a tick is written.
    """

    name: str
    log: bool = False
    text: Callable[[float], str] = "{:g}".format


def chart(
    name: str, said: str, x: Axis, y: Axis, series: Sequence[Series], *, upright: tuple[float, str] | None = None
) -> Markup:
    """Return a chart with its legend; nothing of series without a point.

    Args:
        name, said: What it shows, and that in a sentence for those who cannot see it.
        upright: A place on the x axis with a line from top to bottom, and what it is called.
    """
    marks = [mark for item in series for mark in item.marks if not item.aside] or [
        mark for item in series for mark in item.marks
    ]
    if not marks:
        return Markup("")
    xs = [value for mark in marks for value in (mark.x - mark.x_error, mark.x + mark.x_error)]
    ys = [value for mark in marks for value in (mark.y - mark.y_error, mark.y + mark.y_error)]
    across = _Scale(x, xs + ([upright[0]] if upright else []), LEFT, WIDTH - RIGHT)
    up = _Scale(y, ys, HEIGHT - BOTTOM, TOP)
    shown = {id(item): [mark for mark in item.marks if across.holds(mark.x) and up.holds(mark.y)] for item in series}
    drawn = [
        {
            "series": item,
            "name": _legend(item, len(shown[id(item)])),
            "path": _path(item, across, up),
            "marks": [
                {
                    "x": across(mark.x),
                    "y": up(mark.y),
                    "said": "\n".join(mark.said),
                    "bars": _bars(mark, across, up),
                }
                for mark in shown[id(item)]
            ],
        }
        for item in series
        if item.marks
    ]
    return Markup(
        pages.get_template("chart.svg").render(
            name=name,
            said=said,
            x=x,
            y=y,
            x_ticks=[(across(value), x.text(value)) for value in across.ticks],
            y_ticks=[(up(value), y.text(value)) for value in up.ticks],
            drawn=drawn,
            shapes=SHAPES,
            upright=None if upright is None else (across(upright[0]), upright[1]),
            width=WIDTH,
            height=HEIGHT,
            left=LEFT,
            right=WIDTH - RIGHT,
            top=TOP,
            bottom=HEIGHT - BOTTOM,
        )
    )


def _legend(item: Series, shown: int) -> str:
    left_out = len(item.marks) - shown
    return f"{item.name}, {left_out} outside" if item.name and left_out else item.name


class _Scale:
    """Values of an axis as places in the picture, one digit behind the point."""

    def __init__(self, axis: Axis, values: Sequence[float], first: float, last: float) -> None:
        self._place: Callable[[float], float] = math.log if axis.log else float
        positive = [value for value in values if value > 0] if axis.log else list(values)
        low, high = min(positive), max(positive)
        self._low, self._high = self._place(low), self._place(high)
        room = 0.04 * (self._high - self._low) or 0.05 * abs(self._low) or 0.05
        self._low, self._high = self._low - room, self._high + room
        self._first, self._last = first, last
        self.ticks = [value for value in _ticks(axis, low, high) if self._low <= self._place(value) <= self._high]

    def holds(self, value: float) -> bool:
        """Return whether a value lies on the axis."""
        return (value > 0 or self._place is float) and self._low <= self._place(value) <= self._high

    def __call__(self, value: float) -> float:
        share = (
            (self._place(value) - self._low) / (self._high - self._low) if value > 0 or self._place is float else 0.0
        )
        return round(self._first + share * (self._last - self._first), 1)


def _ticks(axis: Axis, low: float, high: float) -> list[float]:
    if not axis.log or high < 3 * low:
        return [round(float(value), 12) for value in MaxNLocator(7).tick_values(low, high)]
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = (1, 1.5, 2, 3, 5, 7) if high < 12 * low else (1, 2, 5) if high < 200 * low else (1,)
    return [float(f"{step}e{decade}") for decade in decades for step in steps]


def _path(item: Series, across: _Scale, up: _Scale) -> str:
    if not item.line:
        return ""
    parts = []
    for number, mark in enumerate(item.marks):
        place = f"{across(mark.x)} {up(mark.y)}"
        if number == 0:
            parts.append(f"M{place}")
        elif item.line == "steps":
            parts.append(f"H{across(mark.x)}V{up(mark.y)}")
        else:
            parts.append(f"L{place}")
    return "".join(parts)


def _bars(mark: Mark, across: _Scale, up: _Scale) -> str:
    x, y, path = across(mark.x), up(mark.y), ""
    if mark.y_error > 0:
        path += f"M{x} {up(mark.y - mark.y_error)}V{up(mark.y + mark.y_error)}"
    if mark.x_error > 0:
        path += f"M{across(mark.x - mark.x_error)} {y}H{across(mark.x + mark.x_error)}"
    return path


@dataclass(frozen=True)
class Row:
    """A row of a picture of intervals: what it is of, the value, half the interval, and whether it is told from 0."""

    name: str
    value: float
    half: float
    seen: bool


def intervals(name: str, said: str, rows: Sequence[Row], text: Callable[[float], str]) -> Markup:
    """Return values with their intervals, a row each, around a line at 0."""
    ends = [end for row in rows for end in (row.value - row.half, row.value + row.half)]
    scale = _Scale(Axis(name), [*ends, 0.0], 12, 348)
    middle = scale.ticks.index(0.0)  # every other tick, 0 among them
    ticks = [(scale(value), text(value) if value else "0") for value in scale.ticks[middle % 2 :: 2]]
    drawn = [
        {
            "row": row,
            "value": scale(row.value),
            "low": scale(row.value - row.half),
            "high": scale(row.value + row.half),
            "said": f"{row.name}: {text(row.value)} ± {text(row.half).lstrip('+')}",
        }
        for row in rows
    ]
    return Markup(
        pages.get_template("intervals.svg").render(name=name, said=said, drawn=drawn, zero=scale(0.0), ticks=ticks)
    )
