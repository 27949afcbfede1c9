"""Prediction on a CUDA device is the scoring of training on it, image for image."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import trained_runs

from nas.data.loose import find
from nas.devices import pick_device
from nas.predict import Named, load_trained, predict
from nas.train.loop import correct, to_device
from nas.train.recipes import RECIPES

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"),
]


def test_validation_images_are_scored_as_in_training_on_the_device(tmp_path: Path) -> None:
    photos = trained_runs.write_photos(tmp_path / "photos", "train", 8, 0)
    trained_runs.write_photos(photos, "val", 40, 1)
    folder, data = trained_runs.make(tmp_path / "run", photos)
    cuda, trained = pick_device("cuda"), load_trained(folder)
    found = [item for item in predict(trained, find([photos / "val"]), device=cuda) if isinstance(item, Named)]
    assert next(trained.network.parameters()).device.type == "cpu"  # the caller's network stays where it was
    network = trained.network.to(cuda).to(memory_format=torch.channels_last)
    expected = correct(network, to_device(data, RECIPES["standard"], cuda), 20)
    assert [item.classes[0] == item.folder for item in found] == expected.tolist()
