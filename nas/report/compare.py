"""Several runs beside each other, as one page: what each found, their fronts, their progress, and how they were set."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from nas.errors import UsageError
from nas.report.html import Section, rendered
from nas.report.markdown import table
from nas.report.pictures import ACCURACY, budgeted, finalist_mark, progress_series, reward_series
from nas.report.prose import code, prose
from nas.report.read import RunView, load_run
from nas.report.svg import COLOURS, Axis, Series, chart
from nas.report.winner import found_of
from nas.runs import write_text

SETTINGS = (
    "space",
    "space_hash",
    "config",
    "costs",
    "reward",
    "recipe",
    "data",
    "baseline",
    "device",
    "versions",
    "git",
)
"""What runs are compared by, of their manifests, in this order."""

_LEFT_OUT = {"config." + name for name in ("out", "space", "w", "v")} | {
    "data." + name for name in ("notes", "class_names", "mean", "std", "train_share")
}
"""Where a run lies, and what follows from the other settings."""

_DOUBTS: tuple[tuple[tuple[str, ...], str], ...] = (
    (
        ("data.fingerprint", "data.used_train_images", "data.used_val_images"),
        "The images differ: accuracies do not compare.",
    ),
    (("recipe",), "The recipes differ: accuracies do not compare."),
    (("device",), "The devices differ: step times do not compare, nor rewards, which hold them."),
    (("versions.torch",), "The versions of torch differ: step times and accuracies may differ by that alone."),
    (("baseline.hash",), "The baselines differ: relative step times do not compare, nor rewards."),
    (("reward",), "The exponents of the reward differ: rewards do not compare."),
    (("costs",), "The objectives differ: a search for a front does not try to raise the reward."),
)
"""What must be the same, and what is lost where it is not."""


def write_comparison(folders: Sequence[str | os.PathLike[str]]) -> Path:
    """Write `compare.html` into the folder of the first run, and return it.

    Raises:
        UsageError: a run named twice.
        RunError: no run there, no trial has ended, or the folder cannot be written.
    """
    views = [load_run(folder) for folder in folders]
    if len({view.run.folder.resolve() for view in views}) < len(views):
        raise UsageError("found one run twice. Name different runs to compare.")
    path = views[0].run.path("compare.html")
    write_text(path, comparison(views))
    return path


def comparison(views: Sequence[RunView]) -> str:
    """Return runs beside each other as a page of HTML."""
    names = _names(views)
    doubts = _doubts([view.run.manifest for view in views])
    steps = []
    if len(views) == 2 and not doubts and all(view.finalists for view in views):
        folders = [shlex.quote(str(view.run.folder)) for view in views]
        steps = [
            (code(f"nas audit {folders[0]} --against {folders[1]}"), "say whether their winners can be told apart")
        ]
    sections = [
        Section("front", "Accuracy against cost", _fronts(views, names)),
        Section("progress", "Progress", _progress(views, names)),
        Section("settings", "What differs in how they were set", _settings(views, names)),
    ]
    return rendered(
        "compare.html",
        title="Comparison of " + " and ".join(names),
        summary=_summary(views, names),
        doubts=doubts,
        steps=steps,
        sections=sections,
    )


def _names(views: Sequence[RunView]) -> list[str]:
    names = [view.run.folder.name for view in views]
    return names if len(set(names)) == len(names) else [str(view.run.folder) for view in views]


def _doubts(manifests: Sequence[Mapping[str, Any]]) -> list[str]:
    flat = [dict(_flat(manifest)) for manifest in manifests]

    def differs(key: str) -> bool:
        parts = [{name: value for name, value in item.items() if f"{name}.".startswith(f"{key}.")} for item in flat]
        return any(part != parts[0] for part in parts)

    return [said for keys, said in _DOUBTS if any(map(differs, keys))]


def _flat(content: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    """Go through the settings of a manifest as `recipe.epochs` and its value as text."""
    for key in content if before else SETTINGS:
        name, value = before + key, content.get(key)
        if name not in _LEFT_OUT:
            if isinstance(value, Mapping):
                yield from _flat(value, f"{name}.")
            elif value not in (None, [], ""):
                yield name, ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _summary(views: Sequence[RunView], names: Sequence[str]) -> Markup:
    rows = []
    for name, view in zip(names, views, strict=True):
        found, own = found_of(view), budgeted(view)
        cells = ["not ended yet", *["-"] * 6]
        if found is not None:
            cells = [
                f"`{found.arch_hash[:8]}`" + (" (knee)" if view.costs else ""),
                f"{found.reward}",
                f"{found.search_reward}",
                f"{found.accuracy}",
                f"{found.step_time}",
                f"{found.relative_time}",
                f"{found.num_params}",
            ]
        rows.append([f"`{name}`", *cells, str(len(own)), f"{view.trials['seconds'].sum() / 60:.1f}"])
    heads = ["run", "winner", "reward, fresh", "reward, search", "accuracy, fresh", "step time", "/ baseline", "params"]
    return prose(table([*heads, "networks", "minutes"], rows))


def _fronts(views: Sequence[RunView], names: Sequence[str]) -> Markup:
    series, winners = [], []
    for number, (name, view) in enumerate(zip(names, views, strict=True)):
        colour = _colour(number)
        *_, trained, front = reward_series(view)
        series.append(Series("", trained.marks, f"{colour} light"))
        series.append(Series(name, front.marks, colour, ("square", "diamond", "triangle")[number % 3], "steps"))
        first = [finalist_mark(item) for item in view.finalists if item["accuracies"]][:1]
        winners.append(Series(f"winner of {name}, fresh seeds", tuple(first), colour, "star"))
    said = "The front of accuracy and step time of each run, as its search saw it, and its winner measured again."
    axis = Axis("training step time, relative to the baseline", log=True)
    return chart("Fronts", said, axis, ACCURACY, [*series, *winners]) + Markup('<p class="fine">{}</p>').format(said)


def _progress(views: Sequence[RunView], names: Sequence[str]) -> Markup:
    series = []
    for number, (name, view) in enumerate(zip(names, views, strict=True)):
        series += progress_series(budgeted(view), name, _colour(number))
    said = "The best reward so far of each run, by networks that cost budget."
    return chart("Best reward so far", said, Axis("networks that cost budget"), Axis("reward"), series)


def _colour(number: int) -> str:
    return f"c{number % COLOURS + 1}"


def _settings(views: Sequence[RunView], names: Sequence[str]) -> Markup:
    flat = [dict(_flat(view.run.manifest)) for view in views]
    keys = list(dict.fromkeys(key for item in flat for key in item))
    rows = [
        [f"`{key}`", *(item.get(key, "-") for item in flat)]
        for key in keys
        if len({item.get(key) for item in flat}) > 1
    ]
    if not rows:
        return prose(["In nothing."])
    return prose(table(["setting", *(f"`{name}`" for name in names)], rows))
