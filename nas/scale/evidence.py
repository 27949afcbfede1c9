"""What the trainings of a scaling say so far: of each network, and of the scatter between seeds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from nas.scale.compound import Coefficients
from nas.scale.fit import SIGNIFICANT, Decision, Seen, difference, seed_deviation, seen, time_ratio
from nas.scale.grid import BASE, Level, Point
from nas.scale.measure import Measurements
from nas.search.study import Row
from nas.spec import ArchSpec, summary


class Evidence:
    """The trainings of a base and of the points of a grid, as they stand.

    Args:
        images: Validation images that accuracies are counted on.
    """

    def __init__(self, base: ArchSpec, measured: Measurements, images: int) -> None:
        self._base, self._measured, self._images = base, measured, images

    def sound(self, points: Mapping[Level, Point]) -> dict[Level, list[dict[str, Any]]]:
        """Return the trainings of each network that came to an end."""
        specs = {BASE: self._base, **{level: point.spec for level, point in points.items()}}
        ended = {
            level: [item for item in self._measured.of(spec).values() if item["outcome"] == "ok"]
            for level, spec in specs.items()
        }
        return {level: found for level, found in ended.items() if found}

    def deviation(self, points: Mapping[Level, Point]) -> float:
        """Return how far an accuracy scatters over seeds (`seed_deviation`)."""
        return seed_deviation([[item["val_accuracy"] for item in found] for found in self.sound(points).values()])

    def results(self, points: Mapping[Level, Point]) -> dict[Level, Seen]:
        """Return what the trainings of each network showed, those that failed left out."""
        deviation = self.deviation(points)
        return {level: seen(found, deviation, self._images) for level, found in self.sound(points).items()}

    def failed(self, points: Mapping[Level, Point]) -> tuple[tuple[str, str], ...]:
        """Return what failed, as a label and a reason."""
        specs = {"base": self._base, **{str(point.coefficients): point.spec for point in points.values()}}
        return tuple(
            (f"{label}, seed {self._measured.seeds[number]}", f"{item['outcome']}: {item.get('reason', '')}")
            for label, spec in specs.items()
            for number, item in self._measured.of(spec).items()
            if item["outcome"] != "ok"
        )

    def gain(self, results: Mapping[Level, Seen], decision: Decision, deviation: float, target: float) -> list[str]:
        """Say where scaling has not been seen to help at all."""
        if BASE not in results:
            return []
        gap, error = difference(results[decision.best], results[BASE], deviation)
        if gap > SIGNIFICANT * error:
            return []
        return [
            f"No network that costs {target:g} times the base is known to be more accurate than the base (the best: "
            f"{gap:+.4f} ± {SIGNIFICANT * error:.4f}). The coefficients rest on differences that this recipe cannot see; more "
            "epochs (--recipe) or more validation images may show them."
        ]

    def rows(self, points: Mapping[Level, Point], most: float) -> list[Row]:
        """Return each training as a row of the study.

        Args:
            most: The largest coefficient of the grid.
        """
        rows = []
        for level in (BASE, *points):
            point = points.get(level)
            spec = self._base if point is None else point.spec
            found = Coefficients(1, 1, 1) if point is None else point.coefficients
            for number, item in self._measured.of(spec).items():
                facts: dict[str, str | float | int] = {
                    "kind": "base" if point is None else point.kind,
                    "arch": summary(spec),
                    "arch_hash": spec.arch_hash,
                    "seed": self._measured.seeds[number],
                    "outcome": item["outcome"],
                    "theory": found.theory,
                    "macs_ratio": 1.0 if point is None else point.macs,
                    "params_ratio": 1.0 if point is None else point.params,
                    **({"step_time_ratio": time_ratio(item)} if item["outcome"] == "ok" else {}),
                    **{
                        key: item[key]
                        for key in ("val_accuracy", "val_error", "step_time_ms", "seconds")
                        if key in item
                    },
                }
                rows.append(
                    Row(
                        key=self._measured.key(spec, number),
                        params={key: (value, 1.0, most) for key, value in asdict(found).items()},
                        value=item.get("val_accuracy") if item["outcome"] == "ok" else None,
                        steps=item.get("phase_accuracy", []),
                        attributes=facts,
                    )
                )
        return rows
