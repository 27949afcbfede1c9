"""A network as ONNX, in memory: what onnxruntime is timed on, and what an exporter may write to a file."""

from __future__ import annotations

import importlib
import logging
import warnings

import torch
from torch import nn

from nas.errors import UsageError

INPUT, OUTPUT = "images", "scores"
"""The names of the graph's input and output."""


def need_onnx(*packages: str) -> None:
    """Import packages of the extra `onnx`.

    Raises:
        UsageError: one is not installed.
    """
    for package in packages:
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise UsageError(
                f"onnx: {error.name or package} is not installed. Run: pip install 'phinas[onnx]'"
            ) from None


def onnx_bytes(network: nn.Module, shape: tuple[int, int, int]) -> bytes:
    """Return a network as a checked ONNX model, below ONNX's own limit of 2 GiB.

    Args:
        network: In evaluation mode, on the CPU, float32: maps images (N, C, H, W) to scores.
        shape: C, H, W of the images. They are fixed in the graph; N is free.

    Raises:
        UsageError: the extra `onnx` is not installed.
        torch.onnx.OnnxExporterError: torch cannot export the network.
    """
    need_onnx("onnx", "onnxscript")
    import onnx

    # An example of one image would fix N at 1: torch.export takes sizes 0 and 1 for constants.
    images = torch.zeros(2, *shape)
    # Without torchvision the exporter logs a line for each of its operators; no network here has any.
    logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            network,
            (images,),
            dynamo=True,
            verbose=False,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
        )
        assert program is not None  # only the older exporter, which writes files, returns nothing
        content = program.model_proto.SerializeToString()
    onnx.checker.check_model(content, full_check=True)
    return bytes(content)
