from __future__ import annotations

import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from nas.cost import Measurement
from nas.data import Dataset, Split
from nas.doctor import Check, device, examine, folders, images, software
from nas.doctor._check import isolated
from nas.errors import DataError
from nas.lane import lane
from nas.spec import ArchSpec
from nas.train.recipes import RECIPES, load_recipe

QUICK = RECIPES["quick"]


def one(checks: Any) -> Check:
    (check,) = checks
    return check


def by_name(checks: list[Check]) -> dict[tuple[str, str], Check]:
    return {(check.area, check.name): check for check in checks}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(device, "nvidia_smi", lambda: [])
    monkeypatch.setattr("os.getloadavg", lambda: (0.1, 0.1, 0.1))
    monkeypatch.setattr(device, "cpu_quota", lambda: None)


# --- one look fails, the others go on -----------------------------------------------------------------------


def test_a_look_that_fails_is_a_finding() -> None:
    def breaks() -> list[Check]:
        raise ZeroDivisionError("by zero")

    def stops() -> list[Check]:
        raise DataError("photos/: no such folder. Check the path.")

    assert one(isolated("a", "b", breaks)).level == "warning"
    found = one(isolated("a", "b", breaks, "problem"))
    assert found.level == "problem" and "ZeroDivisionError: by zero" in found.found
    assert one(isolated("a", "b", stops)) == Check("a", "b", "problem", "photos/: no such folder. Check the path.")


def test_every_area_is_looked_at_without_data(monkeypatch: pytest.MonkeyPatch) -> None:
    found = list(examine(space="v2_tiny", device="cpu"))
    assert [check.area for check in found if check.level == "problem"] == []
    assert list(dict.fromkeys(check.area for check in found)) == ["software", "device", "folders", "space"]
    assert not list(Path.cwd().iterdir()), "looking leaves nothing behind"

    def breaks(*_: object) -> None:
        raise OSError("no such thing here")

    for place, name in ((software, "versions"), (device, "memory_available"), (folders, "cache")):
        monkeypatch.setattr(place, name, breaks)
    named = by_name(list(examine(space="v2_tiny", device="cpu")))
    for key in (("software", "versions"), ("device", "memory"), ("folders", "cache")):
        assert named[key].level == "warning" and "no such thing here" in named[key].found
    assert named["space", "space"].level == "ok"


def test_without_torch_the_page_ends_with_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    found = list(examine(space="v2_tiny", data="fashion-mnist-subset"))
    assert (found[-1].name, found[-1].level) == ("torch", "problem")
    assert "pip install --force-reinstall torch" in found[-1].advice


# --- software -----------------------------------------------------------------------------------------------


def test_an_absent_package_is_a_problem_and_an_absent_extra_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = [
        "torch<2.14,>=2.11",
        "optuna<6,>=5",
        "optuna-dashboard>=0.20; extra == 'dashboard'",
        "scipy; extra == 'gp'",
    ]
    there = {"torch": "2.10.0", "optuna": "5.0.0", "scipy": "1.17.1"}
    monkeypatch.setattr(software, "requires", lambda _: asked)
    monkeypatch.setattr(software, "_version", there.get)
    named = by_name([*software.versions(), *software.extras()])
    packages = named["software", "packages"]
    assert packages.level == "warning" and packages.found == "torch 2.10.0, tested with <2.14,>=2.11"
    assert packages.advice == "pip install 'torch<2.14,>=2.11'"
    dashboard = named["software", "dashboard"]
    assert dashboard.level == "ok" and "not installed (optuna-dashboard); for watching a run" in dashboard.found
    assert dashboard.advice == "to add it: pip install 'phinas[dashboard]'"
    assert named["software", "gp"].found == "scipy 1.17.1"
    there.pop("optuna")
    packages = by_name(list(software.versions()))["software", "packages"]
    assert packages.level == "problem" and "not installed: optuna<6,>=5" in packages.found


def test_every_extra_is_explained_or_for_developers() -> None:
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    table = text.split("[project.optional-dependencies]")[1].split("\n[")[0]
    names = {line.split("=")[0].strip() for line in table.splitlines() if " = [" in line}
    assert names == {*software.EXTRAS, "parity", "test", "lint", "docs", "dev"}


# --- device -------------------------------------------------------------------------------------------------


def test_a_cpu_torch_beside_a_gpu_is_told_how_to_change(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert one(device.torch_build("auto")).level == "ok"
    monkeypatch.setattr(device, "nvidia_smi", lambda: [("NVIDIA L4", "570.1")])
    found = one(device.torch_build("auto"))
    assert found.level == "warning" and "a build for CPUs only; the driver shows NVIDIA L4" in found.found
    assert "leave the GPU idle. Install a CUDA build: pip install --force-reinstall torch" in found.advice
    assert one(device.torch_build("cpu")).level == "ok", "who asks for the CPU needs no advice"


def test_a_cuda_torch_that_cannot_use_the_gpu_gives_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def too_old() -> None:
        raise RuntimeError("The NVIDIA driver on your system is too old (found version 11040).")

    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "init", too_old)
    monkeypatch.setattr(device, "nvidia_smi", lambda: [("NVIDIA L4", "470.1")])
    found = one(device.torch_build("auto"))
    assert found.level == "warning" and "built for CUDA 12.8" in found.found
    assert "too old" in found.advice and "The driver is 470.1" in found.advice


def test_nvidia_smi_is_read_or_absent(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(shutil, "which", lambda _: None)
    assert device.nvidia_smi() == []
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'NVIDIA A100, 40 GB, 570.86'\n")
    program.chmod(0o755)
    monkeypatch.setattr(shutil, "which", lambda _: str(program))
    assert device.nvidia_smi() == [("NVIDIA A100, 40 GB", "570.86")]
    program.write_text("#!/bin/sh\nexit 9\n")
    assert device.nvidia_smi() == []


def test_an_absent_device_is_a_problem() -> None:
    named = by_name(list(examine(space="v2_tiny", device="cuda:77")))
    assert named["device", "device"].level == "problem" and "cuda:77" in named["device", "device"].found
    assert ("device", "timing lane") not in named
    assert named["space", "space"].level == "ok"


def test_a_gpu_is_described_and_a_full_one_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    facts = {"type": "cuda", "name": "NVIDIA L4", "memory_mib": 23034, "precision": "bfloat16 autocast"}
    monkeypatch.setattr("nas.devices.pick_device", lambda _: torch.device("cuda", 0))
    monkeypatch.setattr("nas.devices.describe_device", lambda _: facts)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (int(22.4 * 2**30), int(22.5 * 2**30)))
    found = one(device.chosen("auto"))
    assert (found.level, found.found) == ("ok", "cuda:0: NVIDIA L4, 22.4 of 22.5 GiB free, bfloat16 autocast")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (10 * 2**30, 20 * 2**30))
    _, taken = device.chosen("auto")
    assert taken.level == "warning" and taken.found == "50% of it is taken"


def test_load_and_quota_make_step_times_noisy(monkeypatch: pytest.MonkeyPatch) -> None:
    assert one(device.cores()).level == "ok"
    monkeypatch.setattr("os.getloadavg", lambda: (99.0, 9.0, 9.0))
    found = one(device.cores())
    assert found.level == "warning" and "step times will be noisy" in found.advice and found.values["load"] == 99
    monkeypatch.setattr("os.getloadavg", lambda: (0.1, 9.0, 9.0))
    monkeypatch.setattr(device, "cpu_quota", lambda: 0.5)
    found = one(device.cores())
    assert found.level == "warning" and "OMP_NUM_THREADS=1" in found.advice and "a quota of 0.5 cores" in found.found


def test_the_quota_of_a_container_is_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.undo()
    own, root = tmp_path / "cgroup", tmp_path / "sys"
    (root / "a" / "b").mkdir(parents=True)
    assert device.cpu_quota(root, own) is None
    own.write_text("0::/a/b\n")
    assert device.cpu_quota(root, own) is None
    (root / "a" / "b" / "cpu.max").write_text("max 100000\n")
    assert device.cpu_quota(root, own) is None
    (root / "a" / "cpu.max").write_text("250000 100000\n")
    assert device.cpu_quota(root, own) == 2.5, "a group above bounds it too"
    own.write_text("4:cpu,cpuacct:/docker/x\n1:memory:/docker/x\n")
    (root / "cpu").mkdir()
    (root / "cpu" / "cpu.cfs_quota_us").write_text("150000\n")
    (root / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    assert device.cpu_quota(root, own) == 1.5
    (root / "cpu" / "cpu.cfs_quota_us").write_text("-1\n")
    assert device.cpu_quota(root, own) is None


def test_memory_is_that_of_the_machine_and_the_container(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    source = tmp_path / "meminfo"
    source.write_text("MemTotal: 9000000 kB\nMemAvailable:    4194304 kB\n")
    assert device.memory_available(source, tmp_path) == 4 * 2**30
    (tmp_path / "memory.max").write_text("2147483648\n")
    (tmp_path / "memory.current").write_text("1073741824\n")
    assert device.memory_available(source, tmp_path) == 2**30
    monkeypatch.setattr(device, "memory_available", lambda: 2**30)
    assert one(device.memory()).level == "warning"


def test_the_lane_is_free_held_or_cannot_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    assert one(device.timing_lane("cpu")).values["held"] is None
    with lane("cpu", alone=False):
        found = one(device.timing_lane("cpu"))
        assert (found.level, found.values["held"]) == ("warning", "train")
    with lane("cpu", alone=True):
        assert one(device.timing_lane("cpu")).values["held"] == "time"
    assert one(device.timing_lane("cpu")).level == "ok"
    monkeypatch.setenv("NAS_LANES", "/proc/nowhere")
    found = one(isolated("device", "timing lane", lambda: device.timing_lane("cpu")))
    assert found.level == "problem" and "Set NAS_LANES" in found.found


# --- folders ------------------------------------------------------------------------------------------------


def test_results_that_cannot_be_written_stop_a_search(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("results").mkdir()
    assert one(folders.results()).level == "ok"

    def read_only(**_: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(tempfile, "TemporaryFile", read_only)
    found = one(folders.results())
    assert found.level == "problem" and "cannot be written (Read-only file system)" in found.found
    cache = one(folders.cache())
    assert cache.level == "warning" and "Set NAS_CACHE" in cache.advice, "the built-in images need no cache"


def test_results_in_the_place_of_a_file_stop_a_search() -> None:
    Path("results").write_text("")
    assert one(folders.results()).level == "problem"


@pytest.mark.parametrize(("free", "level"), [(2**20, "problem"), (2**29, "warning"), (2**34, "ok")])
def test_a_full_disk_is_told_before_the_search_meets_it(monkeypatch: pytest.MonkeyPatch, free: int, level: str) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(total=2**40, used=0, free=free))
    found = one(folders.results())
    assert (found.level, found.values["free"]) == (level, free)
    assert one(folders.cache()).level == ("ok" if level == "ok" else "warning")


def test_packs_are_counted_with_their_size(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NAS_CACHE", str(tmp_path / "cache"))
    assert one(folders.cache()).values["packs"] == 0 and not (tmp_path / "cache").exists()
    (tmp_path / "cache" / "packs" / "ab").mkdir(parents=True)
    (tmp_path / "cache" / "packs" / "ab" / "train.npy").write_bytes(bytes(3072))
    found = one(folders.cache())
    assert (found.values["packs"], found.values["bytes"]) == (1, 3072) and "1 pack of images (3 KiB" in found.found


# --- space, images, speed -----------------------------------------------------------------------------------


def test_a_space_that_cannot_be_searched_is_a_problem(tiny_space_file: Path) -> None:
    for name, words in (("v2_tinny", "Did you mean v2_tiny?"), ("efficientnet_b0", "without open choices")):
        found = by_name(list(examine(space=name, device="cpu", data="absent")))
        assert found["space", "space"].level == "problem" and words in found["space", "space"].found
        assert ("data", "data") not in found, "nothing is said of data that were not looked at"


def test_images_that_cannot_be_read_are_a_problem(tmp_path: Path) -> None:
    found = by_name(list(examine(space="v2_tiny", device="cpu", data=str(tmp_path / "absent"))))
    assert found["data", "data"].level == "problem" and "no such file or folder" in found["data", "data"].found


def labelled(data: Dataset, train: list[int], val: list[int]) -> Dataset:
    splits = [Split(np.zeros((len(labels), 16, 16, 3), np.uint8), np.array(labels)) for labels in (train, val)]
    return replace(data, train=splits[0], val=splits[1])


def test_images_are_described(tiny_data: Dataset) -> None:
    recipe = replace(QUICK, batch_size=16)
    named = by_name(list(images.described(replace(tiny_data, notes=("A note.",)), recipe)))
    assert named["data", "classes"].values == {"classes": 3, "min": 31, "median": 32, "max": 33}
    assert named["data", "classes"].found == "3, with 31 ('blue') to 33 ('red') images, median 32"
    even = labelled(tiny_data, [0, 1, 2] * 20, [0, 1, 2])
    assert (
        one([check for check in images.described(even, recipe) if check.name == "classes"]).found == "3, 21 images each"
    )
    assert named["data", "note"].found == "A note."
    assert "stored at 16 x 16 pixels, RGB; mean 0.400 0.400 0.400" in named["data", "images"].found
    splits = named["data", "splits"]
    assert splits.level == "warning" and splits.values == {"train": 64, "val": 32}
    assert "known to ± 0.071 only" in splits.advice
    assert (
        "smaller" in by_name(list(images.described(tiny_data, replace(QUICK, batch_size=65))))["data", "splits"].advice
    )


def test_small_and_large_classes_are_named(tiny_data: Dataset) -> None:
    uneven = labelled(tiny_data, [0] * 300 + [1] * 60 + [2] * 9, [0, 1, 2])
    found = by_name(list(images.described(uneven, QUICK)))["data", "classes"]
    assert found.level == "warning" and found.values == {"classes": 3, "min": 10, "median": 61, "max": 301}
    assert "10 ('blue') to 301 ('red') images, median 61" in found.found
    assert "Fewer than 20 images" in found.advice


def throughput(batch_ms: float, step_ms: float) -> images.Throughput:
    batch, step = (Measurement(value, "ms", 0.1, 9, "cpu") for value in (batch_ms, step_ms))
    return images.Throughput(batch, step, batch_size=64, resolution=32, steps=1000)


@pytest.mark.parametrize(
    ("batch_ms", "level", "words"),
    [
        (1, "ok", "the training step; making the batch takes 10.0%"),
        (4, "warning", "training step"),
        (36, "warning", "input"),
    ],
)
def test_the_slower_part_is_named(tiny_spec: ArchSpec, batch_ms: float, level: str, words: str) -> None:
    named = by_name(list(images.told(throughput(batch_ms, 9), tiny_spec)))
    found = named["speed", "bottleneck"]
    assert found.level == level and words in found.found and bool(found.advice) == (level == "warning")
    assert found.values["input_share"] == pytest.approx(batch_ms / (batch_ms + 9))
    assert named["speed", "training"].values["images_per_s"] == pytest.approx(64 / 9e-3)
    assert named["speed", "estimate"].values["seconds"] == pytest.approx(batch_ms + 9)
    assert named["speed", "estimate"].level == "ok"


def test_a_search_of_days_is_warned_of(tiny_spec: ArchSpec) -> None:
    found = by_name(list(images.told(throughput(40, 4000), tiny_spec)))["speed", "estimate"]
    assert found.level == "warning" and "50 like it 56.1 h" in found.found and "v2_tiny" in found.advice


def test_both_parts_of_a_step_are_timed(tiny_data: Dataset, tiny_spec: ArchSpec, tiny_recipe_file: Path) -> None:
    mixup = (0.1, 0.2)
    recipe = load_recipe(tiny_recipe_file)
    recipe = replace(recipe, progressive=replace(recipe.progressive, mixup=mixup, magnitude=mixup))
    found = images.throughput(tiny_data, tiny_spec, recipe, torch.device("cpu"))
    assert found.batch.value > 0 and found.step.value > 0 and found.batch.n >= 5 and found.step.n >= 5
    assert (found.batch_size, found.resolution) == (16, 16)
    assert found.steps == 2  # half an epoch of 64 images in batches of 16


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_is_looked_at_and_timed() -> None:
    named = by_name(list(examine(space="v2_tiny", data="fashion-mnist-subset", device="cuda")))
    assert [check for check in named.values() if check.level == "problem"] == []
    assert named["device", "device"].values["free_mib"] > 0
    assert 0 < named["speed", "bottleneck"].values["input_share"] < 1


def test_a_step_that_does_not_fit_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(images, "throughput", full)
    found = list(examine(space="v2_tiny", data="fashion-mnist-subset", device="cpu", batch_size=4096))[-1]
    assert (found.area, found.level) == ("speed", "problem")
    assert "at batch 4096 does not fit" in found.found and "--batch-size" in found.advice
