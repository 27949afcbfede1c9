"""What the terminal shows while a search goes on: a line for each trial, and a bar for the budget."""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.progress import SpinnerColumn, TextColumn

from nas.cli._screen import Screen
from nas.data import Dataset
from nas.front import Point, front, shown
from nas.objective import few_images
from nas.report import load_run, stopping_of
from nas.report.front import front_of
from nas.runs import Run
from nas.search.finalists import Fresh, optimism
from nas.search.record import TrialRecord
from nas.search.watcher import SearchResult, Watcher
from nas.space import format_count


class SearchProgress(Screen, Watcher):
    """A watcher of a search that prints; used as a context, so that the bar is taken down on errors too."""

    def __init__(self) -> None:
        self.folder: Path | None = None
        super().__init__(before=(SpinnerColumn(),), after=(TextColumn("{task.fields[eta]}", markup=False),), eta="")
        self._best = 0.0
        self._costs: tuple[str, ...] = ()
        self._front: list[Point] = []
        self._flights: dict[int, str] = {}
        self._done = 0
        self._known = 0
        self._budget = 0
        self._finalists = 0
        self._again: set[str] = set()
        self._began = time.monotonic()

    def opened(self, run: Run) -> None:
        """Remember what to continue."""
        self.folder = run.folder

    def started(self, run: Run, data: Dataset, facts: Mapping[str, Any], known: Sequence[TrialRecord]) -> None:
        """Say what is searched, on what, and where the results go."""
        self._known = self._done = sum(record.costs_budget for record in known)
        self._best = max((record.reward or 0.0 for record in known if record.kind == "trained"), default=0.0)
        self._costs = tuple(facts.get("costs", ()))
        for record in known:
            self._joins(record)
        self._budget = facts["config"]["budget"]
        self._finalists = facts["config"]["top_k"] * facts["config"]["top_k_seeds"]
        self._began = time.monotonic()
        used = facts["data"]
        device = facts["device"]
        threads = device.get("threads")
        place = device["name"] + (f", {threads} thread{'s' * (threads > 1)}" if threads else "")
        self._say("space", f"{facts['space']}, baseline {facts['baseline']['name']}")
        self._say(
            "data",
            f"{data.name}: {used['used_train_images']} of {used['train_images']} training, "
            f"{used['used_val_images']} of {used['val_images']} validation images, {used['classes']} classes",
        )
        for note in data.notes:
            self._say("", note, "dim")
        for warning in few_images(used["used_val_images"], used["val_images"]):
            self._say("note", warning, "yellow")
        recipe = facts["recipe"]
        self._say(
            "recipe",
            f"{recipe['name']}: {_many(recipe['epochs'], 'epoch')}, {_many(recipe['progressive']['phases'], 'phase')}, "
            f"batch {recipe['batch_size']}",
        )
        asked, cluster = facts["config"]["devices"], facts["config"]["engine"] == "ray"
        workers = f", a worker process for each of {asked}" if any(mark in asked for mark in (",", "cpu:")) else ""
        if cluster:
            workers = f", on the Ray cluster at {facts['config']['address']}"
        self._say(
            "device", f"{device['type']} ({place}){workers}" + ("" if device["type"] == "cuda" else "; no GPU is used")
        )
        self._say("run", str(run.folder))
        self._say("", f"watch it: nas dashboard {run.folder}", "dim")
        if self._known:
            best = f", the best with reward {self._best:.4f}" if self._best else ""
            best = f", {len(self._front)} on the front" if self._costs else best
            self._say("", f"continuing: {self._known} network{'s' * (self._known > 1)} trained already{best}")
        self._console.print(
            "trial kind        reward   accuracy         step time (x baseline)  params   network", style="dim"
        )
        self._bar.update(self._task, description="searching", completed=self._done, total=self._budget)

    def note(self, sentence: str) -> None:
        """Say what happened besides the trials."""
        self._say("", sentence, "dim")

    def waiting(self) -> None:
        """Show that another run has the device."""
        self._bar.update(self._task, description="waiting: another run times or trains on this device")

    def phase(self, record: TrialRecord, phase: int, phases: int) -> None:
        """Show what the trial in flight is doing."""
        if phase > 0 and record.number not in self._flights:
            self._say("", f"trial {record.number} goes on with phase {phase} of {phases}", "dim")
        self._flights[record.number] = "timing" if phase == 0 else f"training {phase}/{phases}"
        self._show_flights()

    def _show_flights(self) -> None:
        doing = ", ".join(f"trial {number} {what}" for number, what in sorted(self._flights.items()))
        self._bar.update(self._task, description=doing or "searching")

    def trial(self, record: TrialRecord) -> None:
        """Print the line of a trial that has ended."""
        self._flights.pop(record.number, None)
        self._show_flights()
        if record.costs_budget:
            self._done += 1
        best = self._joins(record)
        style = "bold green" if best else "dim" if record.kind not in ("trained",) else ""
        line = f"{record.number:5d} {record.kind:11s} "
        if record.reward is not None and record.val_accuracy is not None:
            line += f"{record.reward:.4f}   {record.val_accuracy:.4f} ± {record.val_error or 0:.4f}  "
            ratio = (record.step_time_ms or 0) / (record.ref_step_time_ms or 1)
            line += f"{record.step_time_ms:8.2f} ms ({ratio:4.2f})      {format_count(record.num_params or 0):>6s}   "
            line += record.arch
        else:
            line += f"{record.reason}: {record.arch}"
        self._console.print(line, style=style)
        trained = self._done - self._known
        eta = ""
        if trained:
            left = self._budget - self._done + self._finalists
            best_so_far = f"{len(self._front)} on the front" if self._costs else f"best {self._best:.4f}"
            eta = f"{_left(self._began, trained, left)}, {best_so_far}"
        self._bar.update(self._task, completed=self._done, eta=eta)

    def _joins(self, record: TrialRecord) -> bool:
        """Remember a trained network, and return whether it is the best so far, or on the front so far."""
        if record.kind != "trained" or record.reward is None:
            return False
        if not self._costs:
            better = record.reward > self._best
            self._best = max(self._best, record.reward)
            return better
        seen = [*self._front, record.point(self._costs)]
        places = front(seen)
        self._front = [seen[place] for place in places]
        return len(seen) - 1 in places

    def finalist(self, fresh: Fresh) -> None:
        """Show which finalist is trained again, how many are done, and what is left."""
        if not self._again:
            self._bar.update(self._task, visible=False)
            self._task = self._bar.add_task("", total=fresh.total, eta="")  # with a clock of its own
            self._began = time.monotonic()
            self._known = fresh.done
        name = f"{fresh.record.arch_hash[:8]} with seed {fresh.seed}"
        if name not in self._again:
            self._again.add(name)
            left = f"{len(self._again) + self._known} of {fresh.total}"
            self._say("", f"finalists: timing and training {name} again, {left}", "dim")
        what = "timing" if fresh.phase == 0 else f"training {fresh.phase}"
        eta = ""
        if fresh.done > self._known:
            eta = _left(self._began, fresh.done - self._known, fresh.total - fresh.done)
        self._bar.update(self._task, description=f"finalists: {what} {name}", completed=fresh.done, eta=eta)

    def finished(self, result: SearchResult) -> None:
        """Print the winner, the warnings, and the command to run next."""
        first = result.finalists[0]
        ratio = sum(first.step_time_ms) / sum(first.ref_step_time_ms)
        folder = result.run.folder
        kinds = [record.kind for record in result.records]
        self._console.print()
        self._say("trials", ", ".join(f"{kinds.count(kind)} {kind}" for kind in sorted(set(kinds))))
        self._say("knee" if self._costs else "winner", f"{first.record.arch_hash}  {first.record.arch}", "bold green")
        self._say(
            "",
            f"accuracy {first.accuracy:.4f} ± {first.accuracy_error:.4f} ({_many(len(first.accuracies), 'fresh seed')}), "
            f"{ratio:.2f} x the baseline's step time, {format_count(first.record.num_params or 0)} parameters",
        )
        if self._costs:
            self._front_found(folder)
        else:
            self._say(
                "",
                f"reward {first.reward:.4f} with fresh seeds; in the search {first.record.reward:.4f}. The search was "
                f"optimistic by {optimism(result.finalists):+.4f} on average over {_many(len(result.finalists), 'finalist')}",
            )
            for sentence in stopping_of(load_run(folder)).said():
                self._say("", sentence)
        for warning in result.warnings:
            self._say("note", warning, "yellow")
        self._say("report", str(folder / "report.html"))
        self._say("next", f"nas scale --from {shlex.quote(str(folder))} --phi 1,2,3   (larger relatives), or at once:")
        self._say("", f"nas train {shlex.quote(str(folder))}   (to be used)")
        self._say("", f"nas export {shlex.quote(str(folder))}")

    def _front_found(self, folder: Path) -> None:
        """Print the front as it was measured again."""
        view = load_run(folder)
        found = front_of(view)
        kept = [item for item in found if not item.verdict.startswith("beaten")]
        self._say("front", f"of {_many(len(found), 'network')} measured again beaten by none: {len(kept)}")
        for item in sorted(kept, key=lambda item: item.costs):
            costs = ", ".join(
                f"{shown(cost)} {format_count(value)}" for cost, value in zip(view.costs, item.costs, strict=True)
            )
            mark = "  knee" if item.verdict == "knee" else ""
            self._say(
                "", f"trial {item.number:<5d} accuracy {item.accuracy:.4f} ± {item.accuracy_error:.4f}, {costs}{mark}"
            )
        self._say(
            "", f"each is a file in {folder / 'front'}; hand one over: nas export {shlex.quote(str(folder))} --trial N"
        )


def _many(number: float, word: str) -> str:
    return f"{number:g} {word}{'s' * (number != 1)}"


def _left(began: float, done: int, left: int) -> str:
    return f"about {(time.monotonic() - began) / done * left / 60:.0f} min left"
