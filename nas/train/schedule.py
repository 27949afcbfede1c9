"""Which image size, regularisation and learning rate each phase, epoch and step of a training has.

Pure arithmetic. Source of progressive learning: Tan & Le 2021 (EfficientNetV2), arXiv:2104.00298, section 4, algorithm 1
and table 6: image size and regularisation rise *together*, and weights are inherited from phase to phase.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Span = tuple[float, float]
"""The value in the first phase, and the value in the last."""


@dataclass(frozen=True)
class Progressive:
    """How image size and regularisation rise over the phases of a training.

    Args:
        phases: Number of phases, each with its own resolution.
        size: Image size of the first and the last phase, as a share of the network's resolution.
        magnitude: Strength of the augmentation, in RandAugment's units (10 is its nominal maximum).
        mixup: Alpha of mixup; 0 is off. dropout: Rate before the classifier.
        rule: `paper` interpolates from the first value to the last; `shipped` is that of the released code, whose
            image size in phase k of K is `min + (max - min) * k / K`, so that no phase has the smallest size.
        multiple: Sizes are rounded to a multiple of this (pixels); 1 truncates as the released code does.
    """

    phases: int
    size: Span
    magnitude: Span = (0.0, 0.0)
    mixup: Span = (0.0, 0.0)
    dropout: Span = (0.0, 0.0)
    rule: Literal["paper", "shipped"] = "paper"
    multiple: int = 8


PRESETS: dict[str, Progressive] = {
    "efficientnetv2_s_paper": Progressive(4, (128 / 300, 1), (5, 15), (0, 0), (0.1, 0.3), "paper", 1),
    "efficientnetv2_m_paper": Progressive(4, (128 / 380, 1), (5, 20), (0, 0.2), (0.1, 0.4), "paper", 1),
    "efficientnetv2_l_paper": Progressive(4, (128 / 380, 1), (5, 25), (0, 0.5), (0.1, 0.5), "paper", 1),
    "efficientnetv2_s_shipped": Progressive(4, (128 / 300, 1), (5, 10), (0, 0), (0.2, 0.2), "shipped", 1),
    "efficientnetv2_m_shipped": Progressive(4, (128 / 384, 1), (5, 15), (0, 0.2), (0.3, 0.3), "shipped", 1),
    "efficientnetv2_l_shipped": Progressive(4, (128 / 384, 1), (5, 20), (0, 0.5), (0.4, 0.4), "shipped", 1),
}
"""The published schedules: the paper's table 6, and the released code, which differs from it."""


@dataclass(frozen=True)
class Phase:
    """One phase of a training, numbered from 1 (phase 0 counts and times): one resolution, one regularisation."""

    number: int
    resolution: int
    epochs: float
    magnitude: float
    mixup: float
    dropout: float
    cutmix: float = 0.0


def phases(progressive: Progressive, resolution: int, epochs: float) -> tuple[Phase, ...]:
    """Return the phases of a training at a network's resolution (pixels); each has an equal share of the epochs."""
    found = []
    for index in range(progressive.phases):
        # EfficientNetV2, section 4: v_i = v_0 + (v_e - v_0) * i / (M - 1)
        share = 1.0 if progressive.phases == 1 else index / (progressive.phases - 1)
        grown = (index + 1) / progressive.phases if progressive.rule == "shipped" else share
        found.append(
            Phase(
                number=index + 1,
                resolution=_size(between(progressive.size, grown) * resolution, resolution, progressive.multiple),
                epochs=epochs / progressive.phases,
                magnitude=between(progressive.magnitude, share),
                mixup=between(progressive.mixup, share),
                dropout=between(progressive.dropout, share),
            )
        )
    return tuple(found)


def between(span: Span, share: float) -> float:
    """Return the value a share of the way from the first to the last."""
    return span[0] + (span[1] - span[0]) * share


def _size(pixels: float, resolution: int, multiple: int) -> int:
    if multiple == 1:
        return int(pixels + 1e-6)
    if pixels > resolution - 1e-6:  # the last phase is the network's own resolution, whatever its divisors
        return resolution
    return min(resolution, max(multiple, int(pixels / multiple + 0.5) * multiple))


def learning_rate(step: int, steps: int, peak: float, warmup: float) -> float:
    """Return the learning rate of a step within its phase: a linear rise, then a cosine to zero.

    Each phase decays fully, so that the accuracy at its end is that of a finished training and can be compared between
    networks; halving on one long cosine would compare them at a high learning rate.
    Source: Loshchilov & Hutter 2017 (SGDR), arXiv:1608.03983, equation 5, with one restart a phase.

    Args:
        step: From 0. steps: Steps of the phase. peak: Highest rate. warmup: Share of the phase that rises.
    """
    rise = max(1, round(steps * warmup))
    if step < rise:
        return peak * (step + 1) / rise
    return peak * 0.5 * (1 + math.cos(math.pi * (step + 1 - rise) / (steps + 1 - rise)))


Schedule = Literal["exponential", "cosine", "constant"]
"""How the learning rate falls after the warm-up."""


def epoch_rate(
    epoch: float,
    *,
    peak: float,
    schedule: Schedule,
    epochs: float,
    warmup_epochs: float = 0.0,
    warmup_learning_rate: float = 0.0,
    decay_rate: float = 0.97,
    decay_epochs: float = 2.4,
    staircase: bool = False,
    decay_from_start: bool = False,
    minimum: float = 0.0,
) -> float:
    """Return the learning rate at a moment of a full training: a linear rise, then one fall over all phases.

    Unlike `learning_rate` it does not begin anew with each phase: nothing is compared between phases here, and the weights
    of the last are what counts.

    - `exponential`: peak * decay_rate ^ ((epoch - warmup_epochs) / decay_epochs), whole powers where `staircase` is on. Tan
      & Le 2021, arXiv:2104.00298, section 5.1: "warmup from 0 to 0.256, and then decayed by 0.97 every 2.4 epochs". The
      decay is counted from the end of the warm-up, as that sentence reads. The released code and timm count it from the
      first step: with `decay_from_start` it is decay_rate ^ (epoch / decay_epochs), lower by 0.97 ^ 2 (6 %) throughout.
    - `cosine`: minimum + (peak - minimum) * (1 + cos(pi * t)) / 2, t from 0 at the end of the warm-up to 1 at the end of the
      training. Loshchilov & Hutter 2017, arXiv:1608.03983, equation 5, without restarts.
    - `constant`: peak.

    Args:
        epoch: Passes over the training images so far, from 0; between two epochs a fraction.
        peak: Highest rate. epochs: Length of the training. warmup_epochs: Length of the rise, which begins at
            `warmup_learning_rate`.
        minimum: The rate does not fall below it after the warm-up.
    """
    if epoch < warmup_epochs:
        return between((warmup_learning_rate, peak), epoch / warmup_epochs)
    if schedule == "constant":
        return peak
    if schedule == "exponential":
        power = (epoch if decay_from_start else epoch - warmup_epochs) / decay_epochs
        # 2.4 has no exact binary form: the 5th step must come at epoch 12, not one rounding error after it.
        return max(minimum, peak * decay_rate ** (math.floor(power + 1e-9) if staircase else power))
    share = min(1.0, (epoch - warmup_epochs) / (epochs - warmup_epochs))
    return minimum + (peak - minimum) * 0.5 * (1 + math.cos(math.pi * share))
