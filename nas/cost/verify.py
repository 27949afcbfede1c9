"""The independent check of the counts: fvcore on a network that was really built."""

from __future__ import annotations

import logging
import warnings

import torch

from nas.blocks import Count
from nas.models import build
from nas.spec import ArchSpec


def fvcore_count(spec: ArchSpec) -> Count:
    """Count a built network: its trainable tensors, and fvcore's convolutions and linear layers at batch 1.

    fvcore's own total also holds batch norm and pooling (up to a tenth more on mobile networks), so only `conv` and
    `linear` are taken: papers' "FLOPs" are these.
    """
    from fvcore.nn import FlopCountAnalysis

    network = build(spec).eval()
    size = spec.resolved().resolution
    logging.getLogger("fvcore").setLevel(logging.ERROR)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        analysis = FlopCountAnalysis(network, torch.zeros(1, spec.in_channels, size, size))
        analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
        found = analysis.by_operator()
    return Count(sum(p.numel() for p in network.parameters()), int(found["conv"] + found["linear"]))
