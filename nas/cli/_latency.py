"""`nas latency`: the measured inference of networks, a row for each backend and batch size."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from nas import catalog
from nas.cost.latency import BACKENDS, Latency, latencies
from nas.devices import describe_device, pick_device
from nas.errors import MeasurementError
from nas.runs import open_run


def show(
    networks: Sequence[str],
    *,
    batch_sizes: Sequence[int],
    resolution: int | None,
    num_classes: int | None,
    device: str,
    backends: Sequence[str],
    threads: int | None,
    as_json: bool,
) -> None:
    """Measure networks and print a table, or lines of JSON."""
    specs = {
        name: catalog.load_arch(name, resolution=resolution, num_classes=num_classes)
        for name in dict.fromkeys(networks)
    }
    where = pick_device(device)
    rows = latencies(
        specs,
        where,
        backends=list(dict.fromkeys(backends or BACKENDS)),
        batch_sizes=list(dict.fromkeys(batch_sizes)),
        threads=threads,
        say=lambda sentence: click.echo(sentence, err=True),
    )
    places = {row.device: describe_device(pick_device(row.device))["name"] for row in rows}
    if as_json:
        for row in rows:
            click.echo(json.dumps({**row.document(), "device_name": places[row.device]}))
    else:
        _table(rows, places)
        click.echo(f"\nnext: {_next(rows, networks)}")
    if not any(row.measured for row in rows):
        raise MeasurementError(f"nas latency: nothing could be measured: {rows[0].problem}")


def _table(rows: Sequence[Latency], places: dict[str, str]) -> None:
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:  # in a file nothing is cut off
        console = Console(highlight=False, markup=False, width=200)
    for device, name in places.items():
        threads = rows[0].threads
        console.print(f"{device}: {name}" + (f", {threads} thread{'s' * (threads > 1)}" if device == "cpu" else ""))
    several = len({row.name for row in rows}) > 1
    grid = Table(box=None, header_style="bold", pad_edge=False)
    grid.add_column("network", overflow="fold")
    for head in ("backend", "device", "dtype"):
        grid.add_column(head)
    heads = ("batch", "pixels", "median ms", "MAD", "p95", "n", "images/s", "error", *(["ratio"] if several else []))
    for head in heads:
        grid.add_column(head, justify="right")
    for row in rows:
        where = [row.name, row.backend, row.device, row.dtype, str(row.batch_size), str(row.resolution)]
        ratio = [_ratio(row, rows)] if several else []
        grid.add_row(*where, *_times(row), *ratio, style="" if row.measured else "dim")
    console.print(grid)
    console.print("error: of the scores, relative to eager float32" + ("; ratio: to the first network" * several))
    for problem in dict.fromkeys((row.backend, row.problem) for row in rows if row.problem):
        console.print(f"{problem[0]} not measured: {problem[1]}", style="yellow", soft_wrap=True)


def _times(row: Latency) -> list[str]:
    error = "-" if row.difference is None else f"{row.difference:.1e}"
    if row.measured is None or row.p95_ms is None:
        return ["-", "-", "-", "-", "-", error]
    median, spread = row.measured.value, row.measured.spread
    rate = 1e3 * row.batch_size / median
    return [f"{median:.3f}", f"{spread:.3f}", f"{row.p95_ms:.3f}", str(row.measured.n), f"{rate:.4g}", error]


def _ratio(row: Latency, rows: Sequence[Latency]) -> str:
    """Return a network's time over the first network's, which alternated with it."""
    first = next(item for item in rows if (item.backend, item.batch_size) == (row.backend, row.batch_size))
    if row.measured is None or first.measured is None:
        return "-"
    return f"{row.measured.value / first.measured.value:.3f}"


def _next(rows: Sequence[Latency], networks: Sequence[str]) -> str:
    """Return the command to run next: a search for something faster, where the number is one that a search limits."""
    first = next((row for row in rows if row.measured and (row.backend, row.batch_size) == ("eager", 1)), None)
    if first is None or first.measured is None:
        return f"nas latency {shlex.join(networks)} --backend eager --batch-size 1"
    config: dict[str, Any] = {"space": "v2"}
    if (Path(first.name) / "manifest.json").is_file():
        config = dict(open_run(first.name).manifest["config"])
    words = [
        "nas",
        "search",
        *(word for name in ("space", "data") if name in config for word in (f"--{name}", config[name])),
    ]
    return f"{shlex.join(words)} --max-latency {first.measured.value:.3g}ms"
