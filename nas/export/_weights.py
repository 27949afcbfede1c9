"""Weights from a file into a network. The one place that reads them, so that it can be replaced as one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from nas.errors import ExportError
from nas.models import Network


def load_weights(network: Network, path: str | os.PathLike[str]) -> None:
    """Give a network the tensors of a `.safetensors` file, a state dict of torch, or a checkpoint of a search.

    Raises:
        ExportError: the file cannot be read, or holds other tensors than the network has.
    """
    path = Path(path)
    try:
        state: Any = (
            load_file(path)
            if path.suffix == ".safetensors"
            else torch.load(path, map_location="cpu", weights_only=True)
        )
    except (OSError, SafetensorError) as error:
        raise ExportError(f"{path}: cannot be read ({error}). Give a .safetensors, .pt or .pth file.") from None
    except Exception as error:  # a damaged zip file or pickle: torch has no error of its own for it
        raise ExportError(
            f"{path}: cannot be read as weights ({str(error).splitlines()[0]}). Give a .safetensors, .pt or .pth file."
        ) from None
    if isinstance(state, dict) and isinstance(state.get("state"), dict):
        state = state["state"].get("network")  # a checkpoint of a search
    if not (isinstance(state, dict) and all(isinstance(value, torch.Tensor) for value in state.values())):
        raise ExportError(f"{path}: holds no state dict. Give the tensors of a network by name.")
    try:
        network.load_state_dict(state, strict=True)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()[1:]]
        more = f" (and {len(lines) - 2} more)" if len(lines) > 2 else ""
        raise ExportError(
            f"{path}: does not fit the architecture: {' '.join(lines[:2])[:400]}{more} Give the weights of this network."
        ) from None
