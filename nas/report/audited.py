"""What `nas audit` found out about a run, in words and then in figures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nas.report.markdown import table

WEAK = 0.5
"""A rank correlation below this puts a quarter of all pairs or more into the wrong order: (1 - tau) / 2 of them."""

WIDE = 0.5
"""An interval wider than this does not tell a good proxy from a bad one."""


def fidelity_said(audit: Mapping[str, Any]) -> list[str]:
    """Say how far the proxy orders networks as a long training does.

    Args:
        audit: `audit.json`; empty where the run was not audited.
    """
    found = audit.get("fidelity")
    head = ["### The proxy", ""]
    if not found:
        return [
            *head,
            "Whether the proxy orders networks as a long training does was not checked: `nas audit RUN` does.",
            "",
        ]
    long, again = found["accuracy"]["long"], found["accuracy"]["again"]
    if long is None:
        verdict = "How far the proxy orders networks as a long training does cannot be said: too few, or all alike."
    else:
        wrong = (1 - long["tau"]["value"]) / 2
        verdict = (
            f"Of two networks the proxy puts the wrong one first in about {wrong:.0%} of cases, by the accuracies of trainings "
            f"{found['long']:g} times as long (Kendall's tau {_agreed(long['tau'])})."
        )
        if again is not None:
            verdict += (
                f" With another seed it agrees with itself at {_agreed(again['tau'])}: so much its scatter leaves."
            )
    lines = [*head, verdict]
    if change := found.get("change"):
        lines.append(
            f"Trained again, the accuracies of the run's better half changed by {change['better']:+.4f} on average, those of "
            f"the other half by {change['worse']:+.4f}: what the one loses beside the other was luck."
        )
    if long is not None and long["tau"]["low"] is not None and long["tau"]["high"] - long["tau"]["low"] > WIDE:
        lines.append(
            f"{found['networks']} networks leave a wide interval; `--networks {2 * found['networks']}` would narrow it."
        )
    if long is not None and long["tau"]["value"] < WEAK:
        limit = again is not None and again["tau"]["value"] - long["tau"]["value"] < 0.15
        lines.append(
            "**That is weak.** "
            + (
                "Its own scatter explains it: more validation images (`val_images`), or more epochs."
                if limit
                else "It is not the scatter alone: the short training prefers other networks than the long one. More epochs, "
                "more training images, or full resolution from the start would help."
            )
            + " `nas audit --tune-proxy` tries which is the cheapest that suffices."
        )
    rows = []
    for name, what in (("accuracy", "accuracy"), ("reward", "reward")):
        for against, words in (("long", f"{found['long']:g} times as long"), ("again", "the proxy, another seed")):
            item = found[name][against]
            if item is not None:
                rows.append([what, words, *(_agreed(item[key]) for key in ("tau", "spearman", "tau_upper"))])
    heads = ["order by", "the proxy against", "Kendall tau", "Spearman", "tau in the upper half"]
    number = found["networks"]
    return [
        *lines,
        "",
        *table(heads, rows),
        "",
        f"{number} networks, half of them of the run's better half; in brackets 95 % intervals over networks, where there are "
        "enough.",
        "",
    ]


def tuning_said(audit: Mapping[str, Any]) -> list[str]:
    """Say which recipe is the cheapest that orders networks well enough; nothing where that was not tried."""
    found = audit.get("tuning")
    if not found:
        return []
    chosen = found["chosen"]
    if chosen is None:
        verdict = (
            f"No recipe tried reaches tau {found['threshold']:g}. Try `--tune-proxy` again with longer epochs in the run's "
            "recipe, or more `val_images`."
        )
    else:
        item = next(item for item in found["candidates"] if item["name"] == chosen)
        verdict = (
            f"The cheapest recipe tried that reaches tau {found['threshold']:g} is **{chosen}**, at {item['cost']:.2f} times the "
            "cost of the run's own: `audit/recipe.yaml`, for `--recipe`."
        )
    rows = [
        [
            f"{item['name']}",
            f"{item['epochs']:g}",
            str(item["train_images"]),
            str(item["phases"]),
            f"{item['cost']:.2f}",
            _agreed(item["tau"]),
        ]
        for item in found["candidates"]
    ]
    heads = ["recipe", "epochs", "images", "phases", "cost", "tau against the long training"]
    return [
        "### Other proxies",
        "",
        verdict,
        "",
        *table(heads, rows),
        "",
        "Cost is measured time of training beside the run's recipe, on the same networks, in steps of the baseline.",
        "",
    ]


def against_said(audit: Mapping[str, Any]) -> list[str]:
    """Say how the run compares with another one of the same conditions; nothing where none was named."""
    found = audit.get("against")
    if not found:
        return []
    gap, error = found["gap"], found["error"]
    other = f"the search with `{found['sampler']}` ({found['name']}, {found['budget_other']} networks)"
    if abs(gap) < 2 * error:
        verdict = f"The winner cannot be told from that of {other}."
    else:
        verdict = f"The winner is {'better' if gap > 0 else '**worse**'} than that of {other}."
    lines = [
        "### Beside another search",
        "",
        f"{verdict} Measured again, the rewards are {found['reward']:.4f} and {found['reward_other']:.4f}: a difference of "
        f"{gap:+.4f}, twice its error {2 * error:.4f}.",
    ]
    if found["matched_after"] is not None:
        lines.append(
            f"The best reward that the other saw in {found['budget_other']} networks this run had seen after "
            f"{found['matched_after']}."
        )
    else:
        lines.append(f"The best reward that the other saw this run did not see in {found['budget']} networks.")
    return [*lines, ""]


def _agreed(item: Mapping[str, Any] | None) -> str:
    if item is None:
        return "-"
    if item["low"] is None:
        return f"{item['value']:.2f}"
    return f"{item['value']:.2f} [{item['low']:.2f}, {item['high']:.2f}]"
