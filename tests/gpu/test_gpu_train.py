"""A full training on a CUDA device. Skipped elsewhere."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import TINY_NETWORK, write_images

from nas import catalog
from nas.data import Dataset
from nas.models import build
from nas.spec import ArchSpec
from nas.train import full_loop, images, loop
from nas.train.feed import feed
from nas.train.full_loop import begin, train_epoch
from nas.train.full_recipes import FULL_RECIPES, full_phases
from nas.train.session import resume_training, train_network
from nas.train.watch import EpochRow, Watcher

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"),
]

RECIPE = """
extends: short
epochs: 4
batch_size: 16
progressive: {phases: 2, size: [0.5, 1], magnitude: [2, 5], mixup: [0, 0.2], dropout: [0.1, 0.3]}
cutmix: [0, 0.5]
erasing: 0.2
drop_path: 0.2
"""


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "net.yaml").write_text(TINY_NETWORK)
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    data = write_images(tmp_path / "images", 24)
    return {"data": str(data), "recipe": str(tmp_path / "recipe.yaml"), "device": "cuda", "out": tmp_path / "run"}


@pytest.mark.parametrize("optimizer", ["adamw", "rmsprop_tf", "sgd"])
def test_a_training_is_stopped_and_goes_on(settings: dict[str, Any], tmp_path: Path, optimizer: str) -> None:
    class Stop(Watcher):
        def epoch(self, row: EpochRow, best: bool) -> None:
            if row.epoch == 2:
                raise KeyboardInterrupt

    with (tmp_path / "recipe.yaml").open("a") as recipe:
        recipe.write(f"optimizer: {optimizer}\n")
    spec = catalog.load_arch(tmp_path / "net.yaml")
    with pytest.raises(KeyboardInterrupt):
        train_network(spec, **settings, watcher=Stop())
    result = resume_training(tmp_path / "run")
    assert [row.epoch for row in result.history] == [1, 2, 3, 4]
    assert result.run.manifest["device"]["type"] == "cuda" and result.history[-1].train_loss < 1.5
    assert (tmp_path / "run" / "weights.safetensors").is_file()


def test_images_beside_the_device_are_gathered_ahead(tiny_data: Dataset) -> None:
    device = torch.device("cuda", 0)
    pixels = torch.from_numpy(tiny_data.train.images)
    indices = [torch.randperm(64)[:16] for _ in range(20)]
    mapped = feed(iter(indices), loop.Images(pixels, None, device))
    resident = feed(iter(indices), loop.Images(pixels.to(device), None, device))
    for index, far, near in zip(indices, mapped, resident, strict=True):
        assert far.device == near.device == device
        assert torch.equal(far, near) and torch.equal(far.cpu(), pixels[index])


def test_a_full_memory_splits_the_batch(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, calls = full_loop.backward, []

    def greedy(*arguments: Any, **share: Any) -> torch.Tensor:
        calls.append(1)
        if len(calls) == 6:
            torch.empty(2**50, dtype=torch.uint8, device="cuda")
        return original(*arguments, **share)

    monkeypatch.setattr(full_loop, "backward", greedy)
    result = train_network(catalog.load_arch(tmp_path / "net.yaml"), **settings)
    assert [row.micro_batch for row in result.history] == [16, 8, 8, 8]


def test_a_compiled_step_learns_as_an_eager_one(tiny_spec: ArchSpec, tiny_data: Dataset) -> None:
    device = torch.device("cuda", 0)
    data = loop.to_device(tiny_data, None, device)
    recipe = replace(FULL_RECIPES["short"], epochs=3, batch_size=16, drop_path=0.0)
    losses = []
    for compiled in (False, True):
        training = begin(build(tiny_spec, seed=0), recipe, seed=0, device=device, compiled=compiled)
        phase = replace(full_phases(recipe, 16)[-1], dropout=0.0)
        losses.append([train_epoch(training, data, phase, number).train_loss for number in (1, 2, 3)])
    assert losses[0] == pytest.approx(losses[1], abs=0.1) and losses[1][-1] < losses[1][0]


def test_an_epoch_of_mapped_images_is_that_of_resident_ones(
    tiny_spec: ArchSpec, tiny_data: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = torch.device("cuda", 0)
    recipe = replace(FULL_RECIPES["short"], epochs=3, batch_size=16)
    losses = []
    for share in (images.DEVICE_SHARE, 0.0):
        monkeypatch.setattr(images, "DEVICE_SHARE", share)
        data = loop.to_device(tiny_data, None, device)
        assert data.train_images.pixels.is_cuda == (share > 0)
        training = begin(build(tiny_spec, seed=0), recipe, seed=0, device=device)
        losses.append(train_epoch(training, data, full_phases(recipe, 16)[0], 1).train_loss)
    assert losses[0] == pytest.approx(losses[1], abs=0.02)
