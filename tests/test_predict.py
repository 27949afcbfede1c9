"""Prediction: images prepared as they were scored, from wherever a network with its weights lies."""

from __future__ import annotations

import json
import shutil
import tarfile
import tracemalloc
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import trained_runs
from PIL import Image

from nas import catalog
from nas.data import Dataset, load
from nas.data.augment import eval_batch
from nas.data.loose import Broken, find
from nas.errors import DataError, ExportError, RunError, UsageError, WeightsError
from nas.export import export
from nas.export.trained import Trained
from nas.predict import ALL, Named, Score, header, load_trained, predict, row
from nas.runs import read_json, write_json
from nas.search import SearchResult
from nas.train.loop import correct, evaluate, to_device
from nas.train.recipes import RECIPES


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("photos")
    trained_runs.write_photos(root, "train", 12, 0)
    trained_runs.write_photos(root, "val", 10, 1)
    return trained_runs.write_photos(root, "test", 2, 2)


@pytest.fixture(scope="module")
def made(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Dataset]:
    return trained_runs.make(tmp_path_factory.mktemp("runs") / "run", photos)


@pytest.fixture
def run(made: tuple[Path, Dataset], tmp_path: Path) -> Path:
    return Path(shutil.copytree(made[0], tmp_path / "run"))


def named(trained: Trained, *paths: Path, **settings: int) -> list[Named]:
    found = list(predict(trained, find(paths), **settings))
    assert all(isinstance(item, Named) for item in found)
    return [item for item in found if isinstance(item, Named)]


def shares(found: list[Named]) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """Probabilities by class, (N, 3)."""
    return np.array(
        [[share for _, share in sorted(zip(item.classes, item.probabilities, strict=True))] for item in found]
    )


def test_validation_images_are_scored_as_in_training(made: tuple[Path, Dataset], photos: Path) -> None:
    """Of photographs that are cut and resized twice, image for image, and to the bit of the probabilities."""
    folder, data = made
    trained = load_trained(folder)
    assert trained.resolution == 20 and data.size == 24
    on_device = to_device(data, replace(RECIPES["standard"], val_images=1000), torch.device("cpu"))
    expected = correct(trained.network, on_device, 20)
    found = named(trained, photos / "val", top=3)
    right = [item.classes[0] == item.folder for item in found]
    assert right == expected.tolist() and 0 < sum(right) < len(right)
    score = Score(data.class_names)
    for item in found:
        score.add(item)
    *classes, (name, images, count, accuracy, error) = score.rows()
    assert (name, images, count) == (ALL, 30, sum(right)) and [line[0] for line in classes] == list(data.class_names)
    assert (accuracy, error) == evaluate(trained.network, on_device, 20)
    pixels = torch.from_numpy(np.array(data.val.images))
    with torch.inference_mode():
        x = eval_batch(pixels, resolution=20, mean=on_device.mean, std=on_device.std)
        exact = trained.network(x).softmax(1).numpy()
    assert np.abs(shares(found) - exact).max() == 0
    # The batch, which is bounded by it, changes nothing but the last bit.
    assert np.abs(shares(named(trained, photos / "val", top=3, batch_size=4)) - exact).max() < 1e-6


def test_images_of_the_stored_size_stay_as_they_are(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        (tmp_path / "small" / name).mkdir(parents=True)
        for number in range(10):
            image = Image.fromarray(rng.integers(0, 255, (12, 12), dtype=np.uint8))
            image.save(tmp_path / "small" / name / f"{number}.{'jpg' if number % 2 else 'png'}")
    folder, data = trained_runs.make(tmp_path / "run", tmp_path / "small", test_resolution=16)
    assert (data.size, data.in_channels) == (12, 1)
    trained = load_trained(folder)
    found = {item.path: item.probabilities for item in named(trained, tmp_path / "small")}
    with torch.inference_mode():
        mean, std = torch.tensor(data.mean), torch.tensor(data.std)
        x = eval_batch(torch.from_numpy(np.array(data.val.images)), resolution=16, mean=mean, std=std)
        exact = trained.network(x).softmax(1).amax(1)
    assert all(min(abs(share - value[0]) for value in found.values()) < 1e-6 for share in exact.tolist())


def test_archives_and_folders_hold_the_same_images(made: tuple[Path, Dataset], photos: Path, tmp_path: Path) -> None:
    trained = load_trained(made[0])
    expected = named(trained, photos / "test")
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for path in sorted((photos / "test").rglob("*.*")):
            archive.write(path, path.relative_to(photos))
    for suffix in ("tar", "tar.gz"):
        with tarfile.open(tmp_path / f"x.{suffix}", f"w:{suffix.rpartition('.')[2]}".replace("w:tar", "w")) as tar:
            tar.add(photos / "test", "test")
    for name in ("x.zip", "x.tar", "x.tar.gz"):
        found = named(trained, tmp_path / name)
        assert len(found) == 6
        by_name = {item.path.partition(": test/")[2]: (item.folder, item.probabilities) for item in found}
        # Of a compressed tar archive the order is its own, and so are the batches.
        for item in expected:
            folder, probabilities = by_name[item.path.removeprefix(f"{photos}/test/")]
            assert folder == item.folder and probabilities == pytest.approx(item.probabilities, abs=1e-6)
    both = named(trained, photos / "test" / "red", tmp_path / "x.zip", photos / "test" / "blue" / "0.png")
    assert len(both) == 9 and both[-1].folder == "blue"


def test_folders_are_searched_and_litter_is_not(made: tuple[Path, Dataset], photos: Path, tmp_path: Path) -> None:
    image = photos / "test" / "red" / "0.png"
    for place in ("b/deep/2.png", "b/1.PNG", "a.png", ".hidden/x.png", "__MACOSX/y.png", "b/notes.txt"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(image, tmp_path / place)
    (tmp_path / "b" / "loop").symlink_to(tmp_path)
    found = named(load_trained(made[0]), tmp_path)
    assert [item.path.removeprefix(f"{tmp_path}/") for item in found] == ["a.png", "b/1.PNG", "b/deep/2.png"]
    assert [item.folder for item in found][1:] == ["b", "deep"]
    with pytest.raises(DataError, match=r"gone: no such file or folder"):
        find([tmp_path / "gone"])
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match=r"none: found no image; files ending in .jpg"):
        find([tmp_path / "none"])


def test_a_broken_image_is_named_or_left_out(made: tuple[Path, Dataset], photos: Path, tmp_path: Path) -> None:
    shutil.copytree(photos / "test", tmp_path / "test")
    (tmp_path / "test" / "green" / "0.png").write_bytes(b"no image")
    trained, images = load_trained(made[0]), find([tmp_path / "test"])
    with pytest.raises(DataError, match=r"green/0.png: cannot be decoded \(not an image.*--skip-broken"):
        list(predict(trained, images))
    found = list(predict(trained, images, skip_broken=True, batch_size=2))
    assert [isinstance(item, Broken) for item in found] == [False, False, True, False, False, False]


def test_an_order_of_equal_scores_is_that_of_training(made: tuple[Path, Dataset], photos: Path) -> None:
    trained = load_trained(made[0])
    torch.nn.init.zeros_(trained.network.classifier.weight)
    torch.nn.init.zeros_(trained.network.classifier.bias)
    assert {item.classes for item in named(trained, photos / "test", top=3)} == {trained_runs.CLASSES}
    with pytest.raises(UsageError, match=r"--top: found 4; the network tells 3 classes apart"):
        list(predict(trained, find([photos / "test"]), top=4))


def test_few_images_are_in_memory(made: tuple[Path, Dataset], tmp_path: Path) -> None:
    """200 images of 0.5 MB as pixels, 110 MB."""
    side = 430
    Image.fromarray(np.zeros((side, side, 3), np.uint8)).save(tmp_path / "0.png")
    for number in range(1, 200):
        shutil.copy(tmp_path / "0.png", tmp_path / f"{number}.png")
    trained, images = load_trained(made[0]), find([tmp_path])
    tracemalloc.start()
    try:
        assert sum(1 for _ in predict(trained, images, batch_size=8)) == 200
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 200 * side * side * 3 / 8


def test_the_winner_of_a_search_needs_no_images_of_it(finished: SearchResult, run_copy: Path, tmp_path: Path) -> None:
    images = Path(finished.run.manifest["config"]["data"])
    shutil.copytree(images, tmp_path / "elsewhere")
    manifest = read_json(run_copy / "manifest.json", dict, "")
    manifest["config"]["data"] = str(tmp_path / "gone")
    write_json(run_copy / "manifest.json", manifest)
    trained = load_trained(run_copy)
    expected = named(trained, images, top=3)
    assert trained.spec.arch_hash == finished.winner.arch_hash and len(expected) == 120
    # A run of an earlier version does not say how its images were normalised: they do.
    for key in ("class_names", "mean", "std"):
        del manifest["data"][key]
    write_json(run_copy / "manifest.json", manifest)
    with pytest.raises(RunError, match=r"its images are not at .*gone.*--data"):
        load_trained(run_copy)
    again = load_trained(run_copy, data=str(tmp_path / "elsewhere"))
    assert named(again, images, top=3) == expected


def test_an_export_and_a_file_say_how_images_are_prepared(run: Path, photos: Path, tmp_path: Path) -> None:
    expected = named(load_trained(run), photos / "test", top=3)
    folder = export(run, ["torch", "safetensors"]).folder
    assert named(load_trained(folder), photos / "test", top=3) == expected
    file = folder / "tiny_network.safetensors"
    assert named(load_trained(folder / "architecture.yaml", weights=file), photos / "test", top=3) == expected
    bare = folder / "tiny_network.pt"
    with pytest.raises(UsageError, match=r"does not say how its images were normalised.*--data"):
        load_trained(folder / "architecture.yaml", weights=bare)
    trained = load_trained(folder / "architecture.yaml", weights=bare, data=str(photos))
    assert named(trained, photos / "test", top=3) == expected
    with pytest.raises(UsageError, match=r"weights.safetensors: is of the run .*run\. Name the run"):
        load_trained(folder / "architecture.yaml", weights=run / "weights.safetensors")
    with pytest.raises(UsageError, match=r"--weights: .*has weights of its own"):
        load_trained(run, weights=file)
    with pytest.raises(UsageError, match=r"is an architecture, and has no weights"):
        load_trained("mobilenet_v1")
    record = json.loads((folder / "export.json").read_text())
    write_json(folder / "export.json", record | {"files": {"onnx": ["x.onnx"]}})
    with pytest.raises(ExportError, match=r"holds x.onnx, and no tensors that nas reads.*--format safetensors"):
        load_trained(folder)
    (folder / "export.json").write_text("{}")
    with pytest.raises(ExportError, match=r"cannot be read as that of an export"):
        load_trained(folder)


def test_a_training_that_is_not_whole_is_said(run: Path, tmp_path: Path) -> None:
    (run / "weights.safetensors").rename(tmp_path / "kept")
    with pytest.raises(RunError, match=r"has no weights yet, for no epoch has ended. Continue it: nas train --resume"):
        load_trained(run)
    (tmp_path / "kept").rename(run / "weights.safetensors")
    text = (run / "arch.yaml").read_text()
    (run / "arch.yaml").write_text(text.replace("drop_path: 0.1", "drop_path: 0.2"))
    assert (run / "arch.yaml").read_text() != text
    with pytest.raises(WeightsError, match=r"was written for the network .*Put back the files of one training"):
        load_trained(run)
    manifest = read_json(run / "manifest.json", dict, "")
    del manifest["data"]["std"]
    write_json(run / "manifest.json", manifest)
    with pytest.raises(RunError, match=r"data.std: found nothing; the manifest of a training has it"):
        load_trained(run)


def test_a_folder_is_its_network_wherever_one_is_asked_for(
    run: Path, run_copy: Path, finished: SearchResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = read_json(run / "manifest.json", dict, "")
    assert catalog.load_arch(run).arch_hash == manifest["arch"]["hash"]
    assert catalog.load_arch(run_copy).arch_hash == finished.winner.arch_hash
    folder = export(run, ["torch"]).folder
    assert catalog.load_arch(folder).resolved().resolution == 20  # as it was scored
    write_json(run / "manifest.json", manifest | {"kind": "scale"})
    with pytest.raises(UsageError, match=r"is a scale run, which has no network of its own"):
        catalog.load_arch(run)
    with pytest.raises(UsageError, match=r"is a scale run, which keeps no weights"):
        load_trained(run)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "efficientnet_b0").mkdir()  # a folder called like a shipped network
    assert catalog.load_arch("efficientnet_b0").num_classes == 1000
    with pytest.raises(RunError, match="not a run folder"):
        catalog.load_arch(tmp_path)


def test_a_row_has_a_cell_for_every_column() -> None:
    found = Named("a.png", "red", ("red", "blue"), (0.75, 0.125))
    assert dict(zip(header(2), row(found), strict=True)) == {
        "path": "a.png", "class": "red", "probability": "0.750000", "class_2": "blue", "probability_2": "0.125000",
    }  # fmt: skip


def test_images_elsewhere_are_in_no_count() -> None:
    score = Score(("a", "b"))
    assert score.rows() == []
    for folder, said in (("a", "a"), ("a", "b"), ("dogs", "a")):
        score.add(Named("x", folder, (said,), (1.0,)))
    assert [line[:4] for line in score.rows()] == [("a", 2, 1, 0.5), (ALL, 2, 1, 0.5)]
    assert (score.elsewhere, score.other) == (1, "dogs")


def test_the_manifest_of_a_search_has_what_prediction_needs(finished: SearchResult) -> None:
    stored = finished.run.manifest["data"]
    data = load(finished.run.manifest["config"]["data"], resolution=16)
    assert tuple(stored["class_names"]) == data.class_names
    assert (tuple(stored["mean"]), tuple(stored["std"])) == (data.mean, data.std)
