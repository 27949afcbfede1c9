"""Weights from a file into a network: timm's checkpoints, this program's own, plain state dicts. Only tensors are read.

A `.safetensors` file holds nothing else; of a pickle (`.pt`, `.pth`, `.bin`, `.tar`) torch reads tensors and plain values and
refuses the rest, so that a file from elsewhere runs no code.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from nas.errors import WeightsError

_INSIDE = ("state_dict_ema", "model_ema", "state_dict", "model", "state", "network")
"""Where training programs put the weights in their checkpoints. The averaged ones come first: they are what is evaluated."""

_SHOWN = 3


def load_weights(network: nn.Module, path: str | os.PathLike[str]) -> None:
    """Load the weights of a file into a network, all of them and nothing else.

    Tensors are named as timm names them (see `nas.models`), so that a checkpoint of timm's model fits the network of the
    same reference file, and the other way round. Shapes and names must match; values are converted to the network's types.

    Raises:
        WeightsError: no such file, a file that holds no weights, or weights of another network; the first names and shapes
            that differ are in the message. The network is then as it was.
    """
    where = Path(path)
    found, wanted = read_weights(where), network.state_dict()
    # Counters of training steps, which no output depends on, and which files converted from TensorFlow lack.
    counters = {name: tensor for name, tensor in wanted.items() if name.endswith("num_batches_tracked")}
    found = counters | found
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
        content: Any = (
            load_file(path)
            if path.suffix == ".safetensors"
            else torch.load(path, map_location="cpu", weights_only=True)
        )
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path}: refused: it is a pickle of more than tensors and plain values, which could run code ({_reason(error)}). "
            "Save the state dict alone, best as .safetensors."
        ) from None
    except (SafetensorError, RuntimeError, OSError, ValueError, EOFError, KeyError) as error:
        raise WeightsError(f"{path}: cannot be read as weights ({_reason(error)}). Give a whole file.") from None
    while not _is_state(content):
        inside = next((key for key in _INSIDE if isinstance(content, Mapping) and content.get(key)), None)
        if inside is None:
            keys = ", ".join(map(str, list(content)[:5])) if isinstance(content, Mapping) else ""
            what = f"the keys {keys}" if keys else f"an empty or unnamed {type(content).__name__}"
            raise WeightsError(
                f"{path}: holds no weights: found {what}; allowed: tensors by name, or these under {', '.join(_INSIDE)}."
            )
        content = content[inside]
    # A network wrapped for several devices, or compiled, saves its names with a prefix.
    return {name.removeprefix("module.").removeprefix("_orig_mod."): tensor for name, tensor in content.items()}


def _is_state(content: Any) -> bool:
    return isinstance(content, Mapping) and bool(content) and all(isinstance(v, Tensor) for v in content.values())


def _listed(what: str, names: list[str]) -> list[str]:
    if not names:
        return []
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return [f"{what}: {', '.join(names[:_SHOWN])}{more}"]


def _reason(error: Exception) -> str:
    """Return the part of torch's message that says what it found; its first sentences are advice to disable the check."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = next((line for line in lines if "GLOBAL" in line or "Unsupported" in line), lines[0] if lines else "")
    return (said or type(error).__name__)[:200]
