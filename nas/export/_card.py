"""The model card: what a stranger must know to use the network, and what was checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from nas.cost import count, table
from nas.export._base import EXPORTERS
from nas.export._check import Check
from nas.export._layout import literal
from nas.export._subject import Source
from nas.export.trained import Trained
from nas.spec import summary
from nas.train.loop import proportion_error


def card(
    source: Source, files: Mapping[str, Sequence[str]], checks: Sequence[Check], left_out: Mapping[str, str]
) -> str:
    """Return the model card as Markdown.

    Args:
        files: Of each format. left_out: Formats that cannot express the network, and why.
    """
    subject = source.subject
    parts = [
        f"# {subject.title}",
        "",
        f"An image classifier: {subject.origin}. Weights: {subject.weights}.",
        "",
    ]
    parts += _architecture(source) + _results(source) + _preprocessing(source)
    parts += ["## How to load it", ""]
    for name, written in files.items():
        usage = EXPORTERS[name].usage.format(name=subject.name, model=subject.model)
        parts += [
            f"**{name}**: {', '.join(f'`{file}`' for file in written)}",
            "",
            "```python",
            usage.rstrip(),
            "```",
            "",
        ]
    parts += _checked(checks, left_out)
    parts += [
        "## Licence",
        "",
        "The licence of the weights is yours to choose, and to square with that of the images they were trained on.",
        "",
    ]
    return "\n".join(parts)


def _architecture(source: Source) -> list[str]:
    spec = source.subject.spec
    rows = [
        [
            row.part,
            f"{row.out_channels} x {row.out_size} x {row.out_size}"
            if row.part != "classifier"
            else str(row.out_channels),
            f"{row.count.params:,}",
            f"{row.count.macs:,}",
        ]
        for row in table(spec)
    ]
    total = count(spec)
    rows.append(["total", "", f"{total.params:,}", f"{total.macs:,}"])
    return [
        "## Architecture",
        "",
        f"`{summary(spec)}`",
        "",
        *_table(["part", "output", "parameters", "multiply-adds of an image"], rows),
        "",
        f"`architecture.yaml` (hash `{spec.arch_hash}`) is the same for `nas show`, `nas search --enqueue` and `nas.build`.",
        "",
    ]


def _results(source: Source) -> list[str]:
    if source.trained is None:
        return []
    return _of_search(source.trained) if source.trained.view is not None else _of_training(source.trained)


def _of_search(trained: Trained) -> list[str]:
    assert trained.run is not None
    manifest, finalist = trained.run.manifest, trained.finalist
    seed, training = next(iter(trained.trainings.items()))
    data, recipe, device = manifest["data"], manifest["recipe"], manifest["device"]
    accuracy, n = float(training["val_accuracy"]), int(data["used_val_images"])
    return [
        "## Data, training, results",
        "",
        f"- data {data['name']} (fingerprint `{data['fingerprint']}`): {data['used_train_images']} training and "
        f"{n} validation images, {data['classes']} classes",
        *[f"- {note}" for note in data["notes"]],
        f"- recipe {recipe['name']}: {recipe['epochs']:g} epochs in {recipe['progressive']['phases']} phases, batch "
        f"{recipe['batch_size']}. It is the search's short training: a longer one makes better weights of the same network.",
        f"- accuracy of this network: {finalist['accuracy']:.4f} ± {finalist['accuracy_error']:.4f}, the mean over "
        f"{len(finalist['accuracies'])} trainings with fresh seeds (its error is that of seeds and images together)",
        f"- accuracy of these weights: {_share(accuracy, n)}, at {trained.resolution} x {trained.resolution} pixels, of the "
        f"first of those trainings (seed {seed}); not of the best, whose accuracy would flatter it",
        "- these images chose the network among others, so both are a little optimistic; score it on images of your own",
        *[
            f"- training step {item['step_time_ms']:.2f} ms (MAD {item['step_time_mad_ms']:.2f}, n {item['step_time_n']}) at "
            f"batch {recipe['batch_size']}, measured beside the training with seed {number}; the baseline "
            f"{manifest['baseline']['name']} in the same minutes: {item['ref_step_time_ms']:.2f} ms"
            for number, item in trained.trainings.items()
        ],
        _device(device),
        "",
        *_recipe(recipe),
    ]


def _of_training(trained: Trained) -> list[str]:
    assert trained.run is not None
    manifest, result = trained.run.manifest, trained.result
    data, recipe = manifest["data"], manifest["recipe"]
    size, last = trained.resolution, manifest["resolution"]
    lines = [
        "## Data, training, results",
        "",
        f"- data {data['name']} (fingerprint `{data['fingerprint']}`): {data['train_images']} training and "
        f"{data['val_images']} validation images, {data['classes']} classes",
        *[f"- {note}" for note in data["notes"]],
        f"- weights {trained.weights}",
        f"- trained at up to {last} x {last} pixels, scored at {size} x {size}, which is the input of this export"
        + ("" if size == last else f"; the network of the run says {last} (its hash is `{manifest['arch']['hash']}`)"),
    ]
    if "val_accuracy" in result:
        lines += [
            f"- accuracy of these weights: {_share(float(result['val_accuracy']), int(data['val_images']))}, on the validation "
            "images. They chose the epoch, so it is a little optimistic; score the network on images of its own (`nas predict`)"
        ]
    if "seconds" in result:
        lines += [f"- training took {float(result['seconds']):,.0f} s"]
    return [*lines, _device(manifest["device"]), "", *_recipe(recipe)]


def _share(accuracy: float, images: int) -> str:
    return f"{accuracy:.4f} ± {proportion_error(round(accuracy * images), images):.4f}"


def _device(device: Mapping[str, Any]) -> str:
    known = ", ".join(f"{key} {value}" for key, value in device.items() if key not in ("name", "type"))
    return f"- device {device.get('name', device.get('type'))} ({known})"


def _recipe(recipe: Mapping[str, Any]) -> list[str]:
    text = yaml.safe_dump(dict(recipe), sort_keys=False, default_flow_style=None).rstrip()
    return ["The recipe in full:", "", "```yaml", text, "```", ""]


def _preprocessing(source: Source) -> list[str]:
    subject = source.subject
    channels, size, _ = subject.shape
    kind = {1: "grey", 3: "RGB"}.get(channels, f"{channels} channels")
    lines = [
        "## Input and output",
        "",
        f"- input: float32, (N, {channels}, {size}, {size}), {kind}",
    ]
    if subject.images is None:
        return [*lines, "- normalisation and class names: not known here, for no images were named (`--data`)", ""]
    return [
        *lines,
        f"- from an image: turn it as EXIF says, cut the centre square, resize it {_sizes(subject.images.stored_size, size)}, "
        "each time to whole grey levels, divide by 255, subtract the mean, divide by the standard deviation",
        f"- mean {literal(subject.images.mean)}, standard deviation {literal(subject.images.std)}",
        f"- output: {len(subject.images.classes)} scores in the order of `labels.txt`; softmax makes shares of them",
        "",
    ]


def _sizes(stored: int | None, size: int) -> str:
    """Return the resizing of an image in words: the stored form of the data, then the network's input."""
    last = f"to {size} x {size} pixels (as PIL's BILINEAR does)"
    if stored is None:
        return last
    first = f"to {stored} x {stored} pixels (as PIL's BICUBIC does, unless it has that size)"
    return first if stored == size else f"{first}, then {last}"


def _checked(checks: Sequence[Check], left_out: Mapping[str, str]) -> list[str]:
    rows = [
        [
            item.format,
            f"{item.difference:.2g} (allowed {item.allowed:g})",
            str(item.random_images),
            str(item.val_images or "none"),
            "" if item.accuracy is None else f"{item.accuracy:.4f}",
            "" if item.source_accuracy is None else f"{item.source_accuracy:.4f}",
            "" if item.accuracy is None else str(item.changed),
        ]
        for item in checks
    ]
    heads = [
        "format",
        "largest difference",
        "random images",
        "validation images",
        "accuracy",
        "of the source",
        "other class",
    ]
    lines = [
        "## What was checked",
        "",
        "Each format was loaded again in a fresh process and compared with the network it was written from, image for image, "
        "on the CPU in float32. That process cannot import `nas`, nor anything else the format does without (with safetensors, "
        "`nas` builds the network that the tensors belong to). Differences are shares of the largest score of a batch.",
        "",
        *_table(heads, rows),
        "",
    ]
    if any(item.changed for item in checks):
        lines += ["Images that are given another class are ties: two scores lie closer than the difference above.", ""]
    for name, reason in left_out.items():
        lines += [f"Left out: {name}, for it has no exact way to say this network ({reason})", ""]
    return lines


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return ["| " + " | ".join(line) + " |" for line in (heads, ["---"] * len(heads), *rows)]
