"""The weights that a training begins with: looked at before there are images, loaded when their classes are known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from nas.errors import WeightsError
from nas.models import Network, build
from nas.spec import ArchSpec
from nas.train.full_recipes import FullRecipe
from nas.weights import load_backbone, read_weights


def check_weights(spec: ArchSpec, path: Path) -> None:
    """Hold that a file has the weights of an architecture, for whatever classes and channels.

    Raises:
        WeightsError: no such file, one that holds no weights, or those of another network.
    """
    network = build(spec, seed=0)
    first = next(iter(network.state_dict()))  # the stem: of its shape only the channels of the images are open
    found = read_weights(path).get(first)
    if found is not None and found.ndim == 4 and found.shape[1] != spec.in_channels:
        network = build(replace(spec, in_channels=found.shape[1]), seed=0)
    load_backbone(network, path)


def begun_with(network: Network, spec: ArchSpec, path: Path, recipe: FullRecipe) -> tuple[str, ...]:
    """Load the weights that a training begins with, and say what of them was left out.

    Raises:
        WeightsError: they do not fit; other classes only fit where the recipe begins from trained weights.
    """
    left = load_backbone(network, path)
    if left is None:
        return ()
    classes = f"its classifier has {left} classes, these images have {spec.num_classes}"
    if not recipe.needs_weights:
        raise WeightsError(
            f"{path}: {classes}; allowed: as many. Give --recipe transfer, which begins with a fresh classifier, or other "
            "weights."
        )
    return (f"{path.name}: {classes}: it was left out, and begins with fresh weights.",)
