"""The networks of the field as timm and torchvision build them: what the reference networks are compared with.

    python -m benchmarks.libraries            # count them again and write tests/golden/reference_networks.json

Counted on torch's meta device with a hook on every convolution and linear layer: none of this project's code has a part in it.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

GOLDEN = Path(__file__).resolve().parents[1] / "tests" / "golden" / "reference_networks.json"


class Library(NamedTuple):
    """Where a reference network is found: its names there, and the resolution (pixels) that it is counted at."""

    timm: str
    pixels: int
    torchvision: str = ""


NETWORKS = {
    "mobilenet_v1": Library("mobilenetv1_100", 224),
    "mobilenet_v2": Library("mobilenetv2_100", 224, "mobilenet_v2"),
    "mobilenet_v2_075": Library("mobilenetv2_075", 224),
    "mobilenet_v2_140": Library("mobilenetv2_140", 224),
    "mobilenet_v2_110d": Library("mobilenetv2_110d", 224),
    "mnasnet_a1": Library("semnasnet_100", 224),
    "mnasnet_b1": Library("mnasnet_100", 224, "mnasnet1_0"),
    "mnasnet_small": Library("mnasnet_small", 224),
    "mobilenet_v3_large": Library("mobilenetv3_large_100", 224, "mobilenet_v3_large"),
    "mobilenet_v3_large_075": Library("tf_mobilenetv3_large_075", 224),
    "mobilenet_v3_large_minimal": Library("tf_mobilenetv3_large_minimal_100", 224),
    "mobilenet_v3_rw": Library("mobilenetv3_rw", 224),
    "mobilenet_v3_small": Library("mobilenetv3_small_100", 224, "mobilenet_v3_small"),
    "mobilenet_v3_small_075": Library("tf_mobilenetv3_small_075", 224),
    "mobilenet_v3_small_minimal": Library("tf_mobilenetv3_small_minimal_100", 224),
    "efficientnet_b0": Library("efficientnet_b0", 224, "efficientnet_b0"),
    "efficientnet_b1": Library("efficientnet_b1", 240, "efficientnet_b1"),
    "efficientnet_b2": Library("efficientnet_b2", 260, "efficientnet_b2"),
    "efficientnet_b3": Library("efficientnet_b3", 300, "efficientnet_b3"),
    "efficientnet_b4": Library("efficientnet_b4", 380, "efficientnet_b4"),
    "efficientnet_b5": Library("efficientnet_b5", 456, "efficientnet_b5"),
    "efficientnet_b6": Library("efficientnet_b6", 528, "efficientnet_b6"),
    "efficientnet_b7": Library("efficientnet_b7", 600, "efficientnet_b7"),
    "efficientnet_lite0": Library("efficientnet_lite0", 224),
    "efficientnet_edgetpu_s": Library("efficientnet_es", 224),
    "efficientnetv2_b0": Library("tf_efficientnetv2_b0", 224),
    "efficientnetv2_b1": Library("tf_efficientnetv2_b1", 240),
    "efficientnetv2_b2": Library("tf_efficientnetv2_b2", 260),
    "efficientnetv2_b3": Library("tf_efficientnetv2_b3", 300),
    "efficientnetv2_s": Library("efficientnetv2_s", 384, "efficientnet_v2_s"),
    "efficientnetv2_m": Library("efficientnetv2_m", 480, "efficientnet_v2_m"),
    "efficientnetv2_l": Library("efficientnetv2_l", 480, "efficientnet_v2_l"),
    "efficientnetv2_xl": Library("efficientnetv2_xl", 512),
    "efficientnetv2_rw_t": Library("efficientnetv2_rw_t", 288),
    "efficientnetv2_rw_s": Library("efficientnetv2_rw_s", 384),
    "efficientnetv2_rw_m": Library("efficientnetv2_rw_m", 416),
    "gc_efficientnetv2_rw_t": Library("gc_efficientnetv2_rw_t", 288),
    "fbnet_c": Library("fbnetc_100", 224),
    "single_path_nas": Library("spnasnet_100", 224),
    "resnet18": Library("resnet18", 224, "resnet18"),
    "resnet34": Library("resnet34", 224, "resnet34"),
    "resnet50": Library("resnet50", 224, "resnet50"),
    "resnet101": Library("resnet101", 224, "resnet101"),
    "resnet152": Library("resnet152", 224, "resnet152"),
    "wide_resnet50_2": Library("wide_resnet50_2", 224, "wide_resnet50_2"),
    "wide_resnet101_2": Library("wide_resnet101_2", 224, "wide_resnet101_2"),
}
"""Every file of `search_spaces/reference/`."""

_KEPT: list[Any] = []


def load() -> tuple[Any, Any]:
    """Import timm and torchvision; beside a CPU-only torch their compiled operators, which cannot load, are declared.

    Raises:
        ImportError: they are not installed (`pip install -e ".[parity]"`).
    """
    if torch.version.cuda is None and not _KEPT:
        library = torch.library.Library("torchvision", "FRAGMENT")
        for operator in ("nms", "qnms"):
            library.define(operator + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _KEPT.append(library)
    import timm
    import torchvision

    logging.getLogger("timm").setLevel(logging.ERROR)
    return timm, torchvision


def counted(network: nn.Module, pixels: int) -> tuple[int, int]:
    """Return trainable parameters, and multiply-adds of convolutions and linear layers, of a network on the meta device."""
    macs = 0

    def hook(module: nn.Module, inputs: tuple[torch.Tensor, ...], out: torch.Tensor) -> None:
        nonlocal macs
        if isinstance(module, nn.Conv2d):
            kernel = module.kernel_size[0] * module.kernel_size[1]
            macs += kernel * module.in_channels // module.groups * out[0].numel()
        elif isinstance(module, nn.Linear):
            macs += module.in_features * out[0].numel()

    handles = [module.register_forward_hook(hook) for module in network.modules()]
    with torch.no_grad():
        network.eval()(torch.empty(1, 3, pixels, pixels, device="meta"))
    for handle in handles:
        handle.remove()
    return sum(parameter.numel() for parameter in network.parameters()), macs


def main() -> None:
    """Count every network in its libraries and write the golden file."""
    timm, torchvision = load()
    networks = {}
    for name, where in NETWORKS.items():
        with torch.device("meta"):
            params, macs = counted(timm.create_model(where.timm), where.pixels)
            if where.torchvision:
                other = counted(torchvision.models.get_model(where.torchvision), where.pixels)
                assert other == (params, macs), f"{name}: timm {params, macs}, torchvision {other}"
        networks[name] = {**where._asdict(), "params": params, "macs": macs}
        print(f"{name:28s} {params:>13,} params {macs:>17,} MACs at {where.pixels}", flush=True)
    document = {
        "made_by": "python -m benchmarks.libraries",
        "versions": {"timm": timm.__version__, "torchvision": torchvision.__version__.split("+")[0]},
        "counts": "trainable parameters with 1000 classes; multiply-adds of convolutions and linear layers at `pixels`",
        "networks": networks,
    }
    GOLDEN.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
