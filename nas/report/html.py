"""The report of a search as one page that opens anywhere: `report.md`, with pictures that answer when they are pointed at.

The page asks nothing of the network (it forbids itself to), and what users named is escaped in it.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from nas.cost import count
from nas.report import front_page, trust
from nas.report.effects import Effects
from nas.report.networks import baseline, network_pictures, networks
from nas.report.pictures import effect_pictures, front_pictures, progress, time_picture
from nas.report.prose import code, prose, titled
from nas.report.read import RunView
from nas.report.spent import spent
from nas.report.svg import pages
from nas.report.winner import Found, found_of, next_steps, optimism_said
from nas.space import format_count

Parts = Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class Section:
    """A part of the page with its heading; `name` is where links lead."""

    name: str
    title: str
    body: Markup


def html(view: RunView, parts: Parts, found: Effects | None) -> str:
    """Return the report of a run as a page of HTML.

    Args:
        parts: Of the report in Markdown (`nas.report.text.sections`). found: The main effects of the run.
    """
    manifest = view.run.manifest
    winner = found_of(view)
    return rendered(
        "page.html",
        title=view.title,
        made=[manifest["created"][:10], manifest["device"]["name"]],
        front=bool(view.costs),
        winner=winner,
        facts=[] if winner is None else _facts(view, winner),
        baseline=manifest["baseline"]["name"],
        ended=bool(view.finalists),
        best=view.trained().head(1).to_dict("records"),
        believed=front_page.believed(view) if view.costs else trust.believed(view),
        warnings=len(view.warnings),
        steps=[(code(command), why) for command, why in next_steps(view)],
        sections=[item for item in _sections(view, parts, found) if item.body],
    )


def rendered(template: str, **values: Any) -> str:
    """Return a page with the style and the script in it, and a rule that forbids everything else."""
    env = pages
    script = str(Markup(env.get_template("hover.js").render()))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    style = Markup(env.get_template("style.css").render())
    return env.get_template(template).render(script=Markup(script), digest=digest, style=style, **values) + "\n"


def _facts(view: RunView, found: Found) -> list[tuple[str, str, str, str]]:
    """Return the rows of the summary: what, of the winner, a word on that, of the baseline."""
    manifest = view.run.manifest
    seen = view.trained()[view.trained()["arch_hash"] == manifest["baseline"].get("hash")].to_dict("records")
    base = baseline(view)
    unknown = "not trained here"
    reward, accuracy = (f"{seen[0]['reward']:.4f}", _reading(seen[0])) if seen else (unknown, unknown)
    time = f"{found.step_time_spread}; {found.relative_time} x the baseline's"
    return [
        *([] if view.costs else [("reward", found.reward, f"in the search {found.search_reward}", reward)]),
        ("accuracy", found.accuracy, found.seeds, accuracy),
        ("step time", found.step_time, time, found.baseline_time),
        *([("latency", found.latency[0], "; ".join(found.latency[1:]), "")] if found.latency[0] else []),
        ("parameters", found.num_params, "", format_count(manifest["baseline"]["num_params"])),
        ("MACs", found.macs, "", "" if base is None else format_count(count(base).macs)),
    ]


def _reading(row: Mapping[Any, Any]) -> str:
    return f"{row['val_accuracy']:.4f} ± {row['val_error']:.4f}"


def _sections(view: RunView, parts: Parts, found: Effects | None) -> list[Section]:
    def section(
        name: str, part: str, before: Markup | str = "", pictures: Mapping[str, Markup] | None = None
    ) -> Section:
        if not parts.get(part):
            return Section(name, "", Markup(""))
        title, lines = titled(parts[part])
        return Section(name, title, Markup(before) + prose(lines, pictures))

    fronts = front_pictures(view)
    if view.costs:
        _, members = titled(parts["members"])
        _, seen = titled(parts["seen"] or [""])
        front = fronts + (prose(members) if view.finalists else Markup("")) + prose(["### As the search saw it", *seen])
    else:
        _, lines = titled(parts["front"])
        flattery = optimism_said(view) if view.finalists else ""
        again = [*parts.get("finalists", []), flattery[:1].upper() + flattery[1:] + "." * bool(flattery)]
        front = fronts + prose(again) + prose(["### The front, as the search saw it", *lines])
    effects = {} if found is None else {"effects.png": effect_pictures(found)}
    device = view.run.manifest["device"]
    timed = f"Measured on {device['name']}; the errors of step times are MADs, of accuracies standard errors."
    return [
        section("warnings", "warnings"),
        Section("front", "Accuracy against cost", front if len(view.trained()) else Markup("")),
        Section("progress", "Progress", progress(view)),
        Section("networks", "Networks, stage by stage", network_pictures(networks(view))),
        section("trust", "trust", pictures=effects),
        section("spent", "spent", time_picture(spent(view))),
        section("stopped", "stopped"),
        section("foreseen", "foreseen"),
        section("costs", "best", prose([timed])),
        *_later(view.run.folder),
        Section("reproduce", "How to reproduce", prose(titled(parts["conditions"])[1])),
    ]


def _later(folder: Path) -> list[Section]:
    """Return what was made of the winner later, where that lies in the folder of the run: its scaling and its training."""
    found = []
    for name, title in (("scale", "Scaling"), ("train", "Training")):
        path = folder / name / "report.md"
        if path.is_file():
            pictures = {
                file.name: Markup('<img class="picture" alt="{}" src="data:image/png;base64,{}">').format(
                    f"{title}: {file.stem}", base64.b64encode(file.read_bytes()).decode()
                )
                for file in sorted(path.parent.glob("*.png"))
            }
            first, lines = titled(path.read_text(encoding="utf-8").splitlines())
            found.append(Section(name, title, prose([f"**{first}**", "", *lines], pictures, deeper=1)))
    return found
