"""Every reference network beside the library that has it: counts, forward outputs, checkpoints both ways.

    python -m benchmarks.parity               # all of them; writes results/published/reference_networks.json
    python -m benchmarks.parity resnet50      # some of them; prints only

Counts are made three times: by the formulas of the blocks, by fvcore on the built network (batch 1), and in the library
(`tests/golden/reference_networks.json`). Outputs are compared with the weights of timm's model (random ones; none are
downloaded) loaded by `load_weights`, and with its epsilon of batch norm, where our file has another: on 65-pixel images, for at
32 n + 1 pixels TensorFlow's padding, which some of timm's models have, is the symmetric one.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from benchmarks.libraries import GOLDEN, NETWORKS, load
from nas import __version__
from nas.catalog import load_arch
from nas.cost import count
from nas.cost.verify import fvcore_count
from nas.models import build
from nas.runs import write_text
from nas.weights import load_weights

OUT = Path(__file__).resolve().parents[1] / "results" / "published" / "reference_networks.json"
PIXELS = 65


def randomised(network: nn.Module, seed: int = 1) -> nn.Module:
    """Give the norms statistics of their own, so that activations neither vanish nor hide a swapped norm."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            module.weight.data.uniform_(0.8, 1.2, generator=generator)
            module.bias.data.uniform_(-0.1, 0.1, generator=generator)
            module.running_mean.uniform_(-0.1, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
    return network


def norm_eps(network: nn.Module) -> float:
    """Return the epsilon of a network's batch norms, which is one."""
    (found,) = {module.eps for module in network.modules() if isinstance(module, nn.BatchNorm2d)}
    return float(found)


def forward_error(name: str, timm: Any) -> float:
    """Return the largest difference of the class scores over their largest size, with timm's weights and epsilon in ours.

    The weights go through a file, and back into timm's model: both `strict`.
    """
    torch.manual_seed(0)
    theirs = randomised(timm.create_model(NETWORKS[name].timm)).eval()
    ours = build(replace(load_arch(name), norm_eps=norm_eps(theirs)), seed=0).eval()
    with tempfile.TemporaryDirectory() as folder:
        save_file(theirs.state_dict(), Path(folder) / "theirs.safetensors")
        load_weights(ours, Path(folder) / "theirs.safetensors")
    images = torch.randn(2, 3, PIXELS, PIXELS)
    with torch.no_grad():
        expected, found = theirs(images), ours(images)
        theirs.load_state_dict(ours.state_dict(), strict=True)
    size = float(expected.abs().max())
    assert size > 1e-3, f"{name}: the outputs vanish, and prove nothing"
    return float((found - expected).abs().max()) / size


def row(name: str, timm: Any, golden: dict[str, Any]) -> dict[str, Any]:
    """Return everything that is compared of one network."""
    spec = load_arch(name, resolution=golden["pixels"])
    ours, built = count(spec), fvcore_count(spec)
    return {
        "library": (golden["torchvision"] and f"timm {golden['timm']}, torchvision {golden['torchvision']}")
        or f"timm {golden['timm']}",
        "pixels": golden["pixels"],
        "params": ours.params,
        "macs": ours.macs,
        "params_difference": ours.params - golden["params"],
        "macs_difference": ours.macs - golden["macs"],
        "fvcore_params_difference": built.params - golden["params"],
        "fvcore_macs_difference": built.macs - golden["macs"],
        "norm_eps": spec.norm_eps,
        "library_norm_eps": norm_eps(timm.create_model(golden["timm"])),
        "forward_error": forward_error(name, timm),
    }


def main() -> None:
    """Compare networks; write the evidence where all were compared."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help="; ".join(NETWORKS))
    wanted = parser.parse_args().networks or list(NETWORKS)
    unknown = sorted(set(wanted) - set(NETWORKS))
    if unknown:
        parser.error(f"{', '.join(unknown)}: not known")
    timm, torchvision = load()
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))["networks"]
    rows = {}
    for name in wanted:
        rows[name] = found = row(name, timm, golden[name])
        differences = [found[key] for key in found if key.endswith("difference")]
        print(
            f"{name:28s} {found['params']:>11,} params {found['macs']:>14,} MACs at {found['pixels']}  "
            f"differences {differences}  forward error {found['forward_error']:.1e}",
            flush=True,
        )
    if wanted != list(NETWORKS):
        return
    document = {
        "made_by": "python -m benchmarks.parity",
        "versions": {
            "nas": __version__,
            "torch": torch.__version__,
            "timm": timm.__version__,
            "torchvision": torchvision.__version__.split("+")[0],
            "python": platform.python_version(),
        },
        "forward": f"Forward error: two random images of {PIXELS} x {PIXELS} pixels on the CPU, timm's random weights, random "
        "batch-norm statistics and its epsilon in both; the largest difference of a class score over the largest score",
        "networks": rows,
    }
    write_text(OUT, json.dumps(document, indent=1) + "\n")
    print(f"written: {OUT}")


if __name__ == "__main__":
    main()
