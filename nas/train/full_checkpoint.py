"""The two files of weights of a training: `last.pt`, from which it continues, and `weights.safetensors`, the best so far.

`last.pt` is replaced whole at every epoch's end, and is there before the first: an epoch begins from it, whether the one before
ran in this process, in one that was killed, or was given up for want of memory.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from nas.errors import RunError
from nas.runs import write_bytes
from nas.train.full_loop import Training

LAST = "last.pt"
WEIGHTS = "weights.safetensors"


def save_last(path: Path, training: Training, facts: Mapping[str, Any]) -> None:
    """Replace the file from which a training continues.

    Args:
        facts: Plain data about the training so far, handed back by `load_last`.

    Raises:
        RunError: it cannot be written; the one before is as it was.
    """
    content = {
        "network": training.network.state_dict(),
        "ema": training.ema.state_dict() if training.ema else None,
        "optimizer": training.optimizer.state_dict(),
        "steps": training.steps,
        "micro_batch": training.micro_batch,
        "score_batch": training.score_batch,
        "facts": json.dumps(facts),
    }
    buffer = io.BytesIO()  # torch's own writer answers a full disk with an error that names no disk
    torch.save(content, buffer)
    write_bytes(path, buffer.getbuffer())


def load_last(path: Path, training: Training) -> dict[str, Any]:
    """Bring a training to where its file was written, and return the facts that went with it.

    Raises:
        RunError: the file is absent or damaged, or of another network.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        training.network.load_state_dict(content["network"])
        training.optimizer.load_state_dict(content["optimizer"])
        training.optimizer.zero_grad(set_to_none=True)
        if training.ema:
            training.ema.load_state_dict(content["ema"])
        training.steps = content["steps"]
        # With another number of processes the share of each is another one.
        training.micro_batch = min(training.micro_batch, content["micro_batch"])
        training.score_batch = min(training.score_batch, content["score_batch"])
        facts: dict[str, Any] = json.loads(content["facts"])
    except Exception as error:  # absent, or a damaged zip file or pickle: each library has errors of its own
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise RunError(
            f"{path}: cannot be read ({reason}), and the training continues from it. Put it back from a copy, or train anew: "
            "the best weights so far are in weights.safetensors."
        ) from error
    return facts


def save_weights(path: Path, state: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Replace the best weights, by timm's names (see `nas.models`).

    Args:
        facts: Plain values for the file's header: `arch_hash`, `epoch`, `val_accuracy`.

    Raises:
        RunError: they cannot be written; those before are as they were.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    write_bytes(path, save(tensors, {name: str(value) for name, value in facts.items()}))
