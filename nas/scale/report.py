"""What a scaling leaves behind: `scale.json`, `grid.csv`, `report.md` and a picture."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from nas.report.markdown import table
from nas.runs import write_bytes, write_json, write_text
from nas.scale.fit import SIGNIFICANT, TIE, difference
from nas.scale.grid import SINGLE, Grid, Point
from nas.scale.result import ScaleResult, Trained
from nas.space import format_count

COLOURS = {
    "base": "0.4",
    "depth": "#c8503c",
    "width": "#5a9c5a",
    "resolution": "#b07cc6",
    "compound": "#4878a8",
}


def write(result: ScaleResult) -> Path:
    """Write all files of a scaling into its folder and return that of the report.

    Raises:
        RunError: a file cannot be written.
    """
    run = result.run
    write_json(run.path("scale.json"), document(result))
    if result.grid is not None:
        write_text(run.path("grid.csv"), grid_table(result).to_csv(index=False))
        _plot(result, run.path("scale.png"))
    path = run.path("report.md")
    write_text(path, "\n".join(_report(result)) + "\n")
    return path


def document(result: ScaleResult) -> dict[str, Any]:
    """Return the outcome of a scaling as plain data; the raw values are in `measured.json` and the manifest."""
    found: dict[str, Any] = {
        "base": {"name": result.base.name, "arch_hash": result.base.arch_hash},
        "coefficients": {**asdict(result.coefficients), "theory": result.coefficients.theory},
        "rules": result.run.manifest["grid"]["rules"],
        "members": [
            {
                "phi": member.phi,
                "file": member.file.name,
                "arch_hash": member.spec.arch_hash,
                "resolution": member.spec.resolution,
                "num_params": member.num_params,
                "macs": member.macs,
                "predicted": dict(member.predicted),
                "built": dict(member.built),
                "measured": dict(member.measured),
                "notes": list(member.notes),
            }
            for member in result.members
        ],
        "warnings": list(result.warnings),
    }
    if result.decision is None:
        return found
    tied = set(result.decision.tied)
    return found | {
        "trained": [
            {
                "kind": item.kind,
                "arch_hash": item.spec.arch_hash,
                **asdict(item.coefficients),
                "theory": item.coefficients.theory,
                "macs": item.macs,
                "params": item.params,
                "resolution": item.spec.resolution,
                **{key: value for key, value in vars(item.seen).items() if key != "right"},
                "chosen": item.level == result.decision.chosen,
                "tied_with_best": item.level in tied,
            }
            for item in result.trained
        ],
        "failed": [{"training": label, "reason": reason} for label, reason in result.failed],
    }


def grid_table(result: ScaleResult) -> pd.DataFrame:
    """Return every network of the grid near the target: theory and built side by side, and what became of it."""
    assert result.grid is not None and result.choice is not None
    trained = {item.level: item for item in result.trained}
    rows = []
    for point in result.grid.points:
        item = trained.get(point.level)
        rows.append(
            {
                **asdict(point.coefficients),
                "kind": point.kind,
                "theory": round(point.coefficients.theory, 4),
                "triples": len(point.members),
                "triples_on_surface": point.on_surface,
                "resolution": point.spec.resolution,
                "built_macs": round(point.macs, 4),
                "built_params": round(point.params, 4),
                "metric": round(result.ratios[point.level], 4) if point.level in result.ratios else None,
                "step_time": None if item is None else round(item.seen.step_time, 4),
                "val_accuracy": None if item is None else round(item.seen.mean, 5),
                "error": None if item is None else round(item.seen.error, 5),
                "seeds": 0 if item is None else len(item.seen.accuracies),
                "not_trained_because": result.choice.reasons.get(point.level, ""),
            }
        )
    return pd.DataFrame(rows).sort_values(["kind", "alpha", "beta", "gamma"])


def spread_of(found: Grid) -> str:
    """Return a sentence about what the surface of the theory is really built as."""
    points = found.surface_points
    if not points:
        return "No triple of the grid is on the surface of the theory."
    low, high = (f(point.macs for point in points) for f in (min, max))
    return (
        f"{found.surface} triples have alpha * beta^2 * gamma^2 = {found.target:g} ± {found.tolerance:g}. They build "
        f"{len(points)} different networks, which really cost {low:.2f} to {high:.2f} times the base (MACs)."
    )


def versus_single(result: ScaleResult) -> list[str]:
    """Say of each single-dimension baseline how the best compound network compares with it."""
    compound = [item for item in result.trained if item.kind == "compound"]
    if not compound:
        return ["No compound network was trained."]
    best = max(compound, key=lambda item: item.seen.mean)
    flattered = f"; the best of {len(compound)}, which flatters it" if len(compound) > 1 else ""
    lines = []
    for kind in SINGLE:
        for item in (item for item in result.trained if item.kind == kind):
            gap, error = difference(best.seen, item.seen, result.deviation)
            told = abs(gap) > SIGNIFICANT * error
            verdict = "cannot be told apart" if not told else "better" if gap > 0 else "worse"
            lines.append(
                f"against {kind} alone ({item.coefficients}, {item.macs:.2f} x MACs, {item.seen.step_time:.2f} x step time): "
                f"**{verdict}**, {gap:+.4f} ± {SIGNIFICANT * error:.4f}"
            )
    return [
        f"The best compound network ({best.coefficients}{flattered}) has {best.seen.mean:.4f}:",
        "",
        *(f"- {line}" for line in lines),
    ]


def rows_of(result: ScaleResult) -> list[list[str]]:
    """Return the table of the trained networks, the base first, then by falling accuracy."""
    return [
        _row(item, result) for item in sorted(result.trained, key=lambda item: (item.kind != "base", -item.seen.mean))
    ]


HEADS = ["alpha / beta / gamma", "kind", "theory", "MACs", "params", "step time", "pixels", "accuracy", "seeds", ""]
"""Of the table of trained networks; costs are multiples of the base's, as built or measured."""


def _row(item: Trained, result: ScaleResult) -> list[str]:
    assert result.decision is not None
    tied = item.level in result.decision.tied
    off = item.kind != "base" and not _on_target(item, result)
    mark = "chosen" if item.level == result.decision.chosen else "off target" if off else "tied" if tied else ""
    return [
        str(item.coefficients),
        item.kind,
        f"{item.coefficients.theory:.2f}",
        f"{item.macs:.2f}",
        f"{item.params:.2f}",
        f"{item.seen.step_time:.2f} ± {item.seen.step_time * item.seen.spread:.2f}",
        str(item.spec.resolution),
        f"{item.seen.mean:.4f} ± {item.seen.error:.4f}",
        str(len(item.seen.accuracies)),
        mark,
    ]


def _on_target(item: Trained, result: ScaleResult) -> bool:
    wanted = result.run.manifest["grid"]
    return bool(abs(result.ratios[item.level] / wanted["target"] - 1) <= wanted["within"])


MEMBER_HEADS = ["phi", "pixels", "params", "MACs", "step time, ms", "memory, MiB", "built / predicted"]
"""Of the table of the family."""


def member_rows(result: ScaleResult) -> list[list[str]]:
    """Return the table of the family: counted and measured, beside the multiples that theory gives."""
    rows = []
    for member in result.members:
        shown = {"num_params": "params", "macs": "MACs", "step_time_ms": "time", "peak_memory_mib": "memory"}
        against = ", ".join(
            f"{word} {member.built[key]:.2f} / {member.predicted[key]:.2f}"
            for key, word in shown.items()
            if key in member.built
        )
        timed = member.measured
        rows.append(
            [
                f"{member.phi:g}",
                str(member.spec.resolution),
                format_count(member.num_params),
                format_count(member.macs),
                f"{timed['step_time_ms']:.1f} ± {timed['step_time_mad_ms']:.1f}" if "step_time_ms" in timed else "-",
                f"{timed['peak_memory_mib']:.0f}" if "peak_memory_mib" in timed else "-",
                against,
            ]
        )
    return rows


def doubt(result: ScaleResult) -> list[str]:
    """Return sentences on how sure the choice is, and what it costs."""
    decision = result.decision
    assert decision is not None
    of = {item.level: item for item in result.trained}
    total = len([item for item in result.trained if item.kind != "base"])
    best, chosen = of[decision.best], of[decision.chosen]
    lines = [
        f"{len(decision.tied)} of {total} networks, the best among them, cannot be told apart by accuracy (compared image for "
        f"image, {SIGNIFICANT:g} standard errors of the difference)."
        if len(decision.tied) > 1
        else f"The best of {total} networks: every other that costs the target is worse by more than {SIGNIFICANT:g} "
        "standard errors."
    ]
    if decision.best == decision.chosen:
        lines.append(
            f"Of {len(decision.close)} within {TIE:g} standard error of the best, the best has the shortest measured step."
            if len(decision.close) > 1
            else f"No other is within {TIE:g} standard error of it."
        )
    else:
        gap, error = difference(best.seen, chosen.seen, result.deviation)
        lines.append(
            f"A tie goes to the cheapest: of {len(decision.close)} within {TIE:g} standard error of the best "
            f"({best.coefficients}, {best.seen.mean:.4f}, {best.seen.step_time:.2f} x step time) the one with the shortest "
            f"measured step is taken "
            f"({chosen.seen.step_time:.2f} x), which gives up {gap:.4f} ± {SIGNIFICANT * error:.4f} of accuracy."
        )
    return lines


def _report(result: ScaleResult) -> list[str]:
    manifest = result.run.manifest
    metric = manifest["grid"]["budget_metric"]
    rules = [f"{key} {value or 'none'}" for key, value in manifest["grid"]["rules"].items() if value is not False]
    lines = [
        f"# Scaling of {result.base.name}",
        "",
        f"alpha (depth) / beta (width) / gamma (resolution): **{result.coefficients}**; alpha * beta^2 * gamma^2 = "
        f"{result.coefficients.theory:.3f}",
        "",
        f"- base: `{result.base.arch_hash}`, {manifest['base']['summary']}",
        f"- images: {manifest['data']['name']}, {manifest['data']['used_train_images']} to train on and "
        f"{manifest['data']['used_val_images']} to score on, {manifest['data']['classes']} classes",
        f"- recipe: {manifest['recipe']['name']}, {manifest['recipe']['epochs']:g} epochs, "
        f"batch {manifest['recipe']['batch_size']}",
        f"- device: {manifest['device']['name']}, torch {manifest['torch']}",
        f"- rules: {', '.join(rules)}",
        "",
    ]
    lines += [f"> {warning}\n" for warning in result.warnings]
    if result.decision is not None and result.grid is not None:
        lines += [
            "## The choice",
            "",
            *doubt(result),
            "",
            f"Cost of a candidate: {manifest['grid']['target']:g} times the base ({metric}, as built) ± "
            f"{manifest['grid']['within']:.0%}; a baseline that scales one dimension alone is as near as rounding "
            "lets it, and cannot be chosen where that is off the target. "
            "Costs are multiples of the base's. Errors are standard errors (validation images and seeds).",
            "",
            *table(HEADS, rows_of(result)),
            "",
            "![Accuracy against measured step time](scale.png)",
            "",
            "## Compound against one dimension alone",
            "",
            *versus_single(result),
            "",
            "## Theory and what is built",
            "",
            spread_of(result.grid)
            + f" The whole grid holds {result.grid.networks} networks; `grid.csv` lists those within a factor of 2 of "
            "the target, and why each was not trained.",
            "",
        ]
        lines += [f"- {label} failed: {reason}" for label, reason in result.failed]
    lines += [
        "## The family",
        "",
        "Built and measured against theory: depth * width^2 for parameters, depth * width^2 * resolution^2 for MACs and step "
        "time, depth * width * resolution^2 for memory; multiples of the base's.",
        "",
        *table(MEMBER_HEADS, member_rows(result)),
        "",
        *(f"- phi {member.phi:g}: `{member.file.name}`" for member in result.members),
    ]
    return lines


def _plot(result: ScaleResult, path: Path) -> None:
    """Draw accuracy against measured step time, and built against theory, as a PNG."""
    assert result.grid is not None and result.decision is not None
    manifest = result.run.manifest
    figure = Figure(figsize=(11, 4.6), dpi=130, layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    _accuracies(left, result.trained)
    chosen = next(item for item in result.trained if item.level == result.decision.chosen)
    left.plot(
        [chosen.seen.step_time],
        [chosen.seen.mean],
        "o",
        ms=15,
        mfc="none",
        mec="black",
        label=f"chosen: {chosen.coefficients}",
    )
    left.set_xlabel("training step time, multiple of the base's (measured)")
    left.set_ylabel("validation accuracy of the proxy")
    left.grid(alpha=0.3)
    left.margins(x=0.08, y=0.35)  # room for the legend
    left.legend(fontsize=8, loc="upper center", ncols=3)
    for surface, colour, label in (
        (False, "0.75", "off the surface"),
        (True, "#4878a8", "on the surface of the theory"),
    ):
        points = [point for point in result.grid.points if bool(point.on_surface) == surface]
        right.plot(
            [_theory(point, result.grid) if surface else point.coefficients.theory for point in points],
            [point.macs for point in points],
            "o",
            ms=3,
            color=colour,
            label=label,
            zorder=2 + surface,
        )
    span = [1, max(point.coefficients.theory for point in result.grid.points)]
    right.plot(span, span, color="black", lw=0.8, label="as theory says")
    if manifest["grid"]["budget_metric"] == "macs":
        right.axhspan(
            result.grid.target * (1 - manifest["grid"]["within"]),
            result.grid.target * (1 + manifest["grid"]["within"]),
            color="#4878a8",
            alpha=0.12,
            label="may be candidates",
        )
    right.set_xlabel("alpha · beta² · gamma²")
    right.set_ylabel("MACs, multiple of the base's (built)")
    right.grid(alpha=0.3)
    right.legend(fontsize=8, loc="best")
    figure.suptitle(f"{result.base.name} on {manifest['data']['name']}, {manifest['device']['name']}", fontsize=10)
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    write_bytes(path, picture.getvalue())


def _theory(point: Point, found: Grid) -> float:
    """Return the theory of the triple that puts a network on the surface; its own name may be another one."""
    return min((item.theory for item in point.members), key=lambda theory: abs(theory - found.target))


def _accuracies(axes: Any, trained: Sequence[Trained]) -> None:
    for kind, colour in COLOURS.items():
        items = [item for item in trained if item.kind == kind]
        if not items:
            continue
        axes.errorbar(
            [item.seen.step_time for item in items],
            [item.seen.mean for item in items],
            xerr=[item.seen.step_time * item.seen.spread for item in items],
            yerr=[item.seen.error for item in items],
            fmt="o",
            ms=6,
            lw=0.8,
            color=colour,
            label=kind if kind in ("base", "compound") else f"{kind} alone",
        )
