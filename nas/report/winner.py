"""The network that a run found, in the figures that every page of the run shows."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from nas.report.front import front_of
from nas.report.markdown import table
from nas.report.read import RunView
from nas.space import format_count


@dataclass(frozen=True)
class Found:
    """A finalist as text: what was measured again with fresh seeds, and what the search saw.

    Args:
        latency: With its spread, and of what it is; empty texts where no limit asked for it.
    """

    arch_hash: str
    arch: str
    seeds: str
    accuracy: str
    reward: str
    search_reward: str
    step_time: str
    step_time_spread: str
    relative_time: str
    baseline_time: str
    latency: tuple[str, str, str]
    num_params: str
    macs: str


def found_of(view: RunView) -> Found | None:
    """Return the winner of a run, of a front its knee; None while the search goes on."""
    if not view.finalists:
        return None
    members = front_of(view) if view.costs else ()
    first = view.finalists[members[0].place if members else 0]
    record, seeds = first["record"], len(first["accuracies"])
    latency = ("", "", "")
    if first.get("latency_ms"):
        batch = view.run.manifest["config"]["latency_batch_size"]
        median, spread = fmean(first["latency_ms"]), max(first["latency_mad_ms"])
        latency = (f"{median:.3g} ms", f"MAD {spread:.2g}", f"eager inference at batch {batch}")
    return Found(
        arch_hash=record["arch_hash"],
        arch=record["arch"],
        seeds=f"{seeds} fresh seed{'s' * (seeds != 1)}",
        accuracy=f"{first['accuracy']:.4f} ± {first['accuracy_error']:.4f}",
        reward=f"{first['reward']:.4f}",
        search_reward=f"{record['reward']:.4f}",
        step_time=f"{fmean(first['step_time_ms']):.2f} ms",
        step_time_spread=f"MAD {max(first['step_time_mad_ms']):.2f}",
        relative_time=f"{_ratio(first):.2f}",
        baseline_time=f"{fmean(first['ref_step_time_ms']):.2f} ms",
        latency=latency,
        num_params=format_count(record["num_params"]),
        macs=format_count(record["macs"]),
    )


def winner(view: RunView) -> dict[str, list[str]]:
    """Return the parts of a report on the winner, as lines of Markdown: `winner`, and `finalists` where there are any."""
    found = found_of(view)
    if found is None:
        return {"winner": ["The search has not ended; there is no winner yet.", ""]}
    lines = [
        "## Winner",
        "",
        f"`{found.arch_hash}` `{found.arch}`",
        "",
        f"- accuracy {found.accuracy} over {found.seeds}",
        f"- step time {found.step_time} ({found.step_time_spread}), {found.relative_time} x the baseline's in the same minutes",
        *(["- latency {} ({}), {}".format(*found.latency)] if found.latency[0] else []),
        f"- {found.num_params} parameters, {found.macs} MACs",
        f"- reward {found.reward} with fresh seeds; in the search {found.search_reward}",
        f"- {optimism_said(view)}",
        "",
    ]
    return {"winner": lines, "finalists": _finalists(view)}


def optimism_said(view: RunView) -> str:
    """Return by how much the search's rewards were above fresh ones, in words."""
    return (
        f"the search was optimistic by {fmean(item['optimism'] for item in _sound(view)):+.4f} on average over its finalists "
        "(the winner's own difference is the smallest by selection; all were scored on the search's validation images)"
    )


def _finalists(view: RunView) -> list[str]:
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
    lines = [*table(heads, rows), ""]
    if len(_sound(view)) > 1:
        first, second = _sound(view)[:2]
        gap = first["accuracy"] - second["accuracy"]
        error = (first["accuracy_error"] ** 2 + second["accuracy_error"] ** 2) ** 0.5
        if abs(gap) < 2 * error:
            lines += [
                f"The first two cannot be told apart by accuracy (difference {gap:+.4f}, "
                f"twice its error {2 * error:.4f}).",
                "",
            ]
    return lines


def next_steps(view: RunView) -> list[tuple[str, str]]:
    """Return the commands to type next, each with what it is for."""
    folder = shlex.quote(str(view.run.folder))
    if not view.finalists:
        return [(f"nas search --resume {folder}", "go on with the search")]
    checked = [] if view.audit else [(f"nas audit {folder}", "check how far to believe it, with trainings of its own")]
    return [
        *checked,
        (f"nas scale --from {folder} --phi 1,2,3", "larger relatives"),
        (f"nas train {folder}", "train it to be used"),
        (f"nas export {folder}", "hand it over"),
    ]


def _sound(view: RunView) -> list[Mapping[str, Any]]:
    """Return the finalists that could be trained again."""
    return [item for item in view.finalists if item.get("outcome", "ok") == "ok"]


def _ratio(finalist: Mapping[str, Any]) -> float:
    return float(sum(finalist["step_time_ms"]) / sum(finalist["ref_step_time_ms"]))
