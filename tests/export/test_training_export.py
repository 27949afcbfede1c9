"""A training handed over: at the resolution it was scored at, with its facts, and naming images as `nas predict` does."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import trained_runs
from PIL import Image, ImageOps
from safetensors import safe_open

from nas.data.loose import find
from nas.errors import RunError, UsageError
from nas.export import Exported, export
from nas.predict import Named, load_trained, predict
from nas.runs import write_json

ONNX = all(map(importlib.util.find_spec, ("onnx", "onnxscript", "onnxruntime")))
FORMATS = ["torch", "safetensors", *(["onnx"] if ONNX else [])]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("photos")
    trained_runs.write_photos(root, "train", 8, 0)
    trained_runs.write_photos(root, "val", 10, 1)
    return root


@pytest.fixture(scope="module")
def run(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained_runs.make(tmp_path_factory.mktemp("runs") / "run", photos)[0]


@pytest.fixture(scope="module")
def exported(run: Path) -> Exported:
    return export(run, FORMATS)


def prepared(path: Path, record: dict[str, object]) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """Follow the model card, with Pillow and numpy alone."""
    picture = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
    side = min(picture.size)
    left, top = (picture.width - side) / 2, (picture.height - side) / 2
    stored, size = (record["stored_size"],) * 2, (record["resolution"],) * 2
    picture = picture.resize(stored, Image.Resampling.BICUBIC, box=(left, top, left + side, top + side))
    pixels = np.asarray(picture.resize(size, Image.Resampling.BILINEAR), np.float32) / 255
    return ((pixels - np.float32(record["mean"])) / np.float32(record["std"])).transpose(2, 0, 1)


def softmax(scores: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> np.ndarray:  # type: ignore[type-arg]
    shares = np.exp(scores - scores.max(1, keepdims=True))
    return shares / shares.sum(1, keepdims=True)


def test_exports_and_prediction_name_images_alike(run: Path, photos: Path, exported: Exported, tmp_path: Path) -> None:
    record = json.loads((exported.folder / "export.json").read_text())
    images = find([photos / "val"])
    found = [item for item in predict(load_trained(run), images, top=3) if isinstance(item, Named)]
    x = np.stack([prepared(Path(item.path), record) for item in found])
    np.save(tmp_path / "x.npy", x)
    code = f"""
import sys
sys.path.insert(0, {str(exported.folder)!r})
sys.modules["nas"] = None
import numpy, torch, tiny_network
with torch.inference_mode():
    scores = tiny_network.load()(torch.from_numpy(numpy.load({str(tmp_path / "x.npy")!r}))).numpy()
numpy.save({str(tmp_path / "scores.npy")!r}, scores)
"""
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    answers = [np.load(tmp_path / "scores.npy")]
    if ONNX:
        import onnxruntime

        session = onnxruntime.InferenceSession(str(exported.folder / "tiny_network.onnx"))
        assert session.get_inputs()[0].shape[1:] == [3, 20, 20]
        answers.append(session.run(["scores"], {"images": x})[0])
    expected = np.array(
        [[dict(zip(i.classes, i.probabilities, strict=True))[c] for c in record["classes"]] for i in found]
    )
    for scores in answers:
        # Pillow rounds a grey level now and then to the other side of a half than torch does.
        assert np.abs(softmax(scores) - expected).max() < 2e-3
        assert [record["classes"][label] for label in scores.argmax(1)] == [item.classes[0] for item in found]


def test_the_card_and_the_metadata_tell_of_the_training(run: Path, exported: Exported) -> None:
    card = (exported.folder / "README.md").read_text()
    for words in (
        "trained by nas train, run run (from net.yaml at phi 2)",
        "of epoch 3 of 4, the best so far of a training that has not ended (recipe standard, seed 0)",
        "24 training and 30 validation images, 3 classes",
        "trained at up to 16 x 16 pixels, scored at 20 x 20, which is the input of this export",
        "accuracy of these weights: 0.5000 ± 0.0884, on the validation images",
        "to 24 x 24 pixels (as PIL's BICUBIC does, unless it has that size), then to 20 x 20 pixels (as PIL's BILINEAR does)",
        "float32, (N, 3, 20, 20), RGB",
    ):
        assert words in card
    with safe_open(exported.folder / "tiny_network.safetensors", "pt") as file:
        known = file.metadata()
    assert (known["test_resolution"], known["resolution"], known["stored_size"]) == ("20", "20", "24")
    assert float(known["val_accuracy"]) == 0.5 and known["val_images"] == "30"
    assert all(item.val_images == 30 and item.changed == 0 for item in exported.checks)


def test_a_training_that_has_ended_says_its_best_epoch(run: Path, tmp_path: Path) -> None:
    write_json(run / "result.json", {"best_epoch": 2, "val_accuracy": 0.5, "seconds": 1234.5})
    try:
        found = export(run, ["safetensors"], out=tmp_path / "out")
    finally:
        (run / "result.json").unlink()
    card = (found.folder / "README.md").read_text()
    assert "Weights: of epoch 2 of 4 (recipe standard, seed 0)." in card and "training took 1,234 s" in card


def test_what_a_training_does_not_have_is_refused(run: Path, photos: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--trial: belongs to a search; .*run is a training of one network"):
        export(run, trial="3", out=tmp_path / "out")
    other = trained_runs.write_photos(tmp_path / "other", "", 5, 7)
    with pytest.raises(RunError, match=r"found images of fingerprint .*--data"):
        export(run, data=str(other), out=tmp_path / "out")
    photos.rename(photos.with_name("moved"))
    try:
        with pytest.raises(RunError, match=r"its images are not at .*--data"):
            export(run, out=tmp_path / "out")
        assert export(run, ["safetensors"], data=str(photos.with_name("moved")), out=tmp_path / "out").checks
    finally:
        photos.with_name("moved").rename(photos)
