"""Pictures of networks, stage by stage: the winner and the other finalists beside the network that scores are relative to."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from nas import catalog
from nas.cost import count
from nas.report.front import front_of
from nas.report.read import RunView
from nas.report.svg import COLOURS, pages
from nas.space import SearchSpace, choices, decode, format_count, stored_choose
from nas.spec import ArchSpec, LayerSpec, Value

ROOM = 100
"""Units of the picture for the blocks of a stage."""


@dataclass(frozen=True)
class Drawn:
    """A network that is drawn: what it is called, and the network."""

    name: str
    spec: ArchSpec


def networks(view: RunView) -> list[Drawn]:
    """Return the winner, the baseline and the other finalists of a run; those that this version decodes otherwise left out.

    Without the run's space there are none.
    """
    file = view.run.path("space.yaml")
    if not file.is_file():
        return []
    space = catalog.load_space(file)
    base = baseline(view)
    beside = [] if base is None else [Drawn(f"baseline: {base.name}", base)]
    order = [item.place for item in front_of(view)] if view.costs else range(len(view.finalists))
    rows = view.trained().drop_duplicates("arch_hash").set_index("arch_hash")
    found = []
    for rank, place in enumerate(order):
        name = str(view.finalists[place]["record"]["arch_hash"])
        spec = _decoded(space, rows.loc[name].to_dict(), view) if name in rows.index else None
        if spec is not None and spec.arch_hash == name:
            first = "knee" if view.costs else "winner"
            found.append(Drawn(f"{first if rank == 0 else 'finalist'}: {name[:8]}", spec))
    return found[:1] + beside + found[1:]


def baseline(view: RunView) -> ArchSpec | None:
    """Return the network that the scores of a run are relative to; None where the run does not hold its space.

    What this version decodes otherwise than the run did is not it.
    """
    file = view.run.path("space.yaml")
    if not file.is_file():
        return None
    classes, channels = _ends(view)
    spec = catalog.baseline(catalog.load_space(file), num_classes=classes, in_channels=channels)
    return spec if spec.arch_hash == view.run.manifest["baseline"].get("hash") else None


def _ends(view: RunView) -> tuple[int, int]:
    data = view.run.manifest["data"]
    return data["classes"], data.get("channels", 3)


def _decoded(space: SearchSpace, row: Mapping[Any, Any], view: RunView) -> ArchSpec | None:
    values: dict[str, Value] = {}
    for name, domain in choices(space).items():
        cell = row.get(f"param:{name}")
        if domain.ordered and cell is not None and not math.isnan(cell):
            values[name] = domain.values[int(cell)]
        else:  # a table holds texts
            same = [value for value in domain.values if str(value) == str(cell)]
            if not same:
                return None
            values[name] = same[0]
    classes, channels = _ends(view)
    return decode(space, stored_choose(values), num_classes=classes, in_channels=channels)


def network_pictures(drawn: Sequence[Drawn]) -> Markup:
    """Return a picture of each network: a row a stage, a box a block, as high as it has channels, with one legend for all."""
    specs = [item.spec.resolved() for item in drawn]
    layers = [layer for spec in specs for stage in spec.stages for layer in stage.layers]
    if not layers:
        return Markup("")
    kinds = sorted({layer.block for layer in layers})
    most = max(layer.out_channels for layer in layers)
    pictures = [
        {
            "name": item.name,
            "size": f"{spec.resolution} px, {format_count(sizes.params)} parameters, {format_count(sizes.macs)} MACs",
            "stages": _stages(spec, kinds, most),
        }
        for item, spec in zip(drawn, specs, strict=True)
        for sizes in [count(spec)]
    ]
    colours = {kind: _colour(kinds, kind) for kind in kinds}
    return Markup(pages.get_template("networks.svg").render(pictures=pictures, colours=colours, most=most))


def _colour(kinds: Sequence[str], kind: str) -> str:
    return f"c{kinds.index(kind) % COLOURS + 1}"


def _stages(spec: ArchSpec, kinds: Sequence[str], most: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [{"name": "stem", "blocks": [], "said": _said(spec.stem), "colour": "faint"}]
    for number, stage in enumerate(spec.stages, 1):
        for layer in stage.layers:
            width = min(14.0, ROOM / layer.num_layers - 2)
            height = 6 + 20 * math.sqrt(layer.out_channels / most)
            found.append(
                {
                    "name": str(number),
                    "blocks": [(place * (width + 2), width, height) for place in range(layer.num_layers)],
                    "said": _said(layer),
                    "colour": _colour(kinds, layer.block),
                }
            )
    if spec.head is not None:
        found.append({"name": "head", "blocks": [], "said": _said(spec.head), "colour": "faint"})
    return found


def _said(layer: LayerSpec) -> tuple[str, str]:
    """Return a run of blocks in two short lines: what they are and hand on, and how they are made."""
    options = dict(layer.options)
    made = [f"{options['kernel_size']} x {options['kernel_size']}" if "kernel_size" in options else ""]
    made += [f"expand {options['expand_ratio']:g}" if "expand_ratio" in options else ""]
    made += [f"SE {options['se_ratio']:g}" if options.get("se_ratio") else ""]
    made += [f"stride {layer.stride}" if layer.stride > 1 else ""]
    times = f"{layer.num_layers} x " if layer.num_layers > 1 else ""
    return f"{times}{layer.block}, {layer.out_channels} ch", ", ".join(part for part in made if part)
