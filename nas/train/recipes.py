"""Training recipes: every number of a proxy training, in one frozen value that goes into the manifest."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import yaml

from nas.errors import UnknownNameError, UsageError, nearest
from nas.registry import Registry
from nas.train.schedule import Progressive


@dataclass(frozen=True)
class Recipe:
    """How a network is trained. The network itself is never changed by a recipe.

    Args:
        train_images, val_images: Images used, at most; a fixed-seed sample where the data has more.
        epochs: Passes over the training images, all phases together.
        progressive: Image sizes and regularisation by phase.
        batch_size: Images in a step, for training and for timing.
        learning_rate: Peak rate of AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101). One rate serves networks of
            every width better than SGD's or RMSProp's does in a training this short.
        betas, weight_decay: Of AdamW; norms and biases have no decay.
        warmup: Share of each phase in which the rate rises.
        label_smoothing: Szegedy et al. 2016, arXiv:1512.00567, section 7.
        flip: Mirror images at random (switch it off for digits and letters).
        crop_padding: Random shift, as a share of the image size. crop_scale: Least share of the area that a random
            crop keeps; 1 is off.
        clip_norm: Gradients longer than this are shortened to it.
    """

    name: str
    train_images: int
    val_images: int
    epochs: float
    progressive: Progressive
    batch_size: int
    learning_rate: float
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.02
    warmup: float = 0.2
    label_smoothing: float = 0.1
    flip: bool = True
    crop_padding: float = 0.125
    crop_scale: float = 1.0
    clip_norm: float = 5.0

    def document(self) -> dict[str, Any]:
        """Return the recipe as plain data, for manifests and files."""
        return asdict(self)


RECIPES: Registry[Recipe] = Registry("recipe")
RECIPES.register(
    "quick",
    Recipe(
        name="quick",
        train_images=6_000,
        val_images=2_000,
        epochs=1.5,
        progressive=Progressive(2, (0.5, 1.0)),
        batch_size=64,
        learning_rate=0.01,
        crop_padding=0.0625,
    ),
)
RECIPES.register(
    "standard",
    Recipe(
        name="standard",
        train_images=100_000,
        val_images=10_000,
        epochs=10,
        progressive=Progressive(4, (128 / 300, 1.0), (0, 5), (0, 0), (0.1, 0.3)),
        batch_size=128,
        learning_rate=0.004,
        crop_scale=0.35,
        crop_padding=0.0,
    ),
)


class _Loader(yaml.SafeLoader):
    """Takes 1e-3 for a number, as a space file does: YAML 1.1 takes it for text, for want of a point."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+"), list("-+.0123456789")
)


def load_recipe(name: str | os.PathLike[str]) -> Recipe:
    """Return a recipe by name, or from a YAML file that changes some keys of one (`extends: quick`).

    Raises:
        UnknownNameError: no such recipe. UsageError: a file with an unknown key or a value that cannot be used.
    """
    path = Path(name)
    if path.suffix not in {".yaml", ".yml"}:
        return RECIPES[os.fspath(name)]
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UsageError(f"{path}: cannot be read as a recipe ({error}). Give a YAML file of recipe keys.") from None
    if not isinstance(data, dict):
        raise UsageError(f"{path}: found {type(data).__name__}; a recipe is a mapping of keys.")
    return from_document({"name": path.stem, **data}, where=str(path))


def from_document(data: dict[str, Any], where: str) -> Recipe:
    """Return a recipe from plain data: all keys, or some and `extends`.

    Raises:
        UnknownNameError, UsageError: as `load_recipe`.
    """
    data = dict(data)
    base = RECIPES[str(data.pop("extends", "quick"))]
    changes: dict[str, Any] = {}
    for key, value in data.items():
        if key == "progressive":
            if not isinstance(value, dict):
                raise UsageError(f"{where}: progressive: found {value!r}; allowed: a mapping such as {{phases: 2}}.")
            spans: dict[str, Any] = {
                name: tuple(item) if isinstance(item, list) else item for name, item in value.items()
            }
            _known(where, spans, Progressive, "progressive.")
            changes[key] = replace(base.progressive, **spans)
        else:
            changes[key] = tuple(value) if isinstance(value, list) else value
    _known(where, changes, Recipe, "")
    recipe = replace(base, **changes)
    for key, (fits, allowed) in _ALLOWED.items():
        value = getattr(recipe, key)
        if not fits(value):
            raise UsageError(f"{where}: {key}: found {value!r}; allowed: {allowed}.")
    for key, (fits, allowed) in _ALLOWED_PROGRESSIVE.items():
        value = getattr(recipe.progressive, key)
        if not fits(value):
            raise UsageError(f"{where}: progressive.{key}: found {value!r}; allowed: {allowed}.")
    return recipe


def _number(value: object, least: float, most: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= most


def _count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _above_zero(value: object) -> bool:
    return _number(value, 5e-324, sys.float_info.max)


def _pair(least: float, most: float) -> _Test:
    fits: _Test = lambda value: (  # noqa: E731
        isinstance(value, tuple) and len(value) == 2 and all(_number(item, least, most) for item in value)
    )
    return fits


_Test = Callable[[Any], bool]

_ALLOWED: dict[str, tuple[_Test, str]] = {
    "name": (lambda value: isinstance(value, str), "a name"),
    "train_images": (_count, "a whole number from 1"),
    "val_images": (_count, "a whole number from 1"),
    "epochs": (_above_zero, "a number above 0"),
    "batch_size": (lambda value: _count(value) and value >= 2, "a whole number from 2"),
    "learning_rate": (_above_zero, "a number above 0"),
    "betas": (_pair(0, 1 - 1e-9), "two numbers from 0, below 1"),
    "weight_decay": (lambda value: _number(value, 0, sys.float_info.max), "a number from 0"),
    "warmup": (lambda value: _number(value, 0, 1 - 1e-9), "a number from 0, below 1"),
    "label_smoothing": (lambda value: _number(value, 0, 1), "a number from 0 to 1"),
    "flip": (lambda value: isinstance(value, bool), "true or false"),
    "crop_padding": (lambda value: _number(value, 0, 1), "a number from 0 to 1"),
    "crop_scale": (lambda value: _number(value, 1e-6, 1), "a number above 0, up to 1"),
    "clip_norm": (_above_zero, "a number above 0"),
}

_ALLOWED_PROGRESSIVE: dict[str, tuple[_Test, str]] = {
    "phases": (_count, "a whole number from 1"),
    "size": (
        lambda value: _pair(1e-6, 1)(value) and value[0] <= value[1] == 1,
        "two shares of the network's resolution, the second 1 (a network is trained last at its own)",
    ),
    "magnitude": (_pair(0, sys.float_info.max), "two numbers from 0"),
    "mixup": (_pair(0, sys.float_info.max), "two numbers from 0"),
    "dropout": (_pair(0, 1 - 1e-9), "two numbers from 0, below 1"),
    "rule": (lambda value: value in ("paper", "shipped"), "paper or shipped"),
    "multiple": (_count, "a whole number from 1"),
}


def _known(where: str, found: dict[str, Any], kind: type, prefix: str) -> None:
    known = [item.name for item in fields(kind)]
    for key in found:
        if key not in known:
            raise UnknownNameError(
                f"{where}: {prefix}{key}: unknown key. Known: {', '.join(known)}.{nearest(key, known)}"
            )
