"""Checkpoints: what is known of a training at the end of a phase, so that a crash costs the phase in flight and no more.

One file for each training in flight (and for the best networks, whose weights are kept), replaced at every phase's end:
`<arch_hash>-s<seed>.pt`, with the results of all phases so far, the network's weights and the optimiser's state. It is
written whole or not at all, and it is what makes a phase count as done.
"""

from __future__ import annotations

import io
import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from nas.errors import RunError
from nas.evaluate import PhaseResult, from_document
from nas.runs import write_bytes

FOLDER = "checkpoints"


def path_of(folder: Path, key: str) -> Path:
    """Return the file of a training."""
    return folder / f"{key}.pt"


def make(folder: Path) -> None:
    """Make the folder of checkpoints.

    Raises:
        RunError: it cannot be made.
    """
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise RunError(f"{folder}: cannot be made ({error.strerror}). Make the run folder writable.") from None


def save(folder: Path, key: str, results: Sequence[PhaseResult], state: Mapping[str, Any] | None) -> None:
    """Replace the checkpoint of a training.

    Args:
        results: Of all its phases so far. state: Tensors and plain values; None after phase 0, which trains nothing.

    Raises:
        RunError: it cannot be written; the one of the phase before is as it was.
    """
    content = {"results": json.dumps([result.document() for result in results]), "state": state}
    buffer = io.BytesIO()  # torch's own writer answers a full disk with an error that names no disk
    torch.save(content, buffer)
    write_bytes(path_of(folder, key), buffer.getbuffer())


def load(folder: Path, key: str) -> tuple[tuple[PhaseResult, ...], dict[str, Any] | None]:
    """Return the results and the state of a training; none and None where it has no checkpoint.

    Raises:
        RunError: the file is damaged.
    """
    path = path_of(folder, key)
    if not path.exists():
        return (), None
    try:
        # Mapped, so that who wants the results alone does not read the weights.
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        return tuple(from_document(item) for item in json.loads(content["results"])), content["state"]
    except Exception as error:  # a damaged zip file, pickle or JSON: each library has errors of its own
        raise RunError(
            f"{path}: cannot be read as a checkpoint ({str(error).splitlines()[0]}). Delete it; its training then begins anew."
        ) from error


def keep_only(folder: Path, keys: Collection[str], seeds: Collection[int]) -> None:
    """Delete the checkpoints of all other trainings with these seeds."""
    for seed in seeds:
        for path in folder.glob(f"*-s{seed}.pt"):
            if path.stem not in keys:
                path.unlink(missing_ok=True)
