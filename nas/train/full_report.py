"""What a training leaves behind for people: the history, the accuracy by class, the result, a page and a picture."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from nas.cost import count
from nas.errors import RunError
from nas.runs import Run, write_json, write_text
from nas.space import format_count
from nas.spec import ArchSpec
from nas.train.curves import write_curves
from nas.train.loop import proportion_error
from nas.train.watch import EpochRow, TrainResult


def write_history(run: Run, history: Sequence[EpochRow]) -> None:
    """Write `history.csv`: a row for each epoch, with the columns of `EpochRow`."""
    names = [item.name for item in fields(EpochRow)]
    write_text(run.path("history.csv"), _csv(names, [[getattr(row, name) for name in names] for row in history]))


def finished(
    run: Run,
    spec: ArchSpec,
    history: Sequence[EpochRow],
    best: Mapping[str, Any] | None,
    notes: Sequence[str],
    *,
    write: bool = True,
) -> TrainResult:
    """Return what a training that has ended left behind, written into its folder.

    Args:
        spec: The network as trained. best: `epoch`, and for each class its validation images and those named right.
        write: Whether to write; of several processes one does.

    Raises:
        RunError: no epoch was better than none, or the folder cannot be written.
    """
    if best is None:
        raise RunError(f"{run.folder}: no epoch has ended, so that there is nothing to report. Train for one at least.")
    row = history[best["epoch"] - 1]
    params, macs = count(spec)
    trained = [_images(run) / item.images_per_second for item in history]
    summary = {
        "val_accuracy": row.val_accuracy,
        "val_error": row.val_error,
        "val_images": sum(images for images, _ in best["classes"]),
        "test_resolution": run.manifest["test_resolution"],
        "resolution": run.manifest["resolution"],
        "best_epoch": row.epoch,
        "last_val_accuracy": history[-1].val_accuracy,
        "epochs": len(history),
        "seconds": sum(item.seconds for item in history),
        "images_per_second": _images(run) * len(history) / sum(trained),
        "num_params": params,
        "macs": macs,
        "arch_hash": spec.arch_hash,
        "batch_size": run.manifest["recipe"]["batch_size"],
        "micro_batch": history[-1].micro_batch,
        "devices": _devices(history),
        "notes": list(notes),
    }
    result = TrainResult(run, row.val_accuracy, row.val_error, row.epoch, tuple(history), summary)
    if write:
        classes = [
            [name, images, right, right / images if images else ""]
            for name, (images, right) in zip(run.manifest["data"]["class_names"], best["classes"], strict=True)
        ]
        write_history(run, history)
        write_text(run.path("classes.csv"), _csv(["class", "images", "right", "accuracy"], classes))
        write_curves(history, run.path("curves.png"), title=_title(run))
        write_text(run.path("report.md"), page(result, classes))
        write_json(run.path("result.json"), summary)  # last: a training with a result has all of it
    return result


WORST = 10
"""Classes that the report lists where there are more than twice as many."""


def page(result: TrainResult, classes: Sequence[Sequence[Any]]) -> str:
    """Return the report of a training as Markdown.

    Args:
        classes: Name, validation images, those named right, and their share.
    """
    manifest, found = result.run.manifest, result.summary
    data, recipe = manifest["data"], manifest["recipe"]
    lines = [
        f"# Training of {_title(result.run)}",
        "",
        f"- accuracy **{result.val_accuracy:.4f} ± {result.val_error:.4f}** (standard error) on {found['val_images']} "
        f"validation images at {found['test_resolution']} pixels, after epoch {result.best_epoch} of {found['epochs']}",
        f"- after the last epoch {found['last_val_accuracy']:.4f}. The best epoch was chosen on these images, so that its "
        "accuracy is a little too good; a test split that nothing was chosen on tells the true one",
        f"- {format_count(found['num_params'])} parameters, {format_count(found['macs'])} multiply-adds at "
        f"{found['resolution']} pixels",
        f"- {found['seconds']:.0f} s, {found['images_per_second']:.0f} images/s in training, {_place(found['devices'])}",
        "",
        "![Learning curves](curves.png)",
        "",
    ]
    if found["notes"]:
        lines += ["## Read this first", "", *[f"- {note}" for note in found["notes"]], ""]
    shown = sorted((row for row in classes if row[1]), key=lambda row: row[3])
    few = shown if len(shown) <= 2 * WORST else shown[:WORST]
    head = (
        "## Accuracy by class" if few is shown else f"## The {WORST} classes of {len(classes)} with the lowest accuracy"
    )
    lines += [head, "", "| class | images | right | accuracy |", "| --- | --- | --- | --- |"]
    lines += [
        f"| {str(name).replace('|', '/')} | {images} | {right} | {share:.3f} ± {proportion_error(right, images):.3f} |"
        for name, images, right, share in few
    ]
    lines += [
        "",
        "## Conditions",
        "",
        f"- network `{manifest['arch']['hash']}` `{manifest['arch']['summary']}`",
        f"- data {data['name']} (fingerprint {data['fingerprint']}): {data['train_images']} training and "
        f"{data['val_images']} validation images, {data['classes']} classes",
        *[f"- {note}" for note in data["notes"]],
        f"- recipe {recipe['name']}: {recipe['epochs']} epochs, {recipe['progressive']['phases']} phases, batch "
        f"{recipe['batch_size']}, {recipe['optimizer']}; seed {manifest['seed']}",
        f"- {_place(found['devices'])}, torch {manifest['torch']}"
        + (" at the start" if len(found["devices"]) > 1 else ""),
        f"- `{manifest['command']}`",
        "",
    ]
    return "\n".join(lines)


def _title(run: Run) -> str:
    manifest = run.manifest
    return f"{manifest['arch']['name'] or manifest['arch']['hash']} on {manifest['data']['name']}"


def _devices(history: Sequence[EpochRow]) -> list[dict[str, Any]]:
    """Return where epochs were trained: device, and the first and the last epoch that it had without a break."""
    found: list[dict[str, Any]] = []
    for row in history:
        if not found or found[-1]["device"] != row.device:
            found.append({"device": row.device, "first_epoch": row.epoch})
        found[-1]["last_epoch"] = row.epoch
    return found


def _place(devices: Sequence[Mapping[str, Any]]) -> str:
    if len(devices) == 1:
        return f"{devices[0]['device']}"
    return "; ".join(f"epochs {item['first_epoch']} to {item['last_epoch']} on {item['device']}" for item in devices)


def _images(run: Run) -> int:
    """Return the training images of an epoch."""
    data, recipe = run.manifest["data"], run.manifest["recipe"]
    batch = int(recipe["batch_size"])
    return max(1, round(int(data["train_images"]) / batch)) * batch


def _csv(names: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([names, *rows])
    return text.getvalue()
