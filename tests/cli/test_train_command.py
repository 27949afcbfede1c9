from __future__ import annotations

import json
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from test_cli import run
from tiny import TINY_NETWORK

from nas import catalog, runs
from nas.cli._train import own_images
from nas.search import SearchResult
from nas.train import full_loop

RECIPE = "extends: short\nepochs: 2\nbatch_size: 16\nprogressive: {phases: 2, size: [0.5, 1]}\n"


def arguments(folder: Path, finished: SearchResult, out: str) -> list[str]:
    return [
        "train", str(finished.run.folder), "--data", finished.run.manifest["config"]["data"],
        "--recipe", str(folder / "recipe.yaml"), "--device", "cpu", "--out", str(folder / out),
    ]  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    (tmp_path / "net.yaml").write_text(TINY_NETWORK)
    return tmp_path


def test_the_winner_of_a_search_is_trained_and_the_next_commands_are_named(
    capsys: pytest.CaptureFixture[str], finished: SearchResult, folder: Path
) -> None:
    code, out, err = run(capsys, *arguments(folder, finished, "run"))
    assert code == 0, err
    lines = out.strip().splitlines()
    assert [line.split()[:3] for line in lines if line.startswith("    1 ") or line.startswith("    2 ")] == [
        ["1", "8", lines[-8].split()[2]], ["2", "16", lines[-7].split()[2]],
    ]  # fmt: skip
    named = str(folder / "run")
    assert lines[-2].split(None, 1) == ["next", f"nas predict {named} photos/"]
    assert lines[-1].strip() == f"nas export {named}"
    facts = runs.open_training(folder / "run").manifest
    assert facts["arch"]["source"] == str(finished.run.folder) and facts["arch"]["phi"] is None
    result = json.loads((folder / "run" / "result.json").read_text())
    assert f"{result['val_accuracy']:.4f} ± {result['val_error']:.4f} on {result['val_images']} validation" in out
    assert catalog.load_arch(folder / "run").arch_hash == facts["arch"]["hash"] == finished.winner.arch_hash
    code, again, err = run(capsys, "train", "--resume", named)  # it has ended: nothing is trained, all is said again
    assert code == 0 and "continuing after epoch 2 of 2" in again and again.strip().splitlines()[-1] == lines[-1]
    code, _, err = run(capsys, "train", "--resume", named, "--seed", "4", "--epochs", "9")
    assert code == 2 and "--seed: found 4, the run has 0" in err and "--epochs: found 9, the run has none" in err
    code, _, err = run(capsys, "train", "--resume", named, "--micro-batch", "8", "--no-compile")
    assert code == 0 and runs.open_training(folder / "run").manifest["config"]["micro_batch"] == 8, err


def test_settings_in_place_of_the_recipe_s_are_kept(
    capsys: pytest.CaptureFixture[str], finished: SearchResult, folder: Path
) -> None:
    words = ["--epochs", "3", "--batch-size", "8", "--learning-rate", "0.003", "--resolution", "24", "--seed", "5"]
    code, out, err = run(capsys, *arguments(folder, finished, "run"), *words)
    assert code == 0, err
    facts = runs.open_training(folder / "run").manifest
    assert (facts["recipe"]["epochs"], facts["recipe"]["batch_size"], facts["recipe"]["learning_rate"]) == (3, 8, 0.003)
    assert (facts["resolution"], facts["seed"]) == (24, 5) and "3 epochs at 16 24 pixels" in out
    assert catalog.load_arch(folder / "run").resolution == 24


def test_a_scaled_network_is_found_beside_its_search(
    capsys: pytest.CaptureFixture[str], finished: SearchResult, run_copy: Path, folder: Path
) -> None:
    words = arguments(folder, finished, "run")
    words[1] = str(run_copy)
    code, _, err = run(capsys, *words, "--phi", "2")
    assert code == 2 and f"Make it: nas scale --from {run_copy} --phi 2" in err
    (run_copy / "scale").mkdir()
    shutil.copy(folder / "net.yaml", run_copy / "scale" / "phi-2.yaml")
    code, _, err = run(capsys, *words, "--phi", "2", "--epochs", "2")
    assert code == 0, err
    facts = runs.open_training(folder / "run").manifest
    assert facts["arch"]["phi"] == 2 and facts["arch"]["name"] == "tiny_network"
    scale = folder / "scale"
    scale.mkdir()
    runs.create(scale, "scale", {})
    shutil.copy(folder / "net.yaml", scale / "phi-1.5.yaml")
    words[1] = str(scale)
    code, _, err = run(capsys, *words)
    assert code == 2 and "holds scaled networks (1.5); say which with --phi" in err


def test_a_file_of_a_run_is_trained_on_the_images_of_the_run(
    finished: SearchResult, run_copy: Path, folder: Path
) -> None:
    own = finished.run.manifest["config"]["data"]
    (run_copy / "scale").mkdir(exist_ok=True)
    shutil.copy(folder / "net.yaml", run_copy / "scale" / "phi-2.yaml")
    for source in (run_copy, run_copy / "winner.yaml", run_copy / "scale" / "phi-2.yaml"):
        assert own_images(str(source), {})["data"] == own, source
        assert own_images(str(source), {"data": "photos"}) == {}
    runs.create(run_copy / "scale", "scale", {})  # a scaling that does not say which images it had
    assert own_images(str(run_copy / "scale" / "phi-2.yaml"), {})["data"] == own
    assert own_images(str(folder / "net.yaml"), {}) == {} == own_images("efficientnet_b0", {})


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["nett"], "nett: no space has this name"),
        (["efficientnet_b0", "--recipe", "standrad"], "Did you mean standard?"),
        (["efficientnet_b0", "--recipe", "transfer"], "Give them with --weights FILE"),
        (["efficientnet_b0", "--resume", "x"], "--resume: continues a run with its own network"),
        (["v2_tiny"], "a search space with"),
    ],
)
def test_a_wrong_use_of_train_is_told_before_any_work(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], found: str
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = run(capsys, "train", *words)
    assert code in (1, 2) and found in err and "Traceback" not in err
    assert not (tmp_path / "results").exists()


def test_without_a_search_the_latest_is_asked_for(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = run(capsys, "train")
    assert code == 1 and "holds no search run" in err


@pytest.mark.parametrize(
    ("number", "code", "word"), [(signal.SIGINT, 130, "Interrupted"), (signal.SIGTERM, 143, "Term")]
)
def test_a_signal_says_how_to_go_on(
    capsys: pytest.CaptureFixture[str],
    finished: SearchResult,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
    code: int,
    word: str,
) -> None:
    def stopped(*_: Any, **__: Any) -> None:
        os.kill(os.getpid(), number)
        time.sleep(10)

    with monkeypatch.context() as patched:
        patched.setattr(full_loop, "train_epoch", stopped)
        got, _, err = run(capsys, *arguments(folder, finished, "run"))
    assert got == code and err.startswith(word)
    assert err.endswith(f"Continue with: nas train --resume {folder / 'run'}\n")
    assert run(capsys, "train", "--resume", str(folder / "run"))[0] == 0
