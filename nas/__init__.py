"""Neural architecture search with measured training time, for PyTorch.

`nas` finds a network that is accurate and cheap to train on your images and your device: a space of
architectures in YAML, an Optuna study over it, short trainings with progressive resizing, and step times
measured where the network will be trained. The functions below are imported on first use, so `import nas`
loads neither torch nor optuna.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nas.catalog import load_arch as load_arch
    from nas.catalog import load_space as load_space
    from nas.models import build as build
    from nas.report import load_run as load_run
    from nas.search import search as search
    from nas.train.session import resume_training as resume_training
    from nas.train.session import train_network as train_network
    from nas.weights import load_weights as load_weights

__version__ = "0.1.0"

__all__ = [
    "__version__",
    "build",
    "load_arch",
    "load_run",
    "load_space",
    "load_weights",
    "resume_training",
    "search",
    "train_network",
]

_HOMES = {
    "build": "nas.models",
    "load_arch": "nas.catalog",
    "load_run": "nas.report",
    "load_space": "nas.catalog",
    "load_weights": "nas.weights",
    "resume_training": "nas.train.session",
    "train_network": "nas.train.session",
}


def __getattr__(name: str) -> Any:
    """Import a public function on first use."""
    if name == "search":  # the package itself, which can be called: one name, whichever was imported first
        return import_module("nas.search")
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'nas' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
