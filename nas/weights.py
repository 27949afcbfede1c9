"""Weights from a file into a network: timm's checkpoints, this program's own, plain state dicts. Only tensors are read.

A `.safetensors` file holds nothing else; of a pickle (`.pt`, `.pth`, `.bin`, `.tar`) torch reads tensors and plain values and
refuses the rest, so that a file from elsewhere runs no code.
"""

from __future__ import annotations

import argparse
import os
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from nas.errors import WeightsError

_INSIDE = ("state_dict_ema", "model_ema", "state_dict", "model", "state", "ema", "network")
"""Where training programs put the weights in their checkpoints. The averaged ones come first: they are what is evaluated."""

_SHOWN = 3

_PREFIX = re.compile(r"^(?:module\.|_orig_mod\.)+")
"""What the names of a network begin with that was wrapped for several devices, or compiled."""


def load_weights(network: nn.Module, path: str | os.PathLike[str]) -> None:
    """Load the weights of a file into a network, all of them and nothing else.

    Tensors are named as timm names them (see `nas.models`), so that a checkpoint of timm's model fits the network of the
    same reference file, and the other way round. Shapes and names must match; values are converted to the network's types. Of a
    checkpoint with averaged weights beside the plain ones (`state_dict_ema`, `model_ema`, `ema` in the `last.pt` of a training)
    the averaged ones are taken.

    Raises:
        WeightsError: no such file, a file that holds no weights, or weights of another network; the first names and shapes
            that differ are in the message. The network is then as it was: nothing is loaded before all is checked.
    """
    _load(network, read_weights(Path(path)), Path(path))


def load_backbone(network: nn.Module, path: str | os.PathLike[str]) -> int | None:
    """Load the weights of a file into a network for other classes: all but the classifier, where that has another size.

    Returns:
        The number of classes of the file, where its classifier was left out and the network's is as it was; else None.

    Raises:
        WeightsError: as `load_weights`; only the classifier may differ.
    """
    found, wanted = read_weights(Path(path)), network.state_dict()
    last = list(wanted)[-1].rpartition(".")[0]
    names = [name for name in wanted if name.rpartition(".")[0] == last]
    other = [name for name in names if name in found and found[name].shape != wanted[name].shape]
    # Another width of its input is another network: only the classes, its first dimension, may differ.
    if not other or any(found[name].shape[1:] != wanted[name].shape[1:] for name in other):
        load_weights(network, path)
        return None
    _load(network, {**found, **{name: wanted[name] for name in names}}, Path(path))
    return len(found[other[0]])


def _load(network: nn.Module, found: Mapping[str, Tensor], where: Path) -> None:
    wanted = network.state_dict()
    # Counters of training steps, which no output depends on, and which files converted from TensorFlow lack.
    counters = {name: tensor for name, tensor in wanted.items() if name.endswith("num_batches_tracked")}
    found = counters | dict(found)
    problems = [
        *_listed("missing", [name for name in wanted if name not in found]),
        *_listed("not in the network", [name for name in found if name not in wanted]),
        *_listed(
            "of another shape",
            [
                f"{name} {tuple(found[name].shape)} (the network has {tuple(tensor.shape)})"
                for name, tensor in wanted.items()
                if name in found and found[name].shape != tensor.shape
            ],
        ),
        *_listed("not plain, finite numbers", [name for name, tensor in found.items() if not _is_plain(tensor)]),
    ]
    if problems:
        raise WeightsError(
            f"{where}: the weights are not of this network: {'; '.join(problems)}. Build the network that they were trained "
            "in (the same file, resolution apart, and the same number of classes)."
        )
    network.load_state_dict(found, strict=True)


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file by name, from wherever in a checkpoint they are.

    Raises:
        WeightsError: no such file, or a file that holds no weights.
    """
    if not path.is_file():
        raise WeightsError(f"{path}: no such file. Give a .safetensors, .pt or .pth file.")
    try:
        content: Any = load_file(path) if _is_safetensors(path) else _load_pickle(path)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path}: refused: it is a pickle of more than tensors and plain values, which could run code, or no file of "
            f"weights at all ({_reason(error)}). Save the state dict alone, best as .safetensors."
        ) from None
    except Exception as error:  # a damaged file: zip, pickle and each version of torch have errors of their own
        raise WeightsError(f"{path}: cannot be read as weights ({_reason(error)}). Give a whole file.") from None
    state = _state(content)
    if state is None:
        keys = ", ".join(map(str, list(content)[:5])) if isinstance(content, Mapping) else ""
        what = f"the keys {keys}" if keys else f"an empty or unnamed {type(content).__name__}"
        raise WeightsError(
            f"{path}: holds no weights: found {what}; allowed: tensors by name, or these under {', '.join(_INSIDE)}."
        )
    plain = {_PREFIX.sub("", name): tensor for name, tensor in state.items()}
    if len(plain) != len(state):
        raise WeightsError(
            f"{path}: some tensors are there twice, with and without a prefix such as `module.`. Keep one."
        )
    return plain


def _load_pickle(path: Path) -> Any:
    # timm's training program stores its options beside the weights; a namespace is a plain value.
    with torch.serialization.safe_globals([argparse.Namespace]):
        return torch.load(path, map_location="cpu", weights_only=True)


def _is_safetensors(path: Path) -> bool:
    """Tell by the first bytes, for files are renamed: the length of a JSON header, and its bracket."""
    with path.open("rb") as stream:
        return path.suffix.lower() == ".safetensors" or stream.read(9)[8:] == b"{"


def _state(content: Any) -> dict[str, Tensor] | None:
    """Return the tensors by name, from the mapping itself or from under one of the usual keys; at most two deep."""
    for _ in range(3):
        if not isinstance(content, Mapping):
            return None
        inside = next((content[key] for key in _INSIDE if isinstance(content.get(key), Mapping) and content[key]), None)
        if inside is None:
            # Beside the weights there may be numbers, such as an epoch.
            found = {key: value for key, value in content.items() if isinstance(key, str) and isinstance(value, Tensor)}
            return found or None
        content = inside
    return None


def _is_plain(tensor: Tensor) -> bool:
    """Tell whether a tensor is an ordinary array of real numbers, that can be copied into a network."""
    return (
        tensor.layout == torch.strided
        and not (tensor.is_complex() or tensor.is_quantized or tensor.is_meta)
        and bool(tensor.isfinite().all())
    )


def _listed(what: str, names: list[str]) -> list[str]:
    if not names:
        return []
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return [f"{what}: {', '.join(names[:_SHOWN])}{more}"]


def _reason(error: Exception) -> str:
    """Return the part of torch's message that says what it found, without its advice to trust the file."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = next((line for line in lines if "GLOBAL" in line or "Unsupported" in line), lines[0] if lines else "")
    return (said or type(error).__name__).partition(" Please use")[0][:200]
