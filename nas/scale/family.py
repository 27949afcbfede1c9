"""The networks of a scaling: built at each phi, counted, and compared with what theory says."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import yaml

from nas.cost import count
from nas.runs import write_text
from nas.scale.compound import Coefficients, Rules, scale
from nas.scale.fit import time_ratio
from nas.scale.result import Member
from nas.spec import ArchSpec


def network(base: ArchSpec, chosen: Coefficients, phi: float, rules: Rules) -> ArchSpec:
    """Return the network at a phi, with a name and what it was made from."""
    return replace(
        scale(base, chosen, phi, rules),
        name=f"{base.name}-phi{phi:g}",
        reference=f"{base.name} scaled by nas scale: alpha {chosen.alpha:g}, beta {chosen.beta:g}, gamma {chosen.gamma:g}, "
        f"phi {phi:g}",
    )


def write(spec: ArchSpec, phi: float, folder: Path) -> Path:
    """Write the file of a network of the family, and return it.

    Raises:
        RunError: it cannot be written.
    """
    file = folder / f"phi-{phi:g}.yaml"
    write_text(file, yaml.safe_dump(spec.document(), sort_keys=False))
    return file


def too_large(spec: ArchSpec, device: torch.device) -> str:
    """Say how much memory a network needs at least, where that is more than the device has; else nothing.

    Weights, gradients and the two averages of AdamW are four numbers of four bytes for each parameter. Building what cannot fit
    would take the program down on a CPU.
    """
    needs = 16 * count(spec).params
    if device.type == "cuda":
        has = torch.cuda.get_device_properties(device).total_memory
    else:
        has = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needs <= has:
        return ""
    return f"its weights, gradients and averages need {needs / 2**30:.0f} GiB, and {device} has {has / 2**30:.0f}"


def member(
    base: ArchSpec,
    spec: ArchSpec,
    phi: float,
    chosen: Coefficients,
    rules: Rules,
    *,
    file: Path,
    timed: Mapping[str, Any],
    base_timed: Mapping[str, Any],
    native: int | None,
) -> Member:
    """Count a network of the family, and put what was measured beside what theory says.

    Args:
        timed, base_timed: Raw values of the timings of the network and the base. native: Pixels of the images, if known.
    """
    found, own = count(spec), count(base)
    depth, width, size = chosen.alpha**phi, chosen.beta**phi, chosen.gamma**phi
    built = {"num_params": found.params / own.params, "macs": found.macs / own.macs}
    if timed["outcome"] == "ok":
        built["step_time_ms"] = time_ratio(timed)
    if "peak_memory_mib" in timed and "peak_memory_mib" in base_timed:
        built["peak_memory_mib"] = float(timed["peak_memory_mib"] / base_timed["peak_memory_mib"])
    return Member(
        phi=phi,
        spec=spec,
        file=file,
        num_params=found.params,
        macs=found.macs,
        # Tan & Le 2019, section 3.3: the cost is linear in depth and square in width and resolution.
        predicted={
            "num_params": depth * width**2,
            "macs": depth * width**2 * size**2,
            "step_time_ms": depth * width**2 * size**2,
            # What is kept for the backward pass: channels times pixels of each layer.
            "peak_memory_mib": depth * width * size**2,
        },
        built=built,
        measured=timed,
        notes=_notes(base, spec, phi, chosen, rules, timed, native),
    )


def _notes(
    base: ArchSpec,
    spec: ArchSpec,
    phi: float,
    chosen: Coefficients,
    rules: Rules,
    timed: Mapping[str, Any],
    native: int | None,
) -> tuple[str, ...]:
    notes = []
    if native is not None and native < spec.resolution and chosen.gamma > 1:
        notes.append(f"{spec.resolution} pixels are more than the images have ({native}, the median)")
    wished = base.resolved().resolution * chosen.gamma**phi
    if rules.max_resolution and wished > rules.max_resolution + rules.resolution_multiple / 2:
        notes.append(f"{spec.resolution} pixels is the largest resolution allowed; gamma asks for {wished:.0f}")
    if timed["outcome"] != "ok":
        notes.append(f"not timed: {timed.get('reason', timed['outcome'])}")
    return tuple(notes)
