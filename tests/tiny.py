"""A space, a network, a recipe and images that are small enough to be searched in seconds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

TINY_SPACE = """
name: tiny
resolution: 16
drop_path: 0.1
num_classes: 3
stem: {block: conv, kernel_size: 3, stride: 1, out_channels: 8}
stages:
  - {block: [fused_mbconv, mbconv], kernel_size: [3, 5], expand_ratio: [1, 2], se_ratio: 0, out_channels: [8, 16],
     num_layers: {min: 1, max: 2}, stride: 2}
  - {block: mbconv, kernel_size: [3, 5], expand_ratio: [1, 2, 4], se_ratio: [0, 0.25], out_channels: [16, 24],
     num_layers: {min: 1, max: 3}, stride: 2}
head: {block: conv, kernel_size: 1, out_channels: 16, dropout: 0.1}
forbid:
  - {block: fused_mbconv, kernel_size: 5, expand_ratio: 2}
"""

TINY_NETWORK = """
name: tiny_network
resolution: 16
drop_path: 0.1
num_classes: 3
stem: {block: conv, kernel_size: 3, stride: 1, out_channels: 8}
stages:
  - {block: fused_mbconv, kernel_size: 3, expand_ratio: 2, se_ratio: 0, out_channels: 8, num_layers: 2, stride: 2}
  - {block: mbconv, kernel_size: 3, expand_ratio: 2, se_ratio: 0.25, out_channels: 16, num_layers: 1, stride: 2}
head: {block: conv, kernel_size: 1, out_channels: 16, dropout: 0.1}
"""

TINY_RECIPE = "extends: quick\ntrain_images: 64\nval_images: 64\nepochs: 0.5\nbatch_size: 16\n"


def write_images(root: Path, per_class: int = 40) -> Path:
    rng = np.random.default_rng(0)
    for channel, name in enumerate(("red", "green", "blue")):
        (root / name).mkdir(parents=True)
        for number in range(per_class):
            pixels = rng.integers(0, 120, (16, 16, 3)).astype(np.uint8)
            pixels[:, :, channel] += 100
            Image.fromarray(pixels).save(root / name / f"{number:03}.png")
    return root
