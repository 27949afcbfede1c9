"""Write a small space file, and read one."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from nas.blocks import rules
from nas.errors import SpaceError
from nas.space import SearchSpace, load

BASE = """\
name: base
resolution: [32, 48]
activation: silu
stem: {block: conv, kernel_size: 3, stride: 1, out_channels: 8}
stages:
  - {block: mbconv, kernel_size: [3, 5], expand_ratio: [1, 4], out_channels: 8, num_layers: {min: 1, max: 3}}
  - block: [fused_mbconv, mbconv]
    kernel_size: 3
    se_ratio: [0, 0.25]
    out_channels: [16, 24]
    stride: 2
head: {block: conv, kernel_size: 1, out_channels: 64, dropout: 0.1}
constraints: {num_params: {max: 5M}}
"""


def write(folder: Path, text: str, name: str = "x.yaml") -> Path:
    file = folder / name
    file.write_text(textwrap.dedent(text), encoding="utf-8")
    return file


def read(folder: Path, text: str, name: str = "x.yaml") -> SearchSpace:
    return load(write(folder, text, name), rules())


def problems(folder: Path, text: str, name: str = "x.yaml") -> list[str]:
    """Return the problems of a broken file, as they are shown where the folder is the working folder."""
    with pytest.raises(SpaceError) as caught:
        read(folder, text, name)
    return list(caught.value.problems)
