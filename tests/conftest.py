"""Every session has its own lanes and cache, and one thread, so that results are the same on every machine."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import TINY_NETWORK, TINY_RECIPE, TINY_SPACE, write_images

import nas
from nas import catalog
from nas.data import Dataset, Split
from nas.search import SearchResult
from nas.space import SearchSpace
from nas.spec import ArchSpec
from nas.train import probe


@pytest.fixture(scope="session", autouse=True)
def own_folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in ("NAS_LANES", "NAS_CACHE")}
    for name in before:
        os.environ[name] = str(tmp_path_factory.mktemp(name.lower()))
    torch.set_num_threads(1)
    # What a machine's probe says differs from machine to machine, and takes ten seconds.
    probe.save(probe.Probe(1, 1, "channels_last", "float32", {"1x1": 100.0}))
    yield
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


@pytest.fixture
def tiny_space_file(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY_SPACE)
    return path


@pytest.fixture
def tiny_space(tiny_space_file: Path) -> SearchSpace:
    return catalog.load_space(tiny_space_file)


@pytest.fixture
def tiny_spec(tmp_path: Path) -> ArchSpec:
    path = tmp_path / "tiny_network.yaml"
    path.write_text(TINY_NETWORK)
    return catalog.load_arch(path)


@pytest.fixture
def tiny_recipe_file(tmp_path: Path) -> Path:
    path = tmp_path / "tiny_recipe.yaml"
    path.write_text(TINY_RECIPE)
    return path


def _split(count: int, seed: int) -> Split:
    """Images whose class shows as the brighter channel, under noise."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count, dtype=np.int64) % 3
    images = rng.integers(0, 120, (count, 16, 16, 3)).astype(np.uint8)
    for row, label in enumerate(labels):
        images[row, :, :, label] += 100
    return Split(images, labels)


@pytest.fixture
def tiny_data() -> Dataset:
    """64 training and 32 validation images of 16 x 16 pixels in 3 classes that can be told apart."""
    half = (0.4, 0.4, 0.4)
    return Dataset("tiny", _split(64, 0), _split(32, 1), ("red", "green", "blue"), "0" * 16, half, (0.2, 0.2, 0.2), ())


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> SearchResult:
    """A real search of three networks that has ended. Tests that change its folder take `run_copy`."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "tiny.yaml").write_text(TINY_SPACE)
    (folder / "recipe.yaml").write_text(TINY_RECIPE)
    return nas.search(
        space=str(folder / "tiny.yaml"),
        data=str(write_images(folder / "images")),
        recipe=str(folder / "recipe.yaml"),
        out=folder / "run",
        devices="cpu",
        budget=3,
        top_k=1,
        top_k_seeds=1,
        seed=3,
    )


@pytest.fixture
def run_copy(finished: SearchResult, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished.run.folder, tmp_path / "copy"))
