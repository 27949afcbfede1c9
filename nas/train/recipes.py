"""Training recipes: every number of a proxy training, in one frozen value that goes into the manifest."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from typing import Any

from nas.registry import Registry
from nas.train.recipe_files import (
    ABOVE_ZERO,
    ABOVE_ZERO_SHARE,
    BATCH,
    BELOW_ONE,
    BETAS,
    COUNT,
    FROM_ZERO,
    NAME,
    SHARE,
    SWITCH,
    Allowed,
    changed,
    checked,
    load,
    one_of,
)
from nas.train.schedule import Progressive

AUTO = "auto"


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
        precision: Of the forward pass: `float32`, or `bfloat16` by autocast; `auto` is what pays on the device.
        layout: Of images and weights: `channels_last` or `contiguous`; `auto` is what pays on the device.
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
    precision: str = AUTO
    layout: str = AUTO

    def document(self) -> dict[str, Any]:
        """Return the recipe as plain data, for manifests and files; what is left open is left out, as in older files."""
        found = asdict(self)
        return {name: value for name, value in found.items() if name not in ("precision", "layout") or value != AUTO}

    def computation(self, device_type: str) -> dict[str, str]:
        """Return precision and layout on a device, as a manifest has them beside its name."""
        low = "bfloat16 autocast" if self.is_low(device_type) else "float32"
        return {"precision": low, "layout": "channels_last" if self.layout == AUTO else self.layout}

    def is_low(self, device_type: str) -> bool:
        """Whether the forward pass runs in bfloat16: on `cuda` unless the recipe says otherwise."""
        return self.precision == "bfloat16" or (self.precision == AUTO and device_type == "cuda")


RECIPES: Registry[Recipe] = Registry("recipe")
RECIPES.register(
    "quick",
    Recipe(
        name="quick",
        train_images=6_000,
        val_images=2_000,
        epochs=1.5,
        progressive=Progressive(2, (0.5, 1.0)),
        # Batches of 32 make twice the steps of so short a training: networks come out in a better order (benchmarks.fidelity).
        batch_size=32,
        learning_rate=0.007,
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


def load_recipe(name: str | os.PathLike[str]) -> Recipe:
    """Return a recipe by name, or from a YAML file that changes some keys of one (`extends: quick`).

    Raises:
        UnknownNameError: no such recipe. UsageError: a file with an unknown key or a value that cannot be used.
    """
    return load(name, RECIPES, from_document)


def from_document(data: dict[str, Any], where: str) -> Recipe:
    """Return a recipe from plain data: all keys, or some and `extends`.

    Raises:
        UnknownNameError, UsageError: as `load_recipe`.
    """
    data = dict(data)
    base = RECIPES[str(data.pop("extends", "quick"))]
    return checked(changed(base, data, where), where, _ALLOWED)


_ALLOWED: Allowed = {
    "name": NAME,
    "train_images": COUNT,
    "val_images": COUNT,
    "epochs": ABOVE_ZERO,
    "batch_size": BATCH,
    "learning_rate": ABOVE_ZERO,
    "betas": BETAS,
    "weight_decay": FROM_ZERO,
    "warmup": BELOW_ONE,
    "label_smoothing": SHARE,
    "flip": SWITCH,
    "crop_padding": SHARE,
    "crop_scale": ABOVE_ZERO_SHARE,
    "clip_norm": ABOVE_ZERO,
    "precision": one_of(AUTO, "float32", "bfloat16"),
    "layout": one_of(AUTO, "channels_last", "contiguous"),
}
