"""Two processes that train one network over gloo."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from full_training import Place, assert_same_training, last

from nas import catalog
from nas.data import load as load_data
from nas.errors import UsageError
from nas.models import build
from nas.train import distributed, full_loop
from nas.train.full_recipes import FULL_RECIPES, FullRecipe, full_phases
from nas.train.loop import to_device
from nas.train.schedule import Progressive

CPU = torch.device("cpu")
PLAIN = replace(
    FULL_RECIPES["short"],
    epochs=2,
    batch_size=16,
    progressive=Progressive(1, (1.0, 1.0)),
    optimizer="sgd",
    momentum=0.0,
    learning_rate=0.1,
    warmup_epochs=0,
    ema_decay=0.9,
    clip_norm=0.0,
    crop_padding=0.0,
    flip=False,
    drop_path=0.0,
)
"""Nothing is drawn but the order, which is the same in all processes."""


def trained(folder: Path, recipe: FullRecipe, group: distributed.Group, micro_batch: int | None = None) -> None:
    """Train two epochs on the images of a folder, and write down what the process then has."""
    spec = catalog.load_arch(folder / "net.yaml")
    data = to_device(load_data(str(folder / "images"), resolution=16), None, CPU)
    training = full_loop.begin(build(spec, seed=0), recipe, seed=0, device=CPU, group=group)
    training.micro_batch = micro_batch or training.micro_batch
    phase = full_phases(recipe, 16)[0]
    losses = [full_loop.train_epoch(training, data, phase, number).train_loss for number in (1, 2)]
    with full_loop.averaged(training) as network:
        averaged = {name: value.clone() for name, value in network.state_dict().items()}
        scores = full_loop.scores(training, data, 16)
    norms = "frozen" if recipe.freeze_norm else "live"
    content = {"network": training.network.state_dict(), "averaged": averaged, "scores": scores, "losses": losses}
    torch.save(content, folder / f"{norms}-{group.size}-{group.rank}.pt")


def process(rank: int, folder: str, port: int) -> None:
    """One of two processes."""
    torch.set_num_threads(1)
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
    }  # fmt: skip
    with distributed.joined("cpu") as (group, device):
        assert (group.rank, group.size, device) == (rank, 2, CPU)
        assert group.agreed(f"said by {rank}") == "said by 0"
        assert group.any(rank == 1) and not group.any(False)
        for frozen in (True, False):
            trained(Path(folder), replace(PLAIN, freeze_norm=frozen), group, micro_batch=4)


def largest(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor], what: str = "") -> float:
    assert list(first) == list(second)
    return max(float((first[name] - second[name]).abs().max()) for name in first if what in name)


@pytest.mark.slow
def test_two_processes_make_the_steps_of_one_but_for_batch_norm(tmp_path: Path) -> None:
    place = Place(tmp_path)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(process, (str(place.folder), port), nprocs=2)  # type: ignore[no-untyped-call]
    for frozen in (True, False):
        trained(place.folder, replace(PLAIN, freeze_norm=frozen), distributed.Group())
    one, first, second = (torch.load(tmp_path / f"frozen-{name}.pt") for name in ("1-0", "2-0", "2-1"))
    # Each process saw half of each batch, in two parts; the gradients are averaged over both.
    assert largest(one["network"], first["network"]) < 1e-6
    assert largest(first["network"], second["network"]) == 0
    assert one["losses"] == pytest.approx(first["losses"], abs=1e-6) and first["losses"] == second["losses"]
    assert torch.equal(one["scores"], first["scores"]) and torch.equal(first["scores"], second["scores"])
    # Between CPUs batch norm is not synchronised: each process normalises by its own images. docs/training.md says so.
    one, first, second = (torch.load(tmp_path / f"live-{name}.pt") for name in ("1-0", "2-0", "2-1"))
    assert largest(one["network"], first["network"], "conv") > 1e-4
    assert largest(first["network"], second["network"], "weight") == 0, "the steps are the same in both nevertheless"
    assert largest(first["network"], second["network"], "running_mean") > 0
    assert largest(first["averaged"], second["averaged"]) == 0, "what is scored is that of process 0, in both"
    assert torch.equal(first["scores"], second["scores"])


@pytest.mark.slow
def test_torchrun_trains_into_one_folder_prints_once_and_continues(tmp_path: Path) -> None:
    place = Place(tmp_path, per_class=60)
    log = tmp_path / "log"

    def torchrun(*arguments: str | Path) -> subprocess.Popen[bytes]:
        words = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "nas", "train"]
        with log.open("wb") as file:
            return subprocess.Popen(
                [sys.executable, *words, *map(str, arguments)],
                stdout=file, stderr=file, env=os.environ | {"OMP_NUM_THREADS": "1"},
            )  # fmt: skip

    settings = ["--data", place.data, "--recipe", place.recipe, "--device", "cpu"]
    assert torchrun(place.arch, *settings, "--out", tmp_path / "whole").wait(timeout=120) == 0, log.read_text()
    said = log.read_text()
    assert said.count("2 processes") == 1 and said.count("nas predict") == 1 and said.count("\naccuracy ") == 1
    assert last(tmp_path / "whole")["micro_batch"] == 8  # half of the batch
    stopped = tmp_path / "stopped"
    process, deadline = torchrun(place.arch, *settings, "--out", stopped), time.monotonic() + 120
    while not (stopped / "history.csv").exists():
        assert process.poll() is None and time.monotonic() < deadline, log.read_text()
        time.sleep(0.005)
    process.terminate()
    assert process.wait(timeout=60) != 0 and not (stopped / "result.json").exists()
    assert log.read_text().count(f"Continue with: nas train --resume {stopped}") == 1, log.read_text()
    assert torchrun("--resume", stopped).wait(timeout=120) == 0, log.read_text()
    assert_same_training(tmp_path / "whole", stopped)


def test_a_batch_must_divide_and_each_process_has_its_own_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert distributed.rank() == 1
    with pytest.raises(UsageError, match=r"--device: found cuda:1.*CUDA_VISIBLE_DEVICES"), distributed.joined("cuda:1"):
        pass
    monkeypatch.setenv("RANK", "one")
    with pytest.raises(UsageError, match="RANK: found 'one'"):
        distributed.rank()
    monkeypatch.delenv("WORLD_SIZE")
    assert distributed.rank() == 0
