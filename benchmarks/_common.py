"""What every benchmark shares: where it ran, with what, and JSON that is whole or absent."""

from __future__ import annotations

import argparse
import json
import platform
import re
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import nas
from nas.devices import describe_device
from nas.runs import git_revision, write_json


def conditions(device: torch.device) -> dict[str, Any]:
    """Return device, versions and revision, for the head of a result file."""
    return {
        "device": describe_device(device),
        "cuda": torch.version.cuda,
        "versions": {
            "phinas": nas.__version__,
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "optuna", "numpy")},
        },
        "command": command(),
        "git": git_revision(),
        "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def command() -> str:
    """Return the command that runs, with the names of files in place of their places on this machine."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    name = spec.name.removesuffix(".__main__") if spec is not None else Path(sys.argv[0]).name
    return " ".join(["python -m", name, *map(_placeless, sys.argv[1:])])


def settings(options: argparse.Namespace) -> dict[str, str]:
    """Return the options of a command as text, but for where it writes."""
    return {name: _placeless(str(value)) for name, value in vars(options).items() if name != "out"}


def _placeless(word: str) -> str:
    return Path(word).name if word.startswith("/") else word


def folder(device: torch.device, root: Path) -> Path:
    """Return (and make) the folder of a device's results: `<root>/<device name>`."""
    name = re.sub(r"[^A-Za-z0-9]+", "-", describe_device(device)["name"]).strip("-").lower()
    path = root / name
    path.mkdir(parents=True, exist_ok=True)
    return path


def stored(path: Path) -> dict[str, Any]:
    """Return what a result file holds, or nothing where there is none yet."""
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return found


def store(path: Path, content: dict[str, Any]) -> None:
    """Write a result file, whole or not at all."""
    write_json(path, content)
