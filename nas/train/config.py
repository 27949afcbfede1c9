"""What a training is asked to do. Every setting and its default is documented here, once."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from nas.data import BUILTIN
from nas.errors import UsageError
from nas.registry import settings_of
from nas.train.full_recipes import FullRecipe, full_checked, load_full_recipe

PATHS = ("weights", "out")


def option(name: str) -> str:
    """Return the option of the command line that a setting has."""
    return f"--{name.replace('_', '-')}"


@dataclass(frozen=True)
class TrainConfig:
    """The settings of a training.

    Args:
        data: `fashion-mnist-subset` (built in), a folder or archive of images by class, or another source of `nas.data`.
        skip_broken: Leave out images that cannot be read, and count them, in place of stopping at them.
        recipe: A name (see `nas.train.full_recipes`) or a YAML file that changes some keys of one.
        epochs, batch_size: In place of the recipe's; None keeps them. The batch is that of all devices together.
        learning_rate: The peak, in place of the recipe's and as it stands: not scaled with the batch.
        micro_batch: Images that a device computes at a time, at most: its share of a batch is split, as where memory does not
            suffice. None begins with the whole share.
        resolution: Pixels of the last phase, in place of the network's own.
        weights: File of weights to begin with; None begins with fresh ones.
        compile: Compile the training step with torch.compile.
        device: `auto`, `cpu`, `cuda`, `cuda:1`; `auto` is CUDA where there is a device.
        seed: Of fresh weights, order, augmentation, dropout and drop path.
        out: Run folder; None makes `results/<time>-train-<network>-<device>`.
    """

    data: str = BUILTIN
    skip_broken: bool = False
    recipe: str = "standard"
    epochs: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    micro_batch: int | None = None
    resolution: int | None = None
    weights: Path | None = None
    compile: bool = False
    device: str = "auto"
    seed: int = 0
    out: Path | None = None

    def __post_init__(self) -> None:
        for name in ("data", "recipe", *PATHS):  # a path in place of a name, and a name in place of a path
            value = getattr(self, name)
            if name in PATHS and value is None:
                continue
            if not isinstance(value, str | os.PathLike):
                raise _wrong_kind(name, value, "a name, or the path of a file or folder")
            object.__setattr__(self, name, Path(value) if name in PATHS else os.fspath(value))
        if not isinstance(self.device, str):
            raise _wrong_kind("device", self.device, "text")
        for name in ("skip_broken", "compile"):
            if not isinstance(getattr(self, name), bool):
                raise _wrong_kind(name, getattr(self, name), "True or False")
        for name, least in (("epochs", 1), ("batch_size", 2), ("micro_batch", 2), ("resolution", 8), ("seed", 0)):
            value = getattr(self, name)
            if value is None and name != "seed":
                continue
            if not isinstance(value, int) or isinstance(value, bool):
                raise _wrong_kind(name, value, "a whole number")
            if value < least:
                raise UsageError(f"{option(name)}: found {value}; allowed: {least} or more.")
        rate = self.learning_rate
        if rate is not None and (not isinstance(rate, int | float) or isinstance(rate, bool)):
            raise _wrong_kind("learning_rate", rate, "a number")
        if rate is not None and not 0 < rate < 1e6:
            raise UsageError(f"{option('learning_rate')}: found {rate:g}; allowed: a number above 0.")

    def document(self) -> dict[str, Any]:
        """Return the settings as plain data, for the manifest."""
        return {name: str(value) if isinstance(value, Path) else value for name, value in asdict(self).items()}


def _wrong_kind(name: str, value: object, allowed: str) -> UsageError:
    shown = repr(value) if isinstance(value, str | int | float) else f"a {type(value).__name__}"
    return UsageError(f"{option(name)}: found {shown}; allowed: {allowed}. Give that instead.")


def from_settings(settings: dict[str, Any], where: str) -> TrainConfig:
    """Return the settings that were given by name.

    Raises:
        UnknownNameError: no such setting.
    """
    return settings_of(TrainConfig, settings, where)


def from_document(data: dict[str, Any]) -> TrainConfig:
    """Return the settings that a manifest holds."""
    return from_settings(dict(data), "manifest.json: config")


def recipe_of(config: TrainConfig) -> FullRecipe:
    """Return the recipe of a training, with the settings in place of its own.

    With other epochs the schedule keeps its shape: warm-up, frozen epochs and the steps of an exponential fall shrink or
    grow with them.

    Raises:
        UnknownNameError, UsageError: no such recipe, or one that the settings do not go with.
    """
    recipe = load_full_recipe(config.recipe)
    changes: dict[str, Any] = {}
    if config.epochs is not None:
        by = config.epochs / recipe.epochs
        # A fresh classifier wants an epoch alone, however short the training: its gradients would spoil the rest.
        least = 1 if recipe.freeze_epochs and config.epochs > 1 else 0
        changes |= {
            "epochs": config.epochs,
            "warmup_epochs": recipe.warmup_epochs * by,
            "decay_epochs": recipe.decay_epochs * by,
            "freeze_epochs": max(least, round(recipe.freeze_epochs * by)),
        }
    if config.batch_size is not None:
        changes["batch_size"] = config.batch_size
    if config.learning_rate is not None:
        changes |= {"learning_rate": config.learning_rate, "learning_rate_batch": 0}
    recipe = full_checked(replace(recipe, **changes), f"recipe {recipe.name}")
    if recipe.needs_weights and config.weights is None:
        raise UsageError(
            f"recipe {recipe.name}: begins from trained weights; found none. Give them with --weights FILE, or take another "
            "--recipe."
        )
    return recipe
