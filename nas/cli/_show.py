"""`nas show`: what is shipped, what a space holds, what a network is made of."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.table import Table

from nas import catalog
from nas.errors import UsageError
from nas.space import Domain, SearchSpace, choices, format_count
from nas.space.library import names
from nas.spec import ArchSpec

if TYPE_CHECKING:
    from nas.cost import Measurement


def shipped() -> None:
    """List the shipped spaces and networks."""
    from nas.cost import count

    console = _console()
    found = {name: catalog.load_space(name) for name in names()}
    table = Table(box=None, header_style="bold", pad_edge=False)
    for head in ("space", "choices", "reference"):
        table.add_column(head, justify="right" if head == "choices" else "left", overflow="fold")
    for name, space in found.items():
        if not name.startswith("reference/"):
            table.add_row(name, str(len(choices(space))), space.reference)
    console.print(table)
    table = Table(box=None, header_style="bold", pad_edge=False)
    for head in ("network", "pixels", "params", "MACs", "reference"):
        table.add_column(head, justify="left" if head in ("network", "reference") else "right", overflow="fold")
    for name in found:
        if name.startswith("reference/"):
            spec = catalog.load_arch(name)
            params, macs = count(spec)
            table.add_row(
                name.removeprefix("reference/"),
                str(spec.resolved().resolution),
                format_count(params),
                format_count(macs),
                spec.reference,
            )
    console.print()
    console.print(table)
    click.echo("\nnext: nas show NAME, or nas show --compare NAME NAME ...")


def show(
    name: str,
    *,
    resolution: int | None,
    num_classes: int | None,
    verify: bool,
    timed: bool,
    batch_size: int,
    device: str,
) -> None:
    """Print a space or an architecture."""
    name = catalog.arch_file(name)
    space = catalog.load_space(name)
    if choices(space):
        given = {"--verify": verify, "--time": timed}
        wrong = [option for option, value in given.items() if value]
        if wrong:
            raise UsageError(f"{', '.join(wrong)}: {name} is a space with open choices; give an architecture.")
        _space(catalog.adapted(space, resolution=resolution, num_classes=num_classes), name)
        return
    spec = catalog.load_arch(name, resolution=resolution, num_classes=num_classes)
    _architecture(spec)
    if verify:
        _verify(spec)
    if timed:
        for number, (found,) in enumerate(_times([spec], batch_size, device), 1):
            click.echo(
                f"step_time_ms {found.value:.2f} (MAD {found.spread:.2f}, n {found.n}, batch {batch_size}, "
                f"{spec.resolved().resolution} pixels, process {number}{_remarks([found])})"
            )


def compare(
    given: Sequence[str],
    *,
    resolution: int | None,
    num_classes: int | None,
    verify: bool,
    timed: bool,
    batch_size: int,
    device: str,
) -> None:
    """Print architectures side by side, each relative to the first."""
    from nas.cost import count
    from nas.models import state_bytes

    specs = [catalog.load_arch(name, resolution=resolution, num_classes=num_classes) for name in given]
    counts = [count(spec) for spec in specs]
    sizes = [state_bytes(spec) / 1e6 for spec in specs]
    columns: list[tuple[str, list[str]]] = [
        ("", [spec.name for spec in specs]),
        ("pixels", [str(spec.resolved().resolution) for spec in specs]),
        ("layers", [str(sum(stage.num_layers for stage in spec.resolved().stages)) for spec in specs]),
        ("params", [f"{c.params:,}" for c in counts]),
        ("", _relative([c.params for c in counts])),
        ("MACs", [f"{c.macs:,}" for c in counts]),
        ("", _relative([c.macs for c in counts])),
        ("size MB", [f"{size:.1f}" for size in sizes]),
    ]
    seen: list[Measurement] = []
    for number, times in enumerate(_times(specs, batch_size, device) if timed else (), 1):
        seen += times
        columns.append((f"step_time_ms {number}", [f"{t.value:.2f} ± {t.spread:.2f} (n {t.n})" for t in times]))
        columns.append(("", _relative([t.value for t in times])))
    table = Table(box=None, header_style="bold", pad_edge=False)
    for head, _ in columns:
        table.add_column(head, justify="left" if head == "" else "right", no_wrap=True)
    for cells in zip(*(cells for _, cells in columns), strict=True):
        table.add_row(*cells)
    _console().print(table)
    note = "× is relative to the first; size: float32 weights and norm statistics, in 10^6 bytes"
    if timed:
        note += f"; step_time_ms: median ± MAD of a training step of {batch_size} images, in two processes, networks in turn"
        note += _remarks(seen)
    click.echo(note)
    for spec in specs if verify else ():
        click.echo(f"{spec.name}: ", nl=False)
        _verify(spec)


def _remarks(times: Sequence[Measurement]) -> str:
    """Return what is wrong with step times, or was not seen, each once."""
    found = {item.conditions.remarks for item in times if item.conditions and item.conditions.remarks}
    return "".join(f"; {remark}" for remark in sorted(found))


def _relative(values: Sequence[float]) -> list[str]:
    return ["", *(f"{value / values[0]:.2f}×" for value in values[1:])]


def _console() -> Console:
    """Return a console that cuts nothing off: as wide as the terminal, or wide enough for any table in a file."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=200)


def _space(space: SearchSpace, given: str) -> None:
    from nas.lint import lint

    console = _console()
    report = lint(space)
    console.print(space.name, space.reference, markup=False)
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("stage", no_wrap=True)
    layers = dict(space.layers())
    small_print = {name: key.default for rule in space.rules.values() for name, key in rule.keys.items() if key.quiet}
    keys = ["block", "kernel_size", "expand_ratio", "se_ratio", "out_channels", "num_layers", "stride"]
    # The small print only where it is not what the blocks have anyway.
    keys += sorted(
        {
            key
            for layer in layers.values()
            for key, domain in layer.options.items()
            if key not in keys and (key not in small_print or domain.values != (small_print[key],))
        }
    )
    if any(layer.skip.values != ("",) for layer in layers.values()):
        keys.append("skip")
    if any(layer.activation is not None for layer in layers.values()):
        keys.append("activation")
    for key in keys:
        table.add_column(key, overflow="fold")
    for place, layer in layers.items():
        cells = [layer.options.get(key) or getattr(layer, key, None) for key in keys]
        table.add_row(place, *(_domain(cell) for cell in cells))
    console.print(table)
    for stage, content in enumerate(space.stages, 1):
        if content.per_layer:
            console.print(f"s{stage}: {', '.join(content.per_layer)} chosen anew for each layer")
    top = {name: getattr(space, name) for name in ("resolution", "width_mult", "depth_mult", "activation", "drop_path")}
    console.print("  ".join(f"{name} {_domain(domain)}" for name, domain in top.items()))
    for rule in space.forbid:
        console.print(f"forbidden: {rule}")
    for limit in space.limits:
        bounds = [f"{word} {format_count(value)}" for word, value in (("min", limit.min), ("max", limit.max)) if value]
        console.print(f"limit: {limit.cost} {', '.join(bounds)}")
    console.print()
    size = "not counted (too many to enumerate)" if report.size is None else f"{report.size:.4g}"
    console.print(f"choices              {len(report.choices)}")
    console.print(f"encodings            {report.raw_size:.4g}")
    console.print(f"distinct networks    {size}")
    n = report.sampled
    console.print(
        f"of {n} random ones   {report.forbidden / n:.1%} forbidden, {report.infeasible / n:.1%} beyond a limit"
    )
    console.print(f"counted with         {space.num_classes} classes", highlight=False)
    for label, values in (("params", report.params), ("MACs", report.macs)):
        console.print(f"{label:20s} {' / '.join(format_count(value) for value in values)}  (least / median / most)")
    for line in report.useless:
        console.print(f"never matters        {line}", style="yellow", markup=False)
    for line in report.warnings:
        console.print(f"note                 {line}", style="yellow", markup=False)
    console.print(f"recipe               {space.recipe}")
    click.echo(f"\nnext: nas search --space {shlex.quote(given)} --budget 50")


def _domain(domain: Any) -> str:
    if not isinstance(domain, Domain):
        return "-"
    values = [f"{value:g}" if isinstance(value, float) else str(value) for value in domain.values]
    if len(values) > 4 and domain.ordered:
        return f"{values[0]}..{values[-1]} ({len(values)})"
    return " ".join(values)


def _architecture(spec: ArchSpec) -> None:
    from nas.cost import count, table
    from nas.models import state_bytes, timm_definition

    console = _console()
    resolved = spec.resolved()
    definition = timm_definition(spec)
    console.print(spec.name, spec.reference, markup=False)
    scaled = {name: getattr(spec, name) for name in ("width_mult", "depth_mult", "resolution_mult")}
    multipliers = "".join(f", {name} {value:g}" for name, value in scaled.items() if value != 1)
    console.print(
        f"input {resolved.in_channels} x {resolved.resolution} x {resolved.resolution}, {resolved.num_classes} classes"
        f"{multipliers}, hash {spec.arch_hash}"
    )
    grid = Table(box=None, header_style="bold", pad_edge=False)
    for head in ("stage", "output", "params", "MACs"):
        grid.add_column(head, justify="left" if head == "stage" else "right")
    grid.add_column("timm", overflow="fold")
    for row in table(spec):
        runs = ""
        if row.part.startswith("s") and row.part[1:].isdigit() and definition is not None:
            runs = ", ".join(definition[int(row.part[1:]) - 1])
        shape = (
            f"{row.out_channels} x {row.out_size} x {row.out_size}"
            if row.part != "classifier"
            else f"{row.out_channels}"
        )
        grid.add_row(row.part, shape, f"{row.count.params:,}", f"{row.count.macs:,}", runs)
    total = count(spec)
    grid.add_row("total", "", f"{total.params:,}", f"{total.macs:,}", "", style="bold")
    console.print(grid)
    console.print(f"size {state_bytes(spec) / 1e6:.1f} MB (float32 weights and norm statistics)")


def _verify(spec: ArchSpec) -> None:
    from nas.cost import count
    from nas.cost.verify import fvcore_count

    mine, theirs = count(spec), fvcore_count(spec)
    same = mine == theirs
    click.echo(
        f"fvcore on the built network: {theirs.params:,} params, {theirs.macs:,} MACs (conv + linear): "
        + ("equal" if same else "DIFFERENT")
    )
    if not same:
        raise UsageError("--verify: the formulas and the built network disagree; please report this architecture.")


def _times(specs: Sequence[ArchSpec], batch_size: int, device: str) -> list[tuple[Measurement, ...]]:
    from nas.devices import describe_device, pick_device
    from nas.timing import time_in_two_processes

    where = pick_device(device)
    click.echo(f"timing on {describe_device(where)['name']} in two processes, one after the other ...", err=True)
    return time_in_two_processes(specs, batch_size, str(where))
