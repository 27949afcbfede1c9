"""The section `arms`: ways to do one training step that the product has, and ways that it might have, side by side.

Not in the product: weights in bfloat16 beside float32 masters (no autocast, so no copy of each weight in every step), and a
stem whose input has 4 or 8 channels in place of 3. They come in only where they pay.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.gpu_check.rounds import SMALL, Step, cells, compared, graphs_of, in_turns, network, recipe_of
from benchmarks.gpu_check.setting import Setting
from nas.data.augment import eval_batch
from nas.spec import ArchSpec
from nas.train import loop
from nas.train.graphs import Work
from nas.train.recipes import Recipe

BATCH = 256


def arms(setting: Setting) -> dict[str, Any]:
    """Compare eager and graphed steps, with autocast or bfloat16 weights, a padded stem, and the contiguous layout."""
    wanted: dict[str, Callable[[], dict[str, Any]]] = {}
    for pixels in (16,) if setting.small else (64, 32, 128):
        for name in (SMALL,) if setting.small else ("efficientnet_b0", "efficientnetv2_s"):
            batch = 8 if setting.small else BATCH
            wanted[f"{name} {pixels} px batch {batch}"] = partial(_arms, name, pixels, batch, setting)
    return cells("arms", setting, wanted)


def _arms(name: str, pixels: int, batch: int, setting: Setting) -> dict[str, Any]:
    # Without what is random in a network: the arms' losses are then the same, within bfloat16.
    spec = replace(network(name, pixels, setting), dropout=0.0, drop_path=0.0)
    how = graphs_of(setting)
    works: dict[str, Work] = {
        "autocast": plain_work(spec, setting, batch, torch.channels_last),
        "shadow": shadow_work(spec, setting, batch),
        "shadow, stem of 4": shadow_work(spec, setting, batch, channels=4),
        "shadow, stem of 8": shadow_work(spec, setting, batch, channels=8),
        "autocast, contiguous": plain_work(spec, setting, batch, torch.contiguous_format),
    }
    first = {}
    with how.here():
        for arm, work in works.items():
            first[arm] = [float(work()) for _ in range(3)]
    with how.replayed(list(works.values())) as replays:
        steps: dict[str, Step] = {"eager, autocast": works["autocast"], "eager, shadow": works["shadow"]}
        steps["eager, autocast, contiguous"] = works["autocast, contiguous"]
        steps |= {f"graph, {arm}": replay for arm, replay in zip(works, replays, strict=True)}
        times = in_turns(steps, setting)
    agree = all(abs(losses[0] / first["autocast"][0] - 1) < 0.03 for losses in first.values())
    return {"passed": agree, "first_losses": first, **compared(times, "eager, autocast")}


def shadow_work(spec: ArchSpec, setting: Setting, batch: int, channels: int = 0) -> Work:
    """Return a step on bfloat16 weights: gradients go to float32 masters, which the optimiser changes, and come back rounded.

    Norms keep their float32 parameters. Clipping sees the masters' gradients, as it does with autocast.

    Args:
        channels: Of the stem's input, where more than the images have; the others are zeros, with weights of zero.
    """
    recipe = recipe_of(batch)
    state = loop.start(spec, recipe, setting.device, seed=0)
    images, targets = batch_of(spec, recipe, setting)
    if channels > spec.in_channels:
        more = (0, 0, 0, 0, 0, channels - spec.in_channels)
        images = functional.pad(images, more).contiguous(memory_format=torch.channels_last)
        widen_stem(state.network, channels)
    images = images.to(torch.bfloat16)
    masters, shadows, norms = halved(state.network)
    parameters = [*masters, *norms]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=0.0, betas=recipe.betas, fused=True)
    for master in masters:  # at their places: a copy into them is one kernel for many
        master.grad = torch.zeros_like(master)
    state.network.train()

    def step() -> Tensor:
        scores = state.network(images)
        loss = functional.cross_entropy(scores.float(), targets, label_smoothing=recipe.label_smoothing)
        loss.backward()
        torch._foreach_copy_([master.grad for master in masters], [shadow.grad for shadow in shadows])
        torch.nn.utils.clip_grad_norm_(parameters, recipe.clip_norm, foreach=True)
        optimizer.step()
        with torch.no_grad():
            torch._foreach_copy_(shadows, masters)
        for parameter in (*shadows, *norms):
            parameter.grad = None
        return loss.detach()

    return Work(step, optimizer)


def halved(module: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter], list[nn.Parameter]]:
    """Turn the weights of convolutions and linear layers into bfloat16; return their float32 masters, them, and the others."""
    masters, shadows, norms = [], [], []
    for part in module.modules():
        for name, parameter in list(part.named_parameters(recurse=False)):
            if not isinstance(part, nn.Conv2d | nn.Linear):
                norms.append(parameter)
                continue
            shadow = nn.Parameter(parameter.detach().to(torch.bfloat16))
            setattr(part, name, shadow)
            masters.append(parameter)
            shadows.append(shadow)
    return masters, shadows, norms


def widen_stem(module: nn.Module, channels: int) -> None:
    """Let the first convolution of a network take more channels; the new weights are zeros."""
    stem = next(part for part in module.modules() if isinstance(part, nn.Conv2d))
    padded = functional.pad(stem.weight.detach(), (0, 0, 0, 0, 0, channels - stem.in_channels))
    stem.weight = nn.Parameter(padded.contiguous(memory_format=torch.channels_last))
    stem.in_channels = channels


def plain_work(spec: ArchSpec, setting: Setting, batch: int, layout: torch.memory_format) -> Work:
    """Return the product's step in a layout."""
    recipe = recipe_of(batch)
    state = loop.start(spec, recipe, setting.device, seed=0)
    state.network.to(memory_format=layout)
    images, targets = batch_of(spec, recipe, setting)
    images = images.contiguous(memory_format=layout)
    state.network.train()
    return Work(lambda: loop.train_step(state, images, targets, recipe), state.optimizer)


def batch_of(spec: ArchSpec, recipe: Recipe, setting: Setting) -> tuple[Tensor, Tensor]:
    """Return random images and labels, the same for every arm: float32, normalised, channels_last."""
    shape = (recipe.batch_size, spec.resolution, spec.resolution, spec.in_channels)
    pixels = torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    half = torch.full((spec.in_channels,), 0.5, device=setting.device)
    images = eval_batch(pixels.to(setting.device), resolution=spec.resolution, mean=half, std=half)
    return images, torch.arange(recipe.batch_size, device=setting.device) % spec.num_classes
