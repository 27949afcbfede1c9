"""A hand-over: whose weights, what is written and checked, and that nothing is left behind when something is wrong."""

from __future__ import annotations

import errno
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import load_file

from nas.catalog import load_arch
from nas.engine import checkpoints
from nas.errors import ExportError, RunError, UnknownNameError, UsageError, WeightsError
from nas.export import EXPORTERS, CannotExpress, Exporter, Subject, export, handover, timm_module
from nas.models import build
from nas.search import SearchResult

Write = Callable[[Subject, Path], tuple[str, ...]]


@pytest.fixture
def architecture(tmp_path: Path) -> Path:
    from tiny import TINY_NETWORK

    path = tmp_path / "net.yaml"
    path.write_text(TINY_NETWORK)
    return path


def with_write(monkeypatch: pytest.MonkeyPatch, name: str, change: Callable[[Write], Write]) -> None:
    exporter: Exporter = EXPORTERS[name]
    monkeypatch.setitem(EXPORTERS._values, name, replace(exporter, write=change(exporter.write)))


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if "export" in path.name or path.name.startswith("."))


def test_a_winner_is_handed_over(finished: SearchResult, run_copy: Path, tmp_path: Path) -> None:
    found = export(run_copy, ["torch", "safetensors"])
    assert found.folder == run_copy / "export"
    names = {path.name for path in found.folder.iterdir()}
    assert names == {
        "winner.py", "winner.pt", "winner.safetensors", "architecture.yaml", "labels.txt", "README.md", "export.json",
    }  # fmt: skip
    assert load_arch(found.folder / "architecture.yaml").arch_hash == finished.winner.arch_hash
    assert (found.folder / "labels.txt").read_text().split() == ["blue", "green", "red"]
    # The weights are those of the first fresh training: seed 3 searched, 4 is the first fresh one.
    _, state = checkpoints.load(run_copy / "checkpoints", f"{finished.winner.arch_hash}-s4")
    assert state is not None
    stored = load_file(found.folder / "winner.safetensors")
    assert set(stored) == set(state["network"])
    assert all(torch.equal(stored[key], state["network"][key]) for key in stored)
    record = json.loads((found.folder / "export.json").read_text())
    trained = json.loads((run_copy / "finalists.json").read_text())["trainings"][f"{finished.winner.arch_hash}-4"]
    for one in record["checks"]:
        assert one["accuracy"] == one["source_accuracy"] == pytest.approx(trained["val_accuracy"])
        assert one["val_images"] == 18 and one["changed"] == 0
    with safe_open(found.folder / "winner.safetensors", "pt") as file:
        metadata = file.metadata()
    assert yaml.safe_load(metadata["architecture"])["num_classes"] == 3
    assert json.loads(metadata["classes"]) == ["blue", "green", "red"] and len(json.loads(metadata["mean"])) == 3
    card = (found.folder / "README.md").read_text()
    for word in ("fresh seeds", "(seed 4)", record["data"]["fingerprint"], "MAD", "labels.txt", "Licence", "| torch |"):
        assert word in card


def test_the_file_of_a_winner_runs_where_there_is_no_nas(run_copy: Path) -> None:
    folder = export(run_copy, ["torch"]).folder
    code = f"""
import sys
sys.path.insert(0, {str(folder)!r})
sys.modules["nas"] = None
import torch, winner
print(tuple(winner.load()(torch.zeros(2, 3, 16, 16)).shape), len(winner.CLASSES), len(winner.MEAN))
"""
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.split("\n")[0] == "(2, 3) 3 3", done.stderr


def test_weights_of_each_kind_of_file_are_taken(architecture: Path, run_copy: Path, tmp_path: Path) -> None:
    found = export(architecture, ["torch", "safetensors"], random_weights=True, out=tmp_path / "first")
    expected = load_file(found.folder / "tiny_network.safetensors")
    for number, name in enumerate(("tiny_network.pt", "tiny_network.safetensors")):
        again = export(architecture, ["safetensors"], weights=found.folder / name, out=tmp_path / f"again{number}")
        state = load_file(again.folder / "tiny_network.safetensors")
        assert all(torch.equal(state[key], expected[key]) for key in expected)
    (checkpoint,) = (run_copy / "checkpoints").glob("*-s4.pt")
    found = export(run_copy / "winner.yaml", ["torch"], weights=checkpoint, out=tmp_path / "third")
    assert found.checks[0].val_images == 0 and "random" not in (found.folder / "README.md").read_text().split("##")[0]


def test_an_architecture_is_compared_on_images_where_they_are_named(
    finished: SearchResult, run_copy: Path, tmp_path: Path
) -> None:
    images = finished.run.manifest["config"]["data"]
    (checkpoint,) = (run_copy / "checkpoints").glob("*-s4.pt")
    found = export(run_copy / "winner.yaml", weights=checkpoint, data=images, out=tmp_path / "out")
    assert found.checks[0].val_images == 18 and (found.folder / "labels.txt").is_file()


def test_what_is_missing_or_wrong_is_said(
    finished: SearchResult, run_copy: Path, architecture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match=r"has no weights.*--weights FILE.*--random-weights"):
        export(architecture)
    with pytest.raises(UsageError, match=r"found both"):
        export(architecture, weights=tmp_path / "x.pt", random_weights=True)
    with pytest.raises(UsageError, match=r"weights of its own"):
        export(run_copy, random_weights=True)
    with pytest.raises(UsageError, match=r"belongs to a run"):
        export(architecture, trial="3", random_weights=True)
    with pytest.raises(UnknownNameError, match=r"tensorflow.*Known: .*torch"):
        export(run_copy, ["tensorflow"])
    with pytest.raises(UsageError, match=r"--trial: found 99;.*measured again: \d"):
        export(run_copy, trial="99")
    with pytest.raises(WeightsError, match=r"no such file"):
        export(architecture, weights=tmp_path / "absent.pt")
    images = finished.run.manifest["config"]["data"]
    with pytest.raises(ExportError, match=r"3 classes and 3 channels.*1000"):
        export("mobilenet_v3_small", random_weights=True, data=images, out=tmp_path / "out")
    with pytest.raises(RunError, match=r"found images of fingerprint"):
        export(run_copy, data="fashion-mnist-subset")
    Path(images).rename(tmp_path / "moved")
    with pytest.raises(RunError, match=r"its images are not at .*--data"):
        export(run_copy)
    (tmp_path / "moved").rename(images)
    for path in (run_copy / "checkpoints").glob("*-s4.pt"):
        path.unlink()
    with pytest.raises(RunError, match=r"s4.pt: is not there.*--weights FILE"):
        export(run_copy)
    assert not (run_copy / "export").exists() and not (tmp_path / "out").exists()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"onnx, onnxscript, onnxruntime not installed.*pip install 'phinas\[onnx\]'"):
        export(run_copy, ["onnx"])


def test_an_export_that_differs_is_an_error_and_leaves_nothing(run_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def corrupt(write: Write) -> Write:
        def corrupted(subject: Subject, folder: Path) -> tuple[str, ...]:
            files = write(subject, folder)
            state = torch.load(folder / "winner.pt", weights_only=True)
            state["classifier.bias"][0] += 0.01
            torch.save(state, folder / "winner.pt")
            return files

        return corrupted

    before = left_in(run_copy)
    with_write(monkeypatch, "torch", corrupt)
    with pytest.raises(ExportError, match=r"torch: the reloaded export is not its source: scores differ by"):
        export(run_copy, ["safetensors", "torch"])
    assert left_in(run_copy) == before


def test_an_export_that_needs_nas_is_an_error(run_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lean(write: Write) -> Write:
        def leaning(subject: Subject, folder: Path) -> tuple[str, ...]:
            files = write(subject, folder)
            text = (folder / "winner.py").read_text()
            (folder / "winner.py").write_text(text.replace("import torch\n", "import torch\nimport nas\n", 1))
            return files

        return leaning

    with_write(monkeypatch, "torch", lean)
    with pytest.raises(ExportError, match=r"cannot be loaded and run in a fresh process.*No module named 'nas'"):
        export(run_copy, ["torch"])
    assert not (run_copy / "export").exists()


def test_a_full_disk_is_an_error_and_leaves_nothing(run_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(subject: Subject, folder: Path) -> tuple[str, ...]:
        (folder / "half").write_text("half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    before = left_in(run_copy)
    with_write(monkeypatch, "torch", lambda write: full)
    with pytest.raises(ExportError, match=r"cannot be written \(No space left on device\)"):
        export(run_copy, ["torch"])
    assert left_in(run_copy) == before


def test_what_timm_cannot_say_is_refused_with_a_remedy_and_left_out_of_all(
    architecture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handover, "_formats", lambda formats: ["timm", "torch"])
    architecture.write_text(architecture.read_text().replace("num_layers: 2", "num_layers: 2, skip: pool"))
    with pytest.raises(CannotExpress, match=r"timm: stage 1: fused_mbconv with skip: pool.*--format torch"):
        export(architecture, ["timm"], random_weights=True, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
    found = export(architecture, ["all"], random_weights=True, out=tmp_path / "out")
    assert list(found.files) == ["torch"] and "skip: pool" in found.left_out["timm"]
    assert "Left out: timm" in (found.folder / "README.md").read_text()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("kernel_size: 1, out_channels: 16", "kernel_size: 3, out_channels: 16"), "head: kernel_size 3"),
        (("head: {", "head: {pool_first: true, "), "head: norm: true"),
        (("out_channels: 8}", "out_channels: 8, max_pool: true}"), "stem: max_pool"),
        (("num_layers: 2, stride: 2", "num_layers: 2, stride: 3"), "s1: stride 3"),
        (("stem: {", "stem: {activation: relu, "), "stem, head: their activations differ"),
        (("se_ratio: 0.25", "se_ratio: 0.25, se_base: expanded"), "attention: se_base"),
    ],
)
def test_timm_refuses_by_name(architecture: Path, tmp_path: Path, change: tuple[str, str], said: str) -> None:
    text = architecture.read_text()
    assert change[0] in text
    architecture.write_text(text.replace(*change))
    spec = load_arch(architecture)
    item = Subject("net", spec, build(spec, seed=0), "made by a test", "random", None)
    with pytest.raises(CannotExpress, match=f"timm: {said}.*--format torch"):
        timm_module.write(item, tmp_path)


def test_a_folder_that_is_there_is_kept(run_copy: Path, tmp_path: Path) -> None:
    other = tmp_path / "photos"
    other.mkdir()
    (other / "dear.txt").write_text("dear")
    for overwrite in (False, True):
        with pytest.raises(ExportError, match=r"photos: is there already, and is no earlier export"):
            export(run_copy, out=other, overwrite=overwrite)
    assert (other / "dear.txt").read_text() == "dear"
    first = export(run_copy, ["safetensors"]).folder
    with pytest.raises(ExportError, match=r"holds an export already. Replace it with --overwrite"):
        export(run_copy, ["torch"])
    assert not (first / "winner.py").exists()
    export(run_copy, ["torch"], overwrite=True)
    assert (first / "winner.py").exists() and not (first / "winner.safetensors").exists()
    assert left_in(run_copy) == [".lock", "export"] or left_in(run_copy) == ["export"]


def test_a_place_that_cannot_be_written_is_said(run_copy: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ExportError, match=r"cannot be made .*--out"):
        export(run_copy, out=tmp_path / "file" / "out")


def test_what_a_killed_export_left_goes_with_the_next_one(architecture: Path, tmp_path: Path) -> None:
    target = tmp_path / "out"
    code = f"""
import os
from pathlib import Path
from nas.export._folder import written
with written(Path({str(target)!r}), overwrite=False) as folder:
    (folder / "half").write_text("half")
    os.kill(os.getpid(), 9)
"""
    done = subprocess.run([sys.executable, "-c", code], timeout=120, env=os.environ | {"PYTHONPATH": os.getcwd()})
    assert done.returncode == -9
    assert not target.exists() and list(tmp_path.glob(".out-*"))
    export(architecture, ["safetensors"], random_weights=True, out=target)
    assert (target / "export.json").is_file() and not list(tmp_path.glob(".out-*"))
