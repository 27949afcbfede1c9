"""`nas train`: a network trained to be used; what is printed while it goes on."""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from rich.progress import SpinnerColumn, TextColumn

from nas import catalog, runs
from nas.cli._screen import Screen
from nas.data import is_found
from nas.errors import UsageError
from nas.runs import Run
from nas.space import format_count
from nas.spec import ArchSpec
from nas.train.config import option
from nas.train.distributed import rank
from nas.train.full_recipes import full_from_document, full_phases
from nas.train.session import continued, resume_training, train_network
from nas.train.watch import EpochRow, TrainResult, Watcher


def network(source: str | None, phi: float | None) -> tuple[ArchSpec, str]:
    """Return the network that a user means, and the name of where it is from.

    Args:
        source: A run's folder or an architecture; None is the latest search. phi: Which of the networks scaled from it.

    Raises:
        NasError: there is no such network.
    """
    name = str(runs.latest()) if source is None else source
    folder = Path(name)
    kind = runs.open_run(folder).manifest.get("kind") if (folder / "manifest.json").is_file() else None
    if phi is None:
        if kind == "scale":
            there = sorted(path.stem.removeprefix("phi-") for path in folder.glob("phi-*.yaml"))
            raise UsageError(
                f"{name}: holds scaled networks ({', '.join(there) or 'none yet'}); say which with --phi, such as --phi 2."
            )
        return catalog.load_arch(name), name
    file = (folder if kind == "scale" else folder / "scale") / f"phi-{phi:g}.yaml"
    if not file.is_file():
        raise UsageError(
            f"--phi: found {phi:g}, but {file} is not there. Make it: nas scale --from {shlex.quote(name)} --phi {phi:g}"
        )
    return catalog.load_arch(file), name


class TrainProgress(Screen, Watcher):
    """A watcher that prints; used as a context, so that the bar is taken down on errors too."""

    def __init__(self) -> None:
        self.folder: Path | None = None
        super().__init__(before=(SpinnerColumn(),), after=(TextColumn("{task.fields[speed]}", markup=False),), speed="")
        self._sizes: list[int] = []
        self._batch = 0
        self._epoch = (0, 0.0)

    def opened(self, run: Run) -> None:
        """Remember what to continue."""
        self.folder = run.folder

    def started(self, run: Run, history: Sequence[EpochRow], remarks: Sequence[str]) -> None:
        """Say what is trained, on what, and where the results go."""
        facts = run.manifest
        arch, data, device = facts["arch"], facts["data"], facts["device"]
        recipe = full_from_document(dict(facts["recipe"]), "manifest.json")
        plan = full_phases(recipe, facts["resolution"])
        self._sizes = [phase.resolution for phase in plan for _ in range(int(phase.epochs))]
        self._batch = recipe.batch_size
        self._say("network", f"{arch['name'] or arch['hash']}  {arch['summary']}")
        self._say(
            "data",
            f"{data['name']}: {data['train_images']} training, {data['val_images']} validation images, "
            f"{data['classes']} classes",
        )
        for remark in remarks:
            self._say("", remark, "dim")
        sizes = " ".join(str(phase.resolution) for phase in plan)
        self._say(
            "recipe",
            f"{recipe.name}: {_many(recipe.epochs, 'epoch')} at {sizes} pixels, scored at {facts['test_resolution']}; batch "
            f"{recipe.batch_size}, {recipe.optimizer}, peak rate {recipe.rate():.3g}",
        )
        processes = device.get("processes", 1)
        self._say(
            "device",
            f"{device['type']} ({device['name']})"
            + (f", {processes} processes" if processes > 1 else "")
            + ("" if device["type"] == "cuda" else "; no GPU is used"),
        )
        self._say("run", str(run.folder))
        if history:
            best = max(row.val_accuracy for row in history)
            self._say("", f"continuing after epoch {history[-1].epoch} of {recipe.epochs}, the best at {best:.4f}")
        self._console.print("epoch pixels  loss     accuracy         rate      images/s  left", style="dim")

    def note(self, sentence: str) -> None:
        """Say what happened besides the epochs."""
        self._say("", sentence, "dim")

    def waiting(self) -> None:
        """Show that another run has the device."""
        self._bar.update(self._task, description="waiting: another run times or trains on this device")

    def stepped(self, epoch: int, resolution: int, done: int, steps: int) -> None:
        """Show how far the epoch is, and how fast it goes."""
        if self._epoch[0] != epoch or done <= 10:
            self._epoch = (epoch, time.monotonic())
        seconds = time.monotonic() - self._epoch[1]
        speed = f"{(done - 10) * self._batch / seconds:.0f} images/s" if seconds > 0 and done > 10 else ""
        what = f"epoch {epoch} of {len(self._sizes)}, {resolution} px"
        self._bar.update(self._task, description=what, completed=done, total=steps, speed=speed)

    def epoch(self, row: EpochRow, best: bool) -> None:
        """Print the line of an epoch that has ended."""
        # The time of an epoch goes with the pixels of its images.
        ahead = sum(size**2 for size in self._sizes[row.epoch :]) / row.resolution**2
        self._console.print(
            f"{row.epoch:5d} {row.resolution:6d}  {row.train_loss:.4f}   {row.val_accuracy:.4f} ± {row.val_error:.4f}  "
            f"{row.learning_rate:.2e}  {row.images_per_second:8.0f}  {_time(ahead * row.seconds) if ahead else '-'}",
            style="bold green" if best else "",
        )

    def finished(self, result: TrainResult) -> None:
        """Print the accuracy, and the commands to run next."""
        found, folder = result.summary, result.run.folder
        self._console.print()
        self._say(
            "accuracy",
            f"{result.val_accuracy:.4f} ± {result.val_error:.4f} on {found['val_images']} validation images at "
            f"{found['test_resolution']} pixels, after epoch {result.best_epoch} (chosen on these images; after the last epoch "
            f"{found['last_val_accuracy']:.4f})",
            "bold green",
        )
        self._say(
            "",
            f"{format_count(found['num_params'])} parameters, {format_count(found['macs'])} multiply-adds at "
            f"{found['resolution']} pixels; trained in {_time(found['seconds'])}",
        )
        self._say("report", str(folder / "report.md"))
        named = shlex.quote(str(folder))
        self._say("next", f"nas predict {named} photos/")
        self._say("", f"nas export {named}")


class Silent(TrainProgress):
    """What the second process of several prints, and those after it: nothing."""

    def __init__(self) -> None:
        super().__init__()
        self._bar.disable = True
        self._console.quiet = True


def progress() -> TrainProgress:
    """Return the watcher of this process: of several, the first one prints."""
    return TrainProgress() if rank() == 0 else Silent()


def run(
    source: str | None, phi: float | None, resume: Path | None, given: dict[str, Any], watcher: TrainProgress
) -> TrainResult:
    """Train, or continue a training, and return what it left behind.

    Args:
        given: The settings that the user gave.

    Raises:
        NasError: what a user can mend.
    """
    if resume is not None:
        if source is not None or phi is not None:
            raise click.UsageError("--resume: continues a run with its own network. Leave SOURCE and --phi out.")
        return resume_training(resume, **_changes(resume, given), watcher=watcher)
    spec, name = network(source, phi)
    return train_network(spec, source=name, phi=phi, watcher=watcher, **{**own_images(name, given), **given})


def own_images(source: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the images that a run was made with, where a user names a run, or a network's file in it, and no images.

    Args:
        source: A run's folder, or a file in it or in a folder of it (`RUN/winner.yaml`, `RUN/scale/phi-2.yaml`).

    Raises:
        UsageError: they are not where they were.
    """
    path = Path(source)
    folders = (path.absolute().parent, path.absolute().parent.parent) if path.is_file() else (path,)
    made = [runs.open_run(item).manifest for item in folders if (item / "manifest.json").is_file()]
    config = next((item["config"] for item in made if item.get("config", {}).get("data")), None)
    if "data" in given or config is None:
        return {}
    if not is_found(config["data"]):
        raise UsageError(f"{source}: its images are not at {config['data']}, where they were. Say where with --data.")
    return {"data": config["data"], "skip_broken": bool(config.get("skip_broken", False))}


MAY_CHANGE = ("device", "data", "micro_batch", "compile")
"""Settings of a training that may be others when it is resumed."""


def _changes(folder: Path, given: dict[str, Any]) -> dict[str, Any]:
    """Return what a resumed training may change, and refuse settings that differ from its own."""
    own = runs.open_training(folder).manifest["config"]
    may: dict[str, Any] = {name: given.pop(name) for name in MAY_CHANGE if name in given}
    differs = []
    for name, value in given.items():
        plain = str(value) if isinstance(value, Path) else value
        if plain != own.get(name):
            before = own.get(name)
            differs.append(f"{option(name)}: found {plain}, the run has {'none' if before is None else before}")
    if differs:
        raise click.UsageError(
            f"{'; '.join(differs)}. A resumed training keeps its own settings; only --device, --micro-batch and --compile may "
            f"be changed, and --data where the same images have moved. {continued(folder)} is enough."
        )
    return may


def _many(number: float, word: str) -> str:
    return f"{number:g} {word}{'s' * (number != 1)}"


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
