"""Prediction on a CUDA device computes in float32, as an export does on a CPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import trained_runs

from nas.data.loose import find
from nas.devices import pick_device
from nas.predict import Named, load_trained, predict

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"),
]


def test_probabilities_are_those_of_the_cpu(tmp_path: Path) -> None:
    photos = trained_runs.write_photos(tmp_path / "photos", "train", 8, 0)
    trained_runs.write_photos(photos, "val", 40, 1)
    folder, _ = trained_runs.make(tmp_path / "run", photos)
    cuda, trained = pick_device("cuda"), load_trained(folder)
    named = [
        [item for item in predict(trained, find([photos / "val"]), top=3, device=device) if isinstance(item, Named)]
        for device in (cuda, torch.device("cpu"))
    ]
    assert next(trained.network.parameters()).device.type == "cpu"  # the caller's network stays where it was
    for first, second in zip(*named, strict=True):
        assert dict(zip(first.classes, first.probabilities, strict=True)) == pytest.approx(
            dict(zip(second.classes, second.probabilities, strict=True)), abs=1e-4
        )
