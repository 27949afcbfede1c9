"""Recipes of a full training: every number that makes a network of an architecture, in one frozen value."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from nas.errors import UsageError
from nas.registry import Registry
from nas.train.recipe_files import (
    ABOVE_ZERO,
    ABOVE_ZERO_SHARE,
    BATCH,
    BELOW_ONE,
    BETAS,
    COUNT,
    COUNT_FROM_ZERO,
    FROM_ONE,
    FROM_ZERO,
    MOST_BELOW_ONE,
    NAME,
    SHARE,
    SPAN,
    SWITCH,
    Allowed,
    between,
    changed,
    checked,
    load,
    number,
    one_of,
)
from nas.train.schedule import PRESETS, Phase, Progressive, Schedule, Span, epoch_rate, phases
from nas.train.schedule import between as interpolated


@dataclass(frozen=True)
class FullRecipe:
    """How a network is trained to be used. The network itself is never changed by a recipe.

    Args:
        epochs: Passes over the training images, all phases together; at least one for each phase.
        batch_size: Images in an optimiser step.
        progressive: Image sizes and regularisation by phase.
        cutmix: Alpha of CutMix in the first and in the last phase; 0 is off. Where mixup is on too, each does half a batch.
        optimizer: `rmsprop_tf` is TensorFlow's RMSProp, which the EfficientNets were trained with.
        learning_rate: Highest rate, for `learning_rate_batch` images in a step: the rate grows in proportion to the batch
            (Goyal et al. 2017, arXiv:1706.02677). With `learning_rate_batch` 0 it is the rate, whatever the batch.
        momentum, nesterov: Of RMSProp and SGD. alpha: RMSProp's decay of squared gradients. eps: Of RMSProp and AdamW.
            betas: Of AdamW.
        weight_decay: Of AdamW apart from the gradient (arXiv:1711.05101), of the others as an L2 term in it.
        decay_norms_and_biases: Whether one-dimensional parameters have weight decay too.
        schedule: How the rate falls after the warm-up; see `nas.train.schedule.epoch_rate`, also for `warmup_epochs`,
            `warmup_learning_rate`, `decay_rate`, `decay_epochs`, `staircase`, `decay_from_start` and `min_learning_rate`.
        ema_decay: Decay of the moving average of the weights, which is what is scored and kept; 0 is off. ema_warmup:
            Whether it is at most (1 + n) / (10 + n) at step n.
        label_smoothing: Szegedy et al. 2016, arXiv:1512.00567, section 7.
        clip_norm: Gradients longer than this are shortened to it; 0 is off.
        drop_path: Rate of the last block's stochastic depth; None is the network's own.
        flip, crop_padding, crop_scale: As in `nas.data.augment.Augment`.
        erasing: Probability that a random box of an image is erased; 0 is off.
        test_size: Size of the images that are scored, as a share of the last phase's.
        freeze_epochs: Epochs at the beginning in which only the classifier learns. freeze_norm: Whether batch norms keep
            the statistics that they came with. Both only make sense with weights to begin from.
        needs_weights: Whether the recipe begins from given weights.
    """

    name: str
    epochs: int
    batch_size: int
    progressive: Progressive
    learning_rate: float
    learning_rate_batch: int = 0
    cutmix: Span = (0.0, 0.0)
    optimizer: Literal["rmsprop_tf", "sgd", "adamw"] = "adamw"
    momentum: float = 0.9
    nesterov: bool = False
    alpha: float = 0.9
    eps: float = 1e-8
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.05
    decay_norms_and_biases: bool = False
    schedule: Schedule = "cosine"
    warmup_epochs: float = 0.0
    warmup_learning_rate: float = 0.0
    decay_rate: float = 0.97
    decay_epochs: float = 2.4
    staircase: bool = False
    decay_from_start: bool = False
    min_learning_rate: float = 0.0
    ema_decay: float = 0.0
    ema_warmup: bool = True
    label_smoothing: float = 0.1
    clip_norm: float = 0.0
    drop_path: float | None = None
    flip: bool = True
    crop_padding: float = 0.0
    crop_scale: float = 1.0
    erasing: float = 0.0
    test_size: float = 1.0
    freeze_epochs: int = 0
    freeze_norm: bool = False
    needs_weights: bool = False

    def document(self) -> dict[str, Any]:
        """Return the recipe as plain data, for manifests and files."""
        return asdict(self)

    def rate(self) -> float:
        """Return the highest learning rate at the recipe's own batch."""
        return self.learning_rate * (self.batch_size / self.learning_rate_batch if self.learning_rate_batch else 1.0)

    def rate_at(self, epoch: float) -> float:
        """Return the learning rate after a number of epochs, which may be a fraction."""
        return epoch_rate(
            epoch,
            peak=self.rate(),
            schedule=self.schedule,
            epochs=self.epochs,
            warmup_epochs=self.warmup_epochs,
            warmup_learning_rate=self.warmup_learning_rate,
            decay_rate=self.decay_rate,
            decay_epochs=self.decay_epochs,
            staircase=self.staircase,
            decay_from_start=self.decay_from_start,
            minimum=self.min_learning_rate,
        )

    def test_resolution(self, resolution: int) -> int:
        """Return the size of the images that are scored (pixels), where the last phase's is `resolution`."""
        return round(resolution * self.test_size)


FULL_RECIPES: Registry[FullRecipe] = Registry("training recipe")


def full_phases(recipe: FullRecipe, resolution: int) -> tuple[Phase, ...]:
    """Return the phases of a full training of a network at a resolution (pixels), each with a whole number of epochs.

    Epochs that cannot be shared equally go to the later phases, one each: those at the sizes that count in the end.
    """
    plan = phases(recipe.progressive, resolution, recipe.epochs)
    share, rest = divmod(recipe.epochs, len(plan))
    return tuple(
        replace(
            phase,
            epochs=share + (index >= len(plan) - rest),
            cutmix=interpolated(recipe.cutmix, 1.0 if len(plan) == 1 else index / (len(plan) - 1)),
        )
        for index, phase in enumerate(plan)
    )


def load_full_recipe(name: str | os.PathLike[str]) -> FullRecipe:
    """Return a recipe by name, or from a YAML file that changes some keys of one (`extends: standard`).

    Raises:
        UnknownNameError: no such recipe. UsageError: a file with an unknown key or a value that cannot be used.
    """
    return load(name, FULL_RECIPES, full_from_document)


def full_from_document(data: dict[str, Any], where: str) -> FullRecipe:
    """Return a recipe from plain data: all keys, or some and `extends`.

    Raises:
        UnknownNameError, UsageError: as `load_full_recipe`.
    """
    data = dict(data)
    base = FULL_RECIPES[str(data.pop("extends", "standard"))]
    return full_checked(changed(base, data, where), where)


def full_checked(recipe: FullRecipe, where: str) -> FullRecipe:
    """Return the recipe, all of whose values are allowed, alone and together.

    Raises:
        UsageError: the first value that is not.
    """
    checked(recipe, where, ALLOWED)
    plan, backbone = (
        recipe.progressive.phases,
        "0, or needs_weights: true (untrained layers cannot be kept as they are)",
    )
    together = (
        ("epochs", recipe.epochs >= plan, f"a whole number from {plan}, the number of phases"),
        ("warmup_epochs", recipe.warmup_epochs < recipe.epochs, f"a number below the epochs, {recipe.epochs}"),
        ("freeze_epochs", recipe.freeze_epochs <= recipe.epochs, f"a whole number up to the epochs, {recipe.epochs}"),
        ("freeze_epochs", recipe.needs_weights or not recipe.freeze_epochs, backbone),
        ("freeze_norm", recipe.needs_weights or not recipe.freeze_norm, backbone.replace("0", "false", 1)),
        (
            "min_learning_rate",
            recipe.min_learning_rate <= recipe.rate(),
            f"a number up to the highest, {recipe.rate()}",
        ),
        ("nesterov", recipe.momentum > 0 or not recipe.nesterov, "false, or momentum above 0"),
        ("nesterov", recipe.optimizer == "sgd" or not recipe.nesterov, "false, or optimizer: sgd"),
    )
    for key, fits, words in together:
        if not fits:
            raise UsageError(f"{where}: {key}: found {getattr(recipe, key)!r}; allowed: {words}.")
    return recipe


ALLOWED: Allowed = {
    "name": NAME,
    "epochs": COUNT,
    "batch_size": BATCH,
    "learning_rate": ABOVE_ZERO,
    "learning_rate_batch": COUNT_FROM_ZERO,
    "cutmix": SPAN,
    "optimizer": one_of("rmsprop_tf", "sgd", "adamw"),
    "momentum": BELOW_ONE,
    "nesterov": SWITCH,
    "alpha": BELOW_ONE,
    "eps": ABOVE_ZERO,
    "betas": BETAS,
    "weight_decay": FROM_ZERO,
    "decay_norms_and_biases": SWITCH,
    "schedule": one_of("exponential", "cosine", "constant"),
    "warmup_epochs": FROM_ZERO,
    "warmup_learning_rate": FROM_ZERO,
    "decay_rate": ABOVE_ZERO_SHARE,
    "decay_epochs": ABOVE_ZERO,
    "staircase": SWITCH,
    "decay_from_start": SWITCH,
    "min_learning_rate": FROM_ZERO,
    "ema_decay": BELOW_ONE,
    "ema_warmup": SWITCH,
    "label_smoothing": SHARE,
    "clip_norm": FROM_ZERO,
    "drop_path": (
        lambda value: value is None or number(value, 0, MOST_BELOW_ONE),
        "a number from 0, below 1, or null for the network's own",
    ),
    "flip": SWITCH,
    "crop_padding": between(0, 0.5 - 1e-9, "a number from 0, below 0.5"),
    "crop_scale": ABOVE_ZERO_SHARE,
    "erasing": SHARE,
    "test_size": FROM_ONE,
    "freeze_epochs": COUNT_FROM_ZERO,
    "freeze_norm": SWITCH,
    "needs_weights": SWITCH,
}


# --- the recipes that come with nas -----------------------------------------------------------------------
# "Ours" marks what no source says. All distortions are those of `nas.data.augment`, a batched relative of RandAugment.

STANDARD = FULL_RECIPES.register(
    "standard",
    # Ours: for a user's own images on one GPU. AdamW, since one rate serves networks of every width; a cosine over all
    # phases, at the rate and batch of the search's `standard`; the progressive shape of EfficientNetV2-S (arXiv:2104.00298,
    # table 6) with milder regularisation, a little more than the search has, since the training is longer.
    FullRecipe(
        name="standard",
        epochs=60,
        batch_size=128,
        progressive=Progressive(4, (128 / 300, 1.0), (0, 8), (0, 0.1), (0.1, 0.3)),
        learning_rate=0.004,
        warmup_epochs=3,
        ema_decay=0.999,
        clip_norm=5.0,
        crop_scale=0.35,
    ),
)
FULL_RECIPES.register(
    "short",
    # Ours: a few epochs of a small network on small images, for a CPU; `quick` of the search, longer. Two phases: a third
    # saves no time and leaves fewer epochs at the full size. The baseline of v2_tiny, 5,000 built-in images, seeds 0 and 1,
    # accuracy on 2,000 others: 0.786 with three, 0.811 with two from half of the size, 0.823 from three quarters, 0.849 with one.
    replace(
        STANDARD,
        name="short",
        epochs=6,
        batch_size=64,
        progressive=Progressive(2, (0.5, 1.0)),
        learning_rate=0.01,
        weight_decay=0.02,
        warmup_epochs=1,
        ema_decay=0.99,
        crop_padding=0.0625,
        crop_scale=1.0,
    ),
)
EFFICIENTNET = FULL_RECIPES.register(
    "efficientnet",
    # EfficientNet, Tan & Le 2019, arXiv:1905.11946, section 5.2, with the released code where the paper is silent: 0.016
    # for 256 images, the code's batch of 2048, eps 0.001, a rate that falls in steps, crops from 8 % of the area.
    # Ours: magnitude 10 in place of AutoAugment; dropout is B0's (0.5 for B7; set `progressive: {dropout: [0.5, 0.5]}`);
    # biases have no decay (the released code decays them, though not the norms).
    FullRecipe(
        name="efficientnet",
        epochs=350,
        batch_size=2048,
        progressive=Progressive(1, (1.0, 1.0), (10, 10), (0, 0), (0.2, 0.2)),
        learning_rate=0.016,
        learning_rate_batch=256,
        optimizer="rmsprop_tf",
        eps=1e-3,
        weight_decay=1e-5,
        schedule="exponential",
        warmup_epochs=5,
        staircase=True,
        ema_decay=0.9999,
        drop_path=0.2,
        crop_scale=0.08,
    ),
)
FULL_RECIPES.register(
    "timm",
    # timm's published command for EfficientNet-B0 (77.7 % on ImageNet): batch 2 x 384 at 0.048, 450 epochs, x0.97 every 2.4,
    # warm-up from 1e-6, rand-m9-mstd0.5, erasing 0.2 (by noise there, by zeros here), a rate
    # whose fall is counted from the first step.
    # Ours: five epochs of warm-up, and one of the EMA's decay, without which it keeps its initial weights on few images.
    replace(
        EFFICIENTNET,
        name="timm",
        epochs=450,
        batch_size=768,
        progressive=Progressive(1, (1.0, 1.0), (9, 9), (0, 0), (0.2, 0.2)),
        learning_rate=0.048,
        learning_rate_batch=768,
        warmup_learning_rate=1e-6,
        decay_from_start=True,
        erasing=0.2,
    ),
)

# EfficientNetV2, Tan & Le 2021, arXiv:2104.00298, section 5.1 and table 6: RMSProp 0.9 / 0.9, weight decay 1e-5, 350 epochs
# of batch 4096, 0 to 0.256 in the warm-up, then x0.97 per 2.4 epochs, EMA 0.9999, survival 0.8. From the released code: five
# epochs of warm-up, steps, eps 0.001, no decay of norms and biases. Scored at 384 (S, trained to 300) and 480 (M and L).
# `paper` has the table's sizes and regularisation, `shipped` those of the code, which also cuts and mixes, half a batch each,
# and counts the fall of the rate from the first step.
_V2 = (
    ("s_paper", 384 / 300, 0.0),
    ("m_paper", 480 / 380, 0.0),
    ("l_paper", 480 / 380, 0.0),
    ("s_shipped", 384 / 300, 0.0),
    ("m_shipped", 480 / 384, 0.2),
    ("l_shipped", 480 / 384, 0.5),
)
for _name, _test_size, _cutmix in _V2:
    FULL_RECIPES.register(
        f"v2_{_name}",
        replace(
            EFFICIENTNET,
            name=f"v2_{_name}",
            batch_size=4096,
            progressive=PRESETS[f"efficientnetv2_{_name}"],
            learning_rate=0.256,
            learning_rate_batch=4096,
            cutmix=(0.0, _cutmix),
            test_size=_test_size,
            decay_from_start=_name.endswith("_shipped"),
        ),
    )

FULL_RECIPES.register(
    "transfer",
    # EfficientNetV2's transfer to smaller data, section 5.3: cosine from 0.001 at a batch of 512, no weight decay, and
    # cutout beside the crops and flips; here that is erasing, half of the time.
    # Ours: 20 epochs of batch 128 instead of 10,000 steps of 512, two of them with the classifier alone, milder crops, and
    # an EMA of 0.999, whose memory fits so few steps.
    FullRecipe(
        name="transfer",
        epochs=20,
        batch_size=128,
        progressive=Progressive(1, (1.0, 1.0), (0, 0), (0, 0), (0.2, 0.2)),
        learning_rate=0.001,
        learning_rate_batch=512,
        optimizer="rmsprop_tf",
        eps=1e-3,
        weight_decay=0.0,
        ema_decay=0.999,
        crop_scale=0.35,
        erasing=0.5,
        freeze_epochs=2,
        needs_weights=True,
    ),
)
