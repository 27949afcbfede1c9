from __future__ import annotations

import csv
import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from full_training import RECIPE, Notes, Place, StopAt, assert_same, assert_same_training, last, weights
from PIL import Image
from safetensors import safe_open

from nas import catalog, lane
from nas.data import load as load_data
from nas.errors import DataError, DeviceError, RunError, UsageError, WeightsError
from nas.models import build
from nas.runs import open_training
from nas.train import full_epoch, full_facts, full_loop
from nas.train.config import TrainConfig, recipe_of
from nas.train.distributed import Group
from nas.train.full_recipes import full_phases
from nas.train.loop import evaluate, to_device
from nas.train.session import resume_training, train_network
from nas.train.watch import EpochRow
from nas.weights import load_weights, read_weights

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("place"))


@pytest.fixture(scope="module")
def whole(place: Place) -> Path:
    """A training that nothing stopped."""
    return place.train("whole").run.folder


def table(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def test_a_training_leaves_all_that_belongs_to_it(whole: Path) -> None:
    assert {path.name for path in whole.iterdir()} == {
        ".lock", "manifest.json", "arch.yaml", "weights.safetensors", "last.pt", "history.csv", "result.json",
        "classes.csv", "curves.png", "report.md",
    }  # fmt: skip
    facts = open_training(whole).manifest
    assert facts["kind"] == "train" and facts["data"]["class_names"] == ["blue", "green", "red"]
    assert facts["resolution"] == 16 and facts["test_resolution"] == 16
    rows = table(whole / "history.csv")
    assert [row["epoch"] for row in rows] == ["1", "2", "3", "4"]
    assert [(row["phase"], row["resolution"]) for row in rows] == [("1", "8"), ("1", "8"), ("2", "16"), ("2", "16")]
    assert float(rows[-1]["train_loss"]) < float(rows[0]["train_loss"])
    result = json.loads((whole / "result.json").read_text())
    assert result["epochs"] == 4 and result["micro_batch"] == 16 and result["notes"] == []
    best = rows[result["best_epoch"] - 1]
    assert result["val_accuracy"] == float(best["val_accuracy"]) == max(float(row["val_accuracy"]) for row in rows)
    page = (whole / "report.md").read_text()
    assert f"{result['val_accuracy']:.4f} ± {result['val_error']:.4f}" in page and "| red |" in page


def test_the_kept_weights_have_the_reported_accuracy_in_the_network_of_the_run(place: Place, whole: Path) -> None:
    spec = catalog.load_arch(whole)
    network = build(spec, seed=7)
    load_weights(network, whole / "weights.safetensors")
    data = load_data(str(place.data), resolution=16)
    result = json.loads((whole / "result.json").read_text())
    assert evaluate(network, to_device(data, None, CPU), 16) == (result["val_accuracy"], result["val_error"])
    with safe_open(whole / "weights.safetensors", "pt") as file:
        assert file.metadata() == {
            "arch_hash": spec.arch_hash,
            "epoch": str(result["best_epoch"]),
            "val_accuracy": str(result["val_accuracy"]),
        }
    classes = table(whole / "classes.csv")
    assert (
        sum(int(row["right"]) for row in classes) / sum(int(row["images"]) for row in classes) == result["val_accuracy"]
    )
    assert [int(row["images"]) for row in classes] == np.bincount(data.val.labels).tolist()


@pytest.mark.parametrize(("epoch", "within"), [(2, False), (3, True), (1, True)])
def test_a_stopped_training_continues_to_the_bit(place: Place, whole: Path, epoch: int, within: bool) -> None:
    out = f"stopped-{epoch}-{within}"
    with pytest.raises(KeyboardInterrupt):
        place.train(out, StopAt(epoch, within=within))
    assert not (place.folder / out / "result.json").exists()
    torch.rand(5)  # whatever else draws random numbers in the process
    resume_training(place.folder / out)
    assert_same_training(whole, place.folder / out)


def test_epochs_of_another_device_are_told_apart(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KeyboardInterrupt):
        place.train("moved", StopAt(2))
    run = place.folder / "moved"
    began = open_training(run).manifest["device"]
    monkeypatch.setattr(full_facts, "describe_device", lambda _: {"type": "cpu", "name": "Other, Inc."})
    result = resume_training(run)
    assert [row["device"] for row in table(run / "history.csv")] == [began["name"]] * 2 + ["Other, Inc."] * 2
    stored = json.loads((run / "result.json").read_text())
    assert stored["devices"] == [
        {"device": began["name"], "first_epoch": 1, "last_epoch": 2},
        {"device": "Other, Inc.", "first_epoch": 3, "last_epoch": 4},
    ]
    (note,) = stored["notes"]
    assert note.startswith("From epoch 3 on the training went on under other conditions (device): on Other, Inc. with")
    page = (run / "report.md").read_text()
    assert note in page and page.count(f"epochs 1 to 2 on {began['name']}; epochs 3 to 4 on Other, Inc.") == 2
    monkeypatch.undo()
    assert resume_training(run).summary == result.summary  # a training that has ended is not changed by looking at it


def test_what_a_kill_between_two_files_left_out_is_written_again(place: Place, whole: Path) -> None:
    copy = Path(shutil.copytree(whole, place.folder / "copy"))
    for name in ("history.csv", "weights.safetensors", "result.json"):
        (copy / name).unlink()
    before = json.loads((whole / "result.json").read_text())
    resume_training(copy)
    assert json.loads((copy / "result.json").read_text()) == before
    if before["best_epoch"] == 4:
        assert_same_training(whole, copy)


def test_a_training_killed_before_its_first_epoch_begins_anew(place: Place, whole: Path) -> None:
    copy = place.folder / "begun"
    copy.mkdir()
    for name in ("manifest.json", "arch.yaml"):
        shutil.copy(whole / name, copy)
    resume_training(copy)
    assert_same_training(whole, copy)


def test_the_optimiser_of_the_papers_goes_on_to_the_bit_too(place: Place, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "extends: v2_m_shipped\nepochs: 4\nbatch_size: 16\nwarmup_epochs: 1\n"
        "progressive: {phases: 2, size: [0.5, 1], mixup: [0, 0.2]}\ntest_size: 1.5\nclip_norm: 1\n"
    )
    whole = place.train("rmsprop", recipe=str(recipe))
    assert whole.summary["test_resolution"] == 24
    with pytest.raises(KeyboardInterrupt):
        place.train("rmsprop-stopped", StopAt(3, within=True), recipe=str(recipe))
    resume_training(place.folder / "rmsprop-stopped")
    assert_same_training(whole.run.folder, place.folder / "rmsprop-stopped")


def test_the_file_that_a_training_goes_on_from_gives_its_averaged_weights(whole: Path) -> None:
    stored, found = last(whole), read_weights(whole / "last.pt")
    assert_same(found, stored["ema"])
    assert not torch.equal(found["classifier.weight"], stored["network"]["classifier.weight"])


def test_other_seeds_are_other_trainings(place: Place, whole: Path) -> None:
    other = place.train("seed", seed=1).run.folder
    assert not torch.equal(weights(whole)["classifier.weight"], weights(other)["classifier.weight"])


def test_a_full_disk_is_told_and_the_epoch_before_stays(
    place: Place, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync, epochs = os.fsync, []

    class Full(Notes):
        def stepped(self, epoch: int, resolution: int, done: int, steps: int) -> None:
            epochs.append(epoch)

    def full(handle: int) -> None:
        if epochs and epochs[-1] == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(handle)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match=r"last\.pt: cannot be written \(No space left.*continue with --resume"):
        place.train("full", Full())
    monkeypatch.setattr(os, "fsync", sync)
    stopped = place.folder / "full"
    assert len(json.loads(last(stopped)["facts"])["history"]) == 2 and not list(stopped.glob("*.tmp"))
    resume_training(stopped)
    assert_same_training(whole, stopped)


def test_the_weights_of_the_best_epoch_stay_when_later_ones_are_worse(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, seen = iter((3, 9, 9, 4)), []  # images named right: of equals the later epoch is kept

    def scores(training: full_loop.Training, *_: Any) -> torch.Tensor:
        seen.append({name: value.clone() for name, value in training.network.state_dict().items()})
        return torch.tensor([[10, next(given)], [2, 0], [0, 0]])

    monkeypatch.setattr(full_loop, "scores", scores)
    result = place.train("best")
    assert result.best_epoch == 3 and result.val_accuracy == 9 / 12
    assert result.summary["last_val_accuracy"] == 4 / 12
    kept = weights(result.run.folder)
    assert all(torch.equal(kept[name], value) for name, value in seen[2].items())
    assert not torch.equal(kept["classifier.weight"], seen[3]["classifier.weight"])
    with safe_open(result.run.folder / "weights.safetensors", "pt") as file:
        assert file.metadata()["epoch"] == "3"
    assert [row["right"] for row in table(result.run.folder / "classes.csv")] == ["9", "0", "0"]


def test_out_of_memory_splits_the_batch_and_begins_the_epoch_again(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, calls, begins = full_loop.backward, [], []

    def greedy(training: full_loop.Training, *rest: Any, **share: Any) -> torch.Tensor:
        calls.append(training.micro_batch)
        if len(calls) == 4 * 2 + 3:  # in the third step of the third epoch; an epoch has four
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return original(training, *rest, **share)

    def begin(training: full_loop.Training, *rest: Any, **named: Any) -> full_loop.EpochTraining:
        begins.append({name: value.clone() for name, value in training.network.state_dict().items()})
        return first(training, *rest, **named)

    first = full_loop.train_epoch
    monkeypatch.setattr(full_loop, "backward", greedy)
    monkeypatch.setattr(full_loop, "train_epoch", begin)
    seen = Notes()
    result = place.train("oom", seen)
    said = [line for line in seen.said if line.startswith("Out of memory in epoch 3 at 16 pixels")]
    assert len(said) == 1 and "parts of 8 images" in said[0] and "batch norm" in said[0]
    assert [row.micro_batch for row in result.history] == [16, 16, 8, 8]
    assert result.summary["notes"] == said
    assert open_training(result.run.folder).manifest["micro_batch"] == 8
    assert len(begins) == 5
    assert_same(begins[2], begins[3])  # the third epoch, twice from the same weights
    assert said[0] in (result.run.folder / "report.md").read_text()


def test_out_of_memory_while_scoring_halves_the_scoring_alone(
    place: Place, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, batches, trained = full_loop.correct, [], []

    def greedy(network: Any, data: Any, resolution: int, batch_size: int, part: range) -> torch.Tensor:
        batches.append(batch_size)
        if batch_size > 8:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return original(network, data, resolution, batch_size, part)

    def counted(training: full_loop.Training, data: Any, phase: Any, epoch: int, *rest: Any) -> full_loop.EpochTraining:
        trained.append(epoch)
        return first(training, data, phase, epoch, *rest)

    first = full_loop.train_epoch
    monkeypatch.setattr(full_loop, "correct", greedy)
    monkeypatch.setattr(full_loop, "train_epoch", counted)
    seen = Notes()
    result = place.train("oom-scoring", seen)
    assert trained == [1, 2, 3, 4] and batches == [32, 16, 8, 8, 8, 8]
    (said,) = seen.said
    assert "while scoring after epoch 1, with 32 images of 16 pixels" in said and "scored 8 at a time" in said
    assert result.summary["notes"] == [said] and [row.micro_batch for row in result.history] == [16] * 4
    mine, theirs = last(result.run.folder), last(whole)
    assert (mine["score_batch"], theirs["score_batch"]) == (8, 32)
    assert_same(mine["network"], theirs["network"])  # nothing was trained again, and nothing otherwise
    monkeypatch.setattr(full_loop, "correct", lambda *_: greedy(None, None, 0, 9, range(0)))
    with pytest.raises(
        DeviceError, match=r"while one image of 16 pixels is scored.*--device\. Continue with: nas train"
    ):
        place.train("oom-one", epochs=2)


def test_a_resumed_training_takes_fewer_images_at_a_time_when_asked(place: Place, whole: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        place.train("asked", StopAt(2), micro_batch=8)
    run = place.folder / "asked"
    with pytest.raises(UsageError, match=r"--micro-batch: found 2 for 5 images, of which one would be alone.*Give 3"):
        place.train("alone", micro_batch=2, batch_size=5)
    with pytest.raises(KeyboardInterrupt):
        resume_training(run, micro_batch=4, watcher=StopAt(3))
    result = resume_training(run)
    assert [row.micro_batch for row in result.history] == [8, 8, 4, 4]
    first, second = result.summary["notes"]
    assert first.startswith("From step 1 on the 16 images") and second.startswith("From step 9 on the 16 images")
    assert "4 at a time" in second and open_training(run).manifest["config"]["micro_batch"] == 4


def test_out_of_memory_in_one_of_several_processes_names_what_a_resumed_training_takes(
    place: Place, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, recipe = place.spec, recipe_of(TrainConfig(recipe=str(place.recipe)))
    training = full_loop.begin(build(spec, seed=0), recipe, seed=0, device=CPU)
    training.group = Group(0, 2)
    for images, words in ((8, "Give --micro-batch 4 to go on"), (2, "Train anew with a smaller network")):
        training.micro_batch = images
        common = full_epoch.Place(open_training(whole), training, None, 16, "", Notes(), lambda *_: None)  # type: ignore[arg-type]
        with pytest.raises(DeviceError, match=rf"with {images} images of 8 pixels.*{words}"):
            full_epoch._smaller(common, full_epoch.State(), full_phases(recipe, 16)[0], 1)


def test_out_of_memory_with_two_images_is_an_error(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(full_loop, "backward", full)
    with pytest.raises(DeviceError, match=r"out of memory in epoch 1, with 2 images of 8 pixels.*--resume"):
        place.train("hopeless")


def test_a_network_that_does_not_fit_at_all_is_an_error(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(full_loop, "begin", full)
    with pytest.raises(DeviceError, match=r"cpu: out of memory before the first step"):
        place.train("huge")


def test_a_loss_that_is_no_number_ends_the_training_with_its_remedy(place: Place) -> None:
    with pytest.raises(RunError, match=r"loss is not finite.*--learning-rate"):
        place.train("diverged", learning_rate=1e5, recipe="short", epochs=4, batch_size=8)


@pytest.mark.parametrize("where", ["network", "average", "scores"])
def test_weights_that_are_no_numbers_are_not_kept(place: Place, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    """The loss of an epoch is computed before its last step, so that it may be finite while the weights are not."""
    original = full_loop.train_epoch

    def spoilt(training: full_loop.Training, data: Any, phase: Any, epoch: int, *rest: Any) -> full_loop.EpochTraining:
        shown = original(training, data, phase, epoch, *rest)
        assert training.ema
        if epoch == 2 and where == "network":
            training.network.get_parameter("classifier.bias").data[0] = float("nan")
        elif epoch == 2 and where == "average":
            training.ema.values["bn1.running_var"][0] = float("inf")
        elif epoch == 2:
            training.ema.values["classifier.weight"].fill_(3e38)  # finite, but no sum of it is
        return shown

    monkeypatch.setattr(full_loop, "train_epoch", spoilt)
    words = {"network": "the weights are", "average": "averaged weights are", "scores": "scores of the validation"}
    with pytest.raises(RunError, match=rf"{words[where]}.* not finite.*--learning-rate"):
        place.train(f"spoilt-{where}", epochs=2)
    run = place.folder / f"spoilt-{where}"
    kept = last(run)
    assert len(json.loads(kept["facts"])["history"]) == 1
    tensors = [*kept["network"].values(), *kept["ema"].values(), *weights(run).values()]
    assert all(bool(value.isfinite().all()) for value in tensors)


def test_other_images_and_other_runs_are_not_continued(place: Place, whole: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(whole, tmp_path / "copy"))
    images = Path(shutil.copytree(place.data, tmp_path / "images"))
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(images / "red" / "000.png")
    with pytest.raises(RunError, match=r"data\.fingerprint"):
        resume_training(copy, data=str(images))
    facts = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps({**facts, "kind": "search"}))
    with pytest.raises(UsageError, match="is a search run, not a training"):
        resume_training(copy)
    (copy / "manifest.json").write_text(json.dumps(facts))
    (copy / "last.pt").write_bytes(b"half")
    with pytest.raises(RunError, match=r"last\.pt: cannot be read"):
        resume_training(copy)


def test_moved_images_are_asked_for_and_found(place: Place, whole: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(whole, tmp_path / "copy"))
    moved = Path(shutil.copytree(place.data, tmp_path / "moved"))
    facts = json.loads((copy / "manifest.json").read_text())
    facts["config"]["data"] = str(tmp_path / "gone")
    (copy / "manifest.json").write_text(json.dumps(facts))
    with pytest.raises(RunError, match=r"its images are not at .*--data PATH"):
        resume_training(copy)
    resume_training(copy, data=str(moved))
    assert open_training(copy).manifest["config"]["data"] == str(moved)


TRANSFER = RECIPE.replace("extends: short", "extends: transfer\nfreeze_epochs: 2\nwarmup_epochs: 0")


def test_a_transfer_begins_with_the_backbone_and_a_fresh_classifier(place: Place, whole: Path, tmp_path: Path) -> None:
    """Four classes in place of three."""
    images = Path(shutil.copytree(place.data, tmp_path / "images"))
    shutil.copytree(images / "red", images / "white")
    (tmp_path / "transfer.yaml").write_text(TRANSFER.replace("erasing: 0.2", "freeze_norm: true\nerasing: 0.2"))
    seen: list[dict[str, torch.Tensor]] = []

    class Look(Notes):
        def epoch(self, row: EpochRow, best: bool) -> None:
            seen.append(last(tmp_path / "run")["network"])

    settings: dict[str, Any] = {"recipe": str(tmp_path / "transfer.yaml"), "data": str(images), "out": tmp_path / "run"}
    given = whole / "weights.safetensors"
    result = train_network(place.spec, **settings, weights=given, device="cpu", watcher=Look())
    assert "its classifier has 3 classes, these images have 4" in result.summary["notes"][0]
    before = weights(whole)
    for name, value in before.items():
        if not name.startswith("classifier"):
            assert torch.equal(value, seen[1][name]), name  # frozen for two epochs, statistics included
        assert name.endswith(("running_mean", "running_var", "num_batches_tracked")) == torch.equal(
            seen[1][name], seen[3][name]
        ), name  # then all of it learns; the statistics stay
    assert not torch.equal(seen[0]["classifier.weight"], seen[1]["classifier.weight"])


def test_weights_are_asked_for_and_must_fit(place: Place, whole: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"recipe transfer: begins from trained weights.*--weights"):
        place.train("none", recipe="transfer")
    images = Path(shutil.copytree(place.data, tmp_path / "images"))
    shutil.copytree(images / "red", images / "white")
    with pytest.raises(WeightsError, match=r"has 3 classes, these images have 4; .*--recipe transfer"):
        place.train("strict", data=str(images), weights=whole / "weights.safetensors")
    assert not (place.folder / "strict").exists()
    again = place.train("again", weights=whole / "weights.safetensors", epochs=2)
    assert again.history[0].train_loss < place.train("cold", epochs=2).history[0].train_loss


def test_weights_that_do_not_fit_are_told_before_images_are_read(
    place: Place, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors = weights(whole)
    (tmp_path / "damaged.pt").write_bytes(b"half")
    torch.save({name: value for name, value in tensors.items() if "bn1" not in name}, tmp_path / "other.pt")
    torch.save({**tensors, "conv_stem.weight": tensors["conv_stem.weight"][:, :1]}, tmp_path / "grey.pt")

    def unread(*_: Any, **__: Any) -> None:
        raise AssertionError("the images were read")

    monkeypatch.setattr("nas.train.session.load_data", unread)
    for name, words in (("none.pt", "no such file"), ("damaged.pt", "cannot be read"), ("other.pt", "missing: bn1")):
        with pytest.raises(WeightsError, match=words):
            place.train("unfit", weights=tmp_path / name)
        assert not (place.folder / "unfit").exists()
    with pytest.raises(AssertionError, match="were read"):  # whether the images are grey too is not known before
        place.train("unfit", weights=tmp_path / "grey.pt")
    monkeypatch.undo()
    with pytest.raises(WeightsError, match=r"conv_stem\.weight \(8, 1, 3, 3\) \(the network has \(8, 3, 3, 3\)"):
        place.train("unfit", weights=tmp_path / "grey.pt")
    assert not (place.folder / "unfit").exists()


@pytest.mark.parametrize(("epochs", "frozen"), [(1, 0), (2, 1), (4, 1), (20, 2), (40, 4)])
def test_a_short_transfer_has_a_frozen_epoch_too(epochs: int, frozen: int) -> None:
    assert recipe_of(TrainConfig(recipe="transfer", weights=Path("w.pt"), epochs=epochs)).freeze_epochs == frozen


def test_fewer_epochs_keep_the_shape_of_the_schedule() -> None:
    recipe = recipe_of(TrainConfig(recipe="v2_s_paper", epochs=35, batch_size=512))
    assert recipe.warmup_epochs == pytest.approx(0.5) and recipe.decay_epochs == pytest.approx(0.24)
    assert recipe.rate() == pytest.approx(0.256 * 512 / 4096)
    assert recipe.rate_at(34.999) / recipe.rate() == pytest.approx(0.97 ** (345 // 2.4))
    assert recipe_of(TrainConfig(recipe="v2_s_paper", learning_rate=0.1, batch_size=512)).rate() == 0.1
    with pytest.raises(UsageError, match="epochs: found 2"):
        recipe_of(TrainConfig(epochs=2))  # it has four phases


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"epochs": 0}, "--epochs: found 0; allowed: 1 or more"),
        ({"batch_size": 2.5}, "--batch-size: found 2.5; allowed: a whole number"),
        ({"learning_rate": -1}, "--learning-rate: found -1"),
        ({"epoch": 3}, "epoch: unknown setting.*Did you mean epochs"),
        ({"data": 3}, "--data: found 3"),
    ],
)
def test_settings_are_checked(place: Place, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        train_network(place.spec, **settings)


def test_broken_images_are_left_out_when_asked(place: Place, tmp_path: Path) -> None:
    images = Path(shutil.copytree(place.data, tmp_path / "images"))
    (images / "red" / "zzz.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"zzz\.png"):
        place.train("broken", data=str(images))
    assert not (place.folder / "broken").exists()  # nothing had begun
    result = place.train("skipped", data=str(images), skip_broken=True, epochs=2)
    assert any("left out" in note or "skipped" in note.lower() for note in result.run.manifest["data"]["notes"])


def test_a_training_steps_aside_for_a_timing(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(lane.Lane, "wanted", lambda self: len(asked) < 2)
    monkeypatch.setattr(lane.Lane, "give_way", lambda self: asked.append("gave way"))
    place.train("aside", epochs=2)
    assert len(asked) == 2
