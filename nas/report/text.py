"""The report of a search as one Markdown page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from math import isnan
from pathlib import Path
from statistics import fmean
from typing import Any

import pandas as pd

from nas.objective import pareto
from nas.report import front_page
from nas.report.effects import effects, write_effects
from nas.report.front import front_table, named
from nas.report.markdown import table
from nas.report.plot import write_plot
from nas.report.read import RunView, load_run
from nas.report.regret import Stopping, stopping_of
from nas.report.trust import trust
from nas.runs import write_text
from nas.space import format_count


def write_report(folder: Path) -> Path:
    """Write `report.md` and its pictures of a run, from what lies in its folder, and return the page.

    A run that looked for a front has `front.csv` too.

    Raises:
        RunError: no run there, no trial has ended, or the folder cannot be written.
    """
    view = load_run(folder)
    if view.costs and view.finalists:
        write_text(view.run.path("front.csv"), front_table(view).to_csv(index=False))
    write_plot(view, view.run.path("pareto.png"))
    if not view.costs and (found := effects(view)) is not None:  # of the choices on the reward
        write_effects(found, view.run.path("effects.png"))
    path = view.run.path("report.md")
    write_text(path, page(view))
    return path


def page(view: RunView) -> str:
    """Return the report of a run as Markdown."""
    manifest = view.run.manifest
    parts = [f"# Search of {manifest['space']} on {manifest['data']['name']}", ""]
    parts += front_page.head(view) if view.costs else _winner(view)
    parts += ["![Accuracy against cost](pareto.png)", ""]
    if view.warnings:
        parts += ["## Read this first", "", *[f"- {line}" for line in view.warnings], ""]
    if view.costs:
        parts += front_page.body(view)
    else:
        parts += trust(view, effects(view)) + _best(view) + _front(view) + _stopped(stopping_of(view))
    parts += _spent(view) + _foreseen(view) + _conditions(manifest)
    return "\n".join(parts)


def _winner(view: RunView) -> list[str]:
    if not view.finalists:
        return ["The search has not ended; there is no winner yet.", ""]
    first = view.finalists[0]
    record = first["record"]
    lines = [
        "## Winner",
        "",
        f"`{record['arch_hash']}` `{record['arch']}`",
        "",
        f"- accuracy {first['accuracy']:.4f} ± {first['accuracy_error']:.4f} "
        f"over {len(first['accuracies'])} fresh seed{'s' * (len(first['accuracies']) != 1)}",
        f"- step time {fmean(first['step_time_ms']):.2f} ms (MAD {max(first['step_time_mad_ms']):.2f}), "
        f"{_ratio(first):.2f} x the baseline's in the same minutes",
        *_latency(view, first),
        f"- {format_count(record['num_params'])} parameters, {format_count(record['macs'])} MACs",
        f"- reward {first['reward']:.4f} with fresh seeds; in the search {record['reward']:.4f}",
        f"- the search was optimistic by {fmean(item['optimism'] for item in _sound(view)):+.4f} on average over its finalists "
        "(the winner's own difference is the smallest by selection; all were scored on the search's validation images)",
        "",
    ]
    rows = [
        [
            f"`{item['record']['arch_hash']}`",
            f"{item['reward']:.4f}",
            f"{item['record']['reward']:.4f}",
            f"{item['optimism']:+.4f}",
            f"{item['accuracy']:.4f} ± {item['accuracy_error']:.4f}",
            f"{_ratio(item):.2f}",
            format_count(item["record"]["num_params"]),
        ]
        for item in view.finalists
    ]
    heads = [
        "finalist",
        "reward, fresh",
        "reward, search",
        "optimism",
        "accuracy, fresh",
        "step time / baseline",
        "params",
    ]
    lines += [*table(heads, rows), ""]
    if len(_sound(view)) > 1:
        second = _sound(view)[1]
        gap = first["accuracy"] - second["accuracy"]
        error = (first["accuracy_error"] ** 2 + second["accuracy_error"] ** 2) ** 0.5
        if abs(gap) < 2 * error:
            lines += [
                f"The first two cannot be told apart by accuracy (difference {gap:+.4f}, "
                f"twice its error {2 * error:.4f}).",
                "",
            ]
    return lines


def _sound(view: RunView) -> list[Mapping[str, Any]]:
    """Return the finalists that could be trained again."""
    return [item for item in view.finalists if item.get("outcome", "ok") == "ok"]


def _ratio(finalist: Mapping[str, Any]) -> float:
    return float(sum(finalist["step_time_ms"]) / sum(finalist["ref_step_time_ms"]))


def _latency(view: RunView, finalist: Mapping[str, Any]) -> list[str]:
    if not finalist.get("latency_ms"):  # no limit asked for it
        return []
    batch = view.run.manifest["config"]["latency_batch_size"]
    median, spread = fmean(finalist["latency_ms"]), max(finalist["latency_mad_ms"])
    return [f"- latency {median:.3g} ms (MAD {spread:.2g}), eager inference at batch {batch}"]


def _best(view: RunView) -> list[str]:
    best = view.trained().head(10)
    timed = "latency_ms" in best and bool(best["latency_ms"].notna().any())
    rows = [
        [
            str(row["number"]),
            f"`{row['arch_hash']}`",
            f"{row['reward']:.4f}",
            f"{row['val_accuracy']:.4f} ± {row['val_error']:.4f}",
            f"{row['step_time_ms']:.2f} ± {row['step_time_mad_ms']:.2f}",
            f"{row['step_time_ms'] / row['ref_step_time_ms']:.2f}",
            *([_pair(row["latency_ms"], row["latency_mad_ms"])] if timed else []),
            format_count(row["num_params"]),
            format_count(row["macs"]),
            f"`{row['arch']}`",
        ]
        for _, row in best.iterrows()
    ]
    heads = ["trial", "network", "reward", "accuracy", "step time, ms", "/ baseline"]
    heads += [*(["latency, ms"] if timed else []), "params", "MACs", "stages"]
    return ["## Best trials", "", *table(heads, rows), ""]


def _pair(value: float, spread: float) -> str:
    return "-" if isnan(value) else f"{value:.3g} ± {spread:.2g}"


def _front(view: RunView) -> list[str]:
    rows = [
        [
            f"`{item.arch_hash}`",
            f"{item.relative_time:.2f}",
            f"{item.val_accuracy:.4f} ± {item.val_error:.4f}",
            format_count(item.num_params),
        ]
        for item in pareto(view.candidates())
    ]
    heads = ["network", "step time / baseline", "accuracy", "params"]
    return ["## Front of accuracy and step time", "", *table(heads, rows), ""]


def _stopped(found: Stopping) -> list[str]:
    if not found.rungs:
        return []
    rungs = [
        [str(rung.phase), str(rung.reached), str(rung.stopped), str(rung.audited), _tau(rung.tau), str(rung.trained)]
        for rung in found.rungs
    ]
    lines = ["## Stopping early", "", *[line for said in found.said() for line in (said, "")]]
    lines += table(["phase", "reached its end", "to be stopped", "of these went on", "tau", "over"], rungs)
    lines += [
        "",
        "Tau (Kendall) is between the reward at the phase's end and the final reward, over the networks trained to the end; "
        "of the networks stopped the final reward is not known.",
        "",
    ]
    audits = [
        [
            str(audit.number),
            f"`{audit.arch_hash}`",
            f"{audit.rung_reward:.4f} after phase {audit.phase}",
            audit.kind if audit.reward is None else f"{audit.reward:.4f}",
            "-" if audit.rank is None else f"{audit.rank} of {found.trained}",
            "yes" if audit.finalist else "no",
        ]
        for audit in found.audits
    ]
    heads = [
        "went on, trial",
        "network",
        "reward when it was to be stopped",
        "at the end",
        "rank",
        f"in the best {found.top_k}",
    ]
    return [*lines, *table(heads, audits), ""] if audits else lines


def _tau(tau: float | None) -> str:
    return "-" if tau is None else f"{tau:.2f}"


def _spent(view: RunView) -> list[str]:
    trials = view.trials
    taken = trials["origin"].notna() if "origin" in trials else pd.Series(False, index=trials.index)
    own = trials[~taken]
    rows = [_spent_row(str(kind), group["seconds"], _timing(group)) for kind, group in own.groupby("kind", sort=True)]
    rows.append(_spent_row("all", own["seconds"], _timing(own)))
    again = [item for item in view.trainings.values() if "seconds" in item]  # the first runs did not keep them
    if again:
        parts = (pd.Series([item[name] for item in again]) for name in ("seconds", "timing_seconds"))
        rows.append(_spent_row("finalists, timed and trained again", *parts))
    beside = f" {taken.sum()} were taken over from another run and cost neither." if taken.any() else ""
    return [
        "## Where the budget went",
        "",
        *table(["trials that were", "number", "minutes", "of these timing"], rows),
        "",
        "Trained and pruned networks cost budget; duplicates, infeasible, forbidden and failed ones do not." + beside,
        "",
        *_timings(own, again),
    ]


def _timings(own: pd.DataFrame, again: Sequence[Mapping[str, Any]]) -> list[str]:
    """Say which share of a search's time timing took, and what is wrong with some step times, the finalists' with them."""
    timing, lines = _timing(own), []
    if timing is not None and own["seconds"].sum() > 0:
        lines.append(f"Timing took {timing.sum() / own['seconds'].sum():.1%} of the search's time.")
    if "step_time_note" in own:
        timed = own[(own["kind"] != "duplicate") & own["step_time_ms"].notna()]
        notes = Counter([*timed["step_time_note"].dropna(), *(item.get("step_time_note", "") for item in again)])
        notes.pop("", None)
        lines += [f"Of {len(timed) + len(again)} step times {number}: {note}." for note, number in notes.items()]
    return [*lines, ""] if lines else []


def _spent_row(what: str, seconds: pd.Series, timing: pd.Series | None) -> list[str]:
    known = "" if timing is None else f"{timing.sum() / 60:.1f}"
    return [what, str(len(seconds)), f"{seconds.sum() / 60:.1f}", known]


def _timing(trials: pd.DataFrame) -> pd.Series | None:
    """Return the seconds of phase 0, which counts and times; None of the first runs, which did not keep them."""
    if "phase_seconds" not in trials:
        return None
    measured = trials[trials["kind"] != "duplicate"]  # which repeats what the first one took
    return pd.Series([float(str(phases).split()[0]) for phases in measured["phase_seconds"]], dtype=float)


def _foreseen(view: RunView) -> list[str]:
    """Say what the block table was worth, and which networks it kept from being timed; only where step time is limited."""
    if not view.foreseen:
        return []
    table, macs = view.foreseen["table"], view.foreseen["macs"]
    lines = [
        "## Step times foreseen",
        "",
        f"Each of {table['networks']} networks timed, left out and predicted from the others by the block table: off by "
        f"{table['median_error']:.1%} (median), rank correlation {table['spearman']:.2f}. By multiply-adds alone: "
        f"{macs['median_error']:.1%} and {macs['spearman']:.2f}.",
    ]
    trials = view.trials[view.trials["foreseen_ms"].notna() & (view.trials["kind"] != "duplicate")]
    timed = trials[trials["step_time_ms"].notna()]
    rejected = trials[trials["step_time_ms"].isna() & (trials["kind"] == "infeasible")]
    limit = next(item["max"] for item in view.run.manifest["limits"] if item["cost"] == "step_time_ms")
    beyond = int((timed["step_time_ms"] > limit).sum())
    lines.append(
        f"{len(rejected)} networks were foreseen to be far beyond the limit of {limit:.4g} ms and not timed. To check "
        f"that, {len(timed)} such were timed all the same: {beyond} of them were beyond it."
        if len(trials)
        else f"No network was foreseen to be far beyond the limit of {limit:.4g} ms; all were timed."
    )
    return [*lines, ""]


def _conditions(manifest: Mapping[str, Any]) -> list[str]:
    data, device, recipe = manifest["data"], manifest["device"], manifest["recipe"]
    sizes = recipe["progressive"]["size"]
    lines = [
        f"- made by `{manifest['command']}` on {manifest['created']}",
        f"- space {manifest['space']} (`{manifest['space_hash']}`), baseline {manifest['baseline']['name']} with "
        f"{format_count(manifest['baseline']['num_params'])} parameters",
        *([f"- objective accuracy against {named(manifest['costs'])}"] if manifest.get("costs") else []),
        f"- reward accuracy · (step time / baseline)^{manifest['reward']['w']:g} · "
        f"(params / baseline)^{manifest['reward']['v']:g}",
        f"- data {data['name']} (`{data['fingerprint']}`): {data['used_train_images']} of {data['train_images']} "
        f"training and {data['used_val_images']} of {data['val_images']} validation images, {data['classes']} classes",
        *[f"- {note}" for note in data["notes"]],
        f"- recipe {recipe['name']}: {recipe['epochs']:g} epoch{'s' * (recipe['epochs'] != 1)} in "
        f"{recipe['progressive']['phases']} phase{'s' * (recipe['progressive']['phases'] != 1)} from "
        f"{sizes[0]:.0%} to {sizes[1]:.0%} of the network's resolution, batch {recipe['batch_size']}",
        f"- sampler {manifest['sampler']}, pruner {manifest['pruner']}, seed {manifest['seed']}",
        f"- device {device['name']} ({', '.join(f'{k} {v}' for k, v in device.items() if k not in ('name', 'type'))})",
        f"- versions {', '.join(f'{name} {number}' for name, number in manifest['versions'].items())}; "
        f"git {manifest.get('git')}",
    ]
    return ["## Conditions", "", *lines, ""]
