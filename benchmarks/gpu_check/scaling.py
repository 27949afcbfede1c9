"""The section `scaling`: coefficients by measured step time, and what phi 1 to 3 cost against theory."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from typing import Any

from benchmarks.gpu_check.setting import Setting
from nas.runs import write_text
from nas.scale import ScaleResult, Watcher, derive, report

RECIPE = "extends: quick\ntrain_images: 12000\nval_images: 2000\nepochs: 4\nbatch_size: 256\n"
"""A large batch, so that more of a step is the device's time and less the host's."""

SMALL_RECIPE = "extends: quick\ntrain_images: 32\nval_images: 32\nepochs: 0.5\nbatch_size: 16\n"


class OutOfTime(Exception):
    """The section has no time left."""


class Guard(Watcher):
    """Stops a scaling beyond the limit, between two measurements; the same call continues it."""

    def __init__(self, limit_s: float) -> None:
        self._until = time.perf_counter() + limit_s
        self.trainings = 0

    def timing(self, what: str) -> None:
        """Look at the clock before a timing."""
        self._look()

    def trained(self, label: str, seed: int, values: Mapping[str, Any]) -> None:
        """Look at the clock after a training, which is stored by then."""
        self.trainings += 1
        print(f"  {label}, seed {seed}: {values['outcome']} {values.get('val_accuracy', '')}", flush=True)
        self._look()

    def _look(self) -> None:
        if time.perf_counter() > self._until:
            raise OutOfTime


def scaling(setting: Setting) -> dict[str, Any]:
    """Find the coefficients that are best at twice the measured step time, and measure phi 1 to 3: time and memory."""
    recipe = setting.folder / "scaling-recipe.yaml"
    write_text(recipe, SMALL_RECIPE if setting.small else RECIPE)
    named = hashlib.sha256(f"{setting.network.arch_hash} {setting.source()}".encode()).hexdigest()[:8]
    out = setting.folder / f"scaling-{named}"  # what it goes on from belongs to one network and its images
    guard = Guard(setting.limit_s)
    try:
        found = derive(
            source=str(setting.network_file()),
            data=setting.source(),
            recipe=str(recipe),
            devices=str(setting.device),
            budget=2 if setting.small else 6,
            budget_metric="step_time",
            within=0.5 if setting.small else 0.15,
            seeds=1 if setting.small else 2,
            phi=(1, 2, 3),
            out=out,
            watcher=guard,
        )
    except OutOfTime:
        return {
            "unfinished": True,
            "said": f"stopped by the time after {guard.trainings} trainings; run it again to go on",
        }
    report.write(found)
    return {"folder": out.name, **outcome(found)}


def outcome(found: ScaleResult) -> dict[str, Any]:
    """Return the coefficients, the table of the grid, and the family: measured multiples of the base against theory."""
    return {
        "coefficients": str(found.coefficients),
        "table": [report.HEADS, *report.rows_of(found)] if found.decision is not None else [],
        "members": [
            {
                "phi": member.phi,
                "resolution": member.spec.resolution,
                "num_params": member.num_params,
                "macs": member.macs,
                **{key: member.measured[key] for key in MEASURED if key in member.measured},
                "built_over_predicted": {
                    key: {"built": ratio, "predicted": member.predicted[key], "ratio": ratio / member.predicted[key]}
                    for key, ratio in member.built.items()
                },
                "notes": list(member.notes),
            }
            for member in found.members
        ],
        "warnings": list(found.warnings),
    }


MEASURED = ("step_time_ms", "step_time_mad_ms", "peak_memory_mib")
