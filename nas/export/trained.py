"""A network with its weights, read back from where it lies: a search's run, a training's run, an export, or a file.

With it comes what its images must be prepared with, so that it names them as it did when it was scored.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import safe_open

from nas import catalog, runs
from nas.data import Dataset, is_found
from nas.data import load as load_data
from nas.data.pack import pack_size
from nas.engine import checkpoints
from nas.errors import ExportError, RunError, UsageError, WeightsError
from nas.export._base import Images, plain
from nas.export._folder import MARK
from nas.models import Network, build
from nas.report import RunView, load_run
from nas.report.read import read_finalists
from nas.runs import Run
from nas.spec import ArchSpec
from nas.weights import load_weights

Progress = Callable[[int, int], None]

WEIGHTS = "weights.safetensors"
"""The file of a training's run with the best weights so far."""


@dataclass(frozen=True)
class Trained:
    """A network that can name images.

    Args:
        name: A Python name. spec: Its resolution is the one it was scored at.
        network: On the CPU, float32, in evaluation mode.
        origin: Where it is from, as a phrase. weights: Where its weights are from.
        images: None where nothing is known of them.
        run: The run it is from. view: That of a search. finalist: What was measured again of it. trainings: Raw values of its
            fresh trainings by seed; the weights are those of the first. result: What is known of these weights of a training:
            `epoch`, `val_accuracy`, and once it has ended what its `result.json` has.
    """

    name: str
    spec: ArchSpec
    network: Network
    origin: str
    weights: str
    images: Images | None
    run: Run | None = None
    view: RunView | None = None
    finalist: Mapping[str, Any] = field(default_factory=dict)
    trainings: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)
    result: Mapping[str, Any] = field(default_factory=dict)

    @property
    def resolution(self) -> int:
        """Height and width of an input, in pixels."""
        return self.spec.resolved().resolution


def of_search(folder: Path, *, trial: str | None = None) -> Trained:
    """Return the winner of a search, or another of its finalists; the images of the run are not looked at.

    Args:
        trial: Number or hash of the finalist.

    Raises:
        RunError: the run has no winner yet, or no weights of it. UsageError: not a finalist.
    """
    view = load_run(folder)
    spec, manifest = view.winner, view.run.manifest
    finalist = _finalist(view, trial)
    record = finalist["record"]
    if record["arch_hash"] != spec.arch_hash:
        spec = arch_of(finalist["document"])
    trainings = _trainings(view, record["arch_hash"])
    # The first, not the best: the best of several trainings was picked on the validation images, and its accuracy on them
    # would flatter what is handed over.
    seed = min(trainings)
    key = f"{record['arch_hash']}-s{seed}"
    path = checkpoints.path_of(folder / checkpoints.FOLDER, key)
    if not path.is_file():
        raise RunError(
            f"{path}: is not there, and the weights are taken from it (runs of earlier versions and published runs keep none). "
            f"Name {folder / 'winner.yaml'} with --weights FILE, or search again."
        )
    network = build(spec, seed=0)
    _, state = checkpoints.load(folder / checkpoints.FOLDER, key)
    network.load_state_dict((state or {})["network"], strict=True)
    recipe = manifest["recipe"]
    return Trained(
        name="winner" if finalist is view.finalists[0] else f"trial_{record['number']}",
        spec=spec,
        network=ready(network),
        origin=f"found by nas search, run {plain(folder.resolve().name)}",
        weights=f"of the search's own short training (recipe {recipe['name']}, {recipe['epochs']:g} epochs, seed {seed})",
        images=_recorded(manifest["data"]),
        run=view.run,
        view=view,
        finalist=finalist,
        trainings=trainings,
    )


def of_training(folder: Path) -> Trained:
    """Return the network of a training with its best weights so far, at the resolution it is scored at.

    Raises:
        RunError: no epoch has ended yet, or a file of the run is absent or damaged. WeightsError: weights of another network.
    """
    run = runs.open_training(folder)
    manifest = run.manifest
    trained = catalog.load_arch(catalog.arch_file(folder))
    spec = replace(trained, resolution=manifest["test_resolution"], resolution_mult=1.0)
    path = run.path(WEIGHTS)
    if not path.is_file():
        raise RunError(
            f"{folder}: has no weights yet, for no epoch has ended. Continue it: nas train --resume {folder}"
        )
    network = build(spec, seed=0)
    load_weights(network, path)
    known = metadata(path)
    if known.get("arch_hash", trained.arch_hash) != trained.arch_hash:
        raise WeightsError(
            f"{path}: was written for the network {known['arch_hash']}; {run.path('arch.yaml')} is {trained.arch_hash}. "
            "Put back the files of one training."
        )
    result: dict[str, Any] = {key: json.loads(known[key]) for key in ("epoch", "val_accuracy") if key in known}
    end = run.path("result.json")
    if end.is_file():
        result |= runs.read_json(end, dict, f"Have it written again: nas train --resume {folder}")
    recipe, arch = manifest["recipe"], manifest["arch"]
    of = f" of {recipe['epochs']:g}" if isinstance(recipe.get("epochs"), int | float) else ""
    epoch = result.get("best_epoch", result.get("epoch"))
    when = "its best epoch" if epoch is None else f"epoch {epoch}{of}"
    open_end = "" if end.is_file() else ", the best so far of a training that has not ended"
    phi = "" if arch.get("phi") is None else f" at phi {arch['phi']:g}"
    source = f" (from {plain(Path(str(arch['source'])).name)}{phi})" if arch.get("source") else ""
    return Trained(
        name=identifier(trained.name or "network"),
        spec=spec,
        network=ready(network),
        origin=f"trained by nas train, run {plain(folder.resolve().name)}{source}",
        weights=f"of {when}{open_end} (recipe {recipe['name']}, seed {manifest['seed']})",
        images=_recorded(manifest["data"]),
        run=run,
        result=result,
    )


def of_export(folder: Path) -> Trained:
    """Return the network of an export's folder, from the tensors of whichever format has them.

    Raises:
        ExportError: the folder holds no tensors that can be read, or is damaged.
    """
    mark = folder / MARK
    try:
        record = json.loads(mark.read_text(encoding="utf-8"))
        files = [file for written in record["files"].values() for file in written]
        name, origin, weights = str(record["name"]), str(record["origin"]), str(record["weights"])
        images = None if record["data"] is None else images_of(record | dict(record["data"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ExportError(
            f"{mark}: cannot be read as that of an export ({error}). Export again with --overwrite."
        ) from None
    tensors = [file for file in files if file.endswith((".safetensors", ".pt"))]
    if not tensors:
        raise ExportError(
            f"{folder}: holds {', '.join(files)}, and no tensors that nas reads. Export also with --format safetensors, or name "
            "the run it is from."
        )
    spec = catalog.load_arch(folder / "architecture.yaml")
    network = build(spec, seed=0)
    load_weights(network, folder / tensors[0])
    return Trained(name, spec, ready(network), origin, weights, images)


def of_file(name: str, weights: Path) -> Trained:
    """Return an architecture with the weights of a file, and what the file says of its images.

    Raises:
        WeightsError: weights of another network.
    """
    spec = catalog.load_arch(name)
    network = build(spec, seed=0)
    load_weights(network, weights)
    word = plain(spec.name or Path(name).stem)
    known = {key: _plain_value(value) for key, value in metadata(weights).items()}
    return Trained(
        identifier(spec.name or Path(name).stem),
        spec,
        ready(network),
        f"the architecture {word}",
        f"from {plain(weights.name)}",
        images_of({**known, "name": weights.name, "fingerprint": ""}),
    )


def run_images(trained: Trained, data: str | None, progress: Progress) -> Dataset:
    """Return the images of the run that a network is from.

    Args:
        data: Where they lie now, if they have moved.

    Raises:
        RunError: they are not where they were, or are others. DataError: they cannot be read.
    """
    run = trained.run
    assert run is not None
    config, stored = run.manifest["config"], run.manifest["data"]
    where = data or config["data"]
    if data is None and not is_found(where):
        raise RunError(
            f"{run.folder}: its images are not at {where}, where they were. Put them back, or say where they are now with --data."
        )
    if trained.view is not None:
        resolution = catalog.load_space(run.path("space.yaml")).largest_input
    else:
        resolution = max(run.manifest["resolution"], run.manifest["test_resolution"])
    skip_broken = bool(config.get("skip_broken", False))
    images = load_data(where, resolution=resolution, progress=progress, skip_broken=skip_broken)
    if images.size != stored["stored_size"] and pack_size(resolution) != stored["stored_size"]:
        # They were packed for a larger resolution; 7/8 of a stored size is the largest that it was stored for.
        resolution = -(-stored["stored_size"] // 8) * 7
        images = load_data(where, resolution=resolution, progress=progress, skip_broken=skip_broken)
    if images.fingerprint != stored["fingerprint"]:
        raise RunError(
            f"{where}: found images of fingerprint {images.fingerprint}; the run was made with {stored['fingerprint']}. Name "
            "its own images with --data."
        )
    return images


def described(data: Dataset) -> Images:
    """Return what a network must know of the images it was trained on."""
    return Images(data.name, data.fingerprint, data.class_names, data.mean, data.std, data.size)


def images_of(known: Mapping[str, Any]) -> Images | None:
    """Return what a manifest, a card or a file of weights says of the images, None where that is not all there."""
    if not all(isinstance(known.get(key), list | tuple) for key in ("classes", "mean", "std")):
        return None
    classes, mean, std = (tuple(known[key]) for key in ("classes", "mean", "std"))
    size = known.get("stored_size")
    return Images(known["name"], known["fingerprint"], classes, mean, std, size if isinstance(size, int) else None)


def is_export(folder: str | os.PathLike[str]) -> bool:
    """Return whether a folder is an export."""
    return (Path(folder) / MARK).is_file()


def kind_of(folder: Path) -> str:
    """Return of which command a run is.

    Raises:
        RunError: no run. UsageError: a run without weights of a network.
    """
    kind = str(runs.open_run(folder).manifest.get("kind", "search"))
    if kind not in ("search", "train"):
        raise UsageError(
            f"{folder}: is a {kind} run, which keeps no weights; the runs of nas search and nas train do. Name one of them."
        )
    return kind


def metadata(path: Path) -> dict[str, str]:
    """Return the texts in a safetensors file, none of a file of another kind."""
    if path.suffix.lower() != ".safetensors":
        return {}
    try:
        with safe_open(path, "pt") as file:
            return dict(file.metadata() or {})
    except Exception as error:  # the library has an error class of its own, and raises others
        raise WeightsError(f"{path}: cannot be read as weights ({error}). Give a whole file.") from None


def identifier(name: str) -> str:
    """Return a name as Python allows it."""
    word = re.sub(r"\W+", "_", name, flags=re.ASCII).strip("_").lower() or "network"
    return word if not word[0].isdigit() else f"network_{word}"


def ready(network: Network) -> Network:
    """Return a network as it is used: on the CPU, in float32, in evaluation mode."""
    return network.to(device="cpu", dtype=torch.float32).eval()


def arch_of(document: Mapping[str, Any]) -> ArchSpec:
    """Return the architecture of a document, as a file of it would be read."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.yaml"
        path.write_text(yaml.safe_dump(dict(document), sort_keys=False), encoding="utf-8")
        return catalog.load_arch(path)


def _recorded(data: Mapping[str, Any]) -> Images | None:
    return images_of({**data, "classes": data.get("class_names")})


def _plain_value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _finalist(view: RunView, trial: str | None) -> Mapping[str, Any]:
    sound = [item for item in view.finalists if item.get("outcome", "ok") == "ok"]
    if trial is None:
        return sound[0]
    for item in sound:
        record = item["record"]
        if trial == str(record["number"]) or (len(trial) >= 6 and record["arch_hash"].startswith(trial)):
            return item
    known = ", ".join(f"{item['record']['number']} ({item['record']['arch_hash'][:8]})" for item in sound)
    raise UsageError(
        f"--trial: found {trial}; weights are kept of the trials that were measured again: {known}. Name one of them."
    )


def _trainings(view: RunView, arch_hash: str) -> dict[int, Mapping[str, Any]]:
    """Return the fresh trainings of a network by seed, in their order."""
    stored = read_finalists(view.run)["trainings"]
    seeds = sorted(int(name.rpartition("-")[2]) for name in stored if name.startswith(f"{arch_hash}-"))
    return {seed: stored[f"{arch_hash}-{seed}"] for seed in seeds}
