"""The report of a search as one Markdown page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isnan
from pathlib import Path
from typing import Any

from nas.objective import pareto
from nas.report import front_page
from nas.report.effects import Effects, effects, write_effects
from nas.report.front import front_table, named
from nas.report.html import html
from nas.report.markdown import table
from nas.report.plot import write_plot
from nas.report.read import RunView, load_run
from nas.report.regret import Stopping, stopping_of
from nas.report.spent import spent
from nas.report.trust import trust
from nas.report.winner import winner
from nas.runs import write_text
from nas.space import format_count


def write_report(folder: Path) -> Path:
    """Write `report.md` and its pictures of a run, and `report.html`, from what lies in its folder; return the first page.

    A run that looked for a front has `front.csv` too.

    Raises:
        RunError: no run there, no trial has ended, or the folder cannot be written.
    """
    view = load_run(folder)
    if view.costs and view.finalists:
        write_text(view.run.path("front.csv"), front_table(view).to_csv(index=False))
    write_plot(view, view.run.path("pareto.png"))
    found = None if view.costs else effects(view)  # of the choices on the reward
    if found is not None:
        write_effects(found, view.run.path("effects.png"))
    path, parts = view.run.path("report.md"), sections(view, found)
    write_text(path, _joined(view, parts))
    write_text(view.run.path("report.html"), html(view, parts, found))
    return path


def page(view: RunView) -> str:
    """Return the report of a run as Markdown."""
    return _joined(view, sections(view, None if view.costs else effects(view)))


def _joined(view: RunView, parts: Mapping[str, Sequence[str]]) -> str:
    return "\n".join([f"# {view.title}", "", *(line for lines in parts.values() for line in lines)])


def sections(view: RunView, found: Effects | None) -> dict[str, list[str]]:
    """Return the parts of a run's report as lines of Markdown, by name, in the order of `report.md`; some may be empty.

    Args:
        found: The main effects of the run (`nas.report.effects`).
    """
    parts = {"members": front_page.head(view)} if view.costs else winner(view)
    parts["picture"] = ["![Accuracy against cost](pareto.png)", ""]
    parts["warnings"] = (
        ["## Read this first", "", *[f"- {line}" for line in view.warnings], ""] if view.warnings else []
    )
    if view.costs:
        parts["seen"] = front_page.body(view)
    else:
        parts |= {"trust": trust(view, found), "best": _best(view), "front": _front(view)}
        parts["stopped"] = _stopped(stopping_of(view))
    return parts | {"spent": _spent(view), "foreseen": _foreseen(view), "conditions": _conditions(view.run.manifest)}


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
    found = spent(view)
    rows = [
        [
            item.what,
            str(item.number),
            f"{item.seconds / 60:.1f}",
            "" if item.timing is None else f"{item.timing / 60:.1f}",
        ]
        for item in found.rows
    ]
    beside = f" {found.taken} were taken over from another run and cost neither." if found.taken else ""
    return [
        "## Where the budget went",
        "",
        *table(["trials that were", "number", "minutes", "of these timing"], rows),
        "",
        "Trained and pruned networks cost budget; duplicates, infeasible, forbidden and failed ones do not." + beside,
        "",
        *([*found.said, ""] if found.said else []),
    ]


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
