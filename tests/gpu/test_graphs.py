"""Training steps as CUDA graphs, on a CUDA device. Skipped elsewhere; `tests/train/test_placed_steps.py` needs none."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import TINY_RECIPE, TINY_SPACE, write_images

import nas
from nas.data import Dataset
from nas.devices import pick_device
from nas.errors import DeviceError, RunError
from nas.evaluate import Evaluator
from nas.search import resume
from nas.spec import ArchSpec
from nas.train import images, loop, preflight
from nas.train.graphs import WARMUP, Graphs
from nas.train.recipes import RECIPES
from nas.train.schedule import Progressive, phases

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"),
]

RECIPE = replace(
    RECIPES["quick"],
    batch_size=16,
    epochs=8,
    progressive=Progressive(2, (0.5, 1), magnitude=(0, 5), mixup=(0, 0.4), dropout=(0.1, 0.3)),
)


@pytest.fixture
def cuda() -> Iterator[torch.device]:
    """A device whose convolutions choose the same algorithms in every run."""
    before = torch.backends.cudnn.deterministic
    torch.backends.cudnn.deterministic = True
    yield pick_device("cuda")
    torch.backends.cudnn.deterministic = before


def followed(
    spec: ArchSpec, data: loop.DeviceData, graphs: Graphs | None, device: torch.device
) -> tuple[list[list[int]], list[float], list[torch.Tensor], torch.Tensor]:
    """Train two phases; return the indices and the loss of every step, torch's generator after the last, and the weights."""
    state = loop.start(spec, RECIPE, device, 3)
    seen, losses, states = [], [], []
    for phase in phases(RECIPE.progressive, 16, RECIPE.epochs):
        with loop.stepping(state, data, RECIPE, phase, graphs) as (order, step, total):
            before = 0.0
            for number, index in enumerate(order):
                step(number, index)
                seen.append(index.tolist())
                losses.append(float(total) - before)
                before = float(total)
            states.append(torch.cuda.get_rng_state(device))
    return seen, losses, states, torch.cat([p.detach().flatten() for p in state.network.parameters()])


def test_graphed_steps_see_and_learn_what_eager_ones_do(
    tiny_spec: ArchSpec, tiny_data: Dataset, cuda: torch.device
) -> None:
    """The order of the later epochs is drawn after the augmentation of the earlier ones, from the same generator."""
    data = loop.to_device(tiny_data, RECIPE, cuda)
    fresh = torch.cat([p.flatten() for p in loop.start(tiny_spec, RECIPE, cuda, 3).network.parameters()])
    eager = followed(tiny_spec, data, None, cuda)
    graphed = followed(tiny_spec, data, Graphs.on(cuda), cuda)
    assert graphed[0] == eager[0] and len(eager[0]) == 32
    assert graphed[1] == pytest.approx(eager[1], rel=0.03)
    assert all(torch.equal(a, b) for a, b in zip(graphed[2], eager[2], strict=True))
    assert float((graphed[3] - eager[3]).norm()) < 0.2 * float((eager[3] - fresh).norm())


def test_images_on_the_host_go_through_a_buffer(
    tiny_spec: ArchSpec, tiny_data: Dataset, cuda: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    near = loop.to_device(tiny_data, RECIPE, cuda)
    monkeypatch.setattr(images, "DEVICE_SHARE", 0.0)
    far = loop.to_device(tiny_data, RECIPE, cuda)
    assert (near.train_images.pixels.device, far.train_images.pixels.device.type) == (cuda, "cpu")
    resident, mapped, plain = (
        followed(tiny_spec, data, graphs, cuda)
        for data, graphs in ((near, Graphs.on(cuda)), (far, Graphs.on(cuda)), (far, None))
    )
    assert resident[0] == mapped[0] == plain[0]
    assert mapped[1] == pytest.approx(resident[1], rel=0.03) and mapped[1] == pytest.approx(plain[1], rel=0.03)


def test_the_generators_of_the_device_are_left_as_they_were(
    tiny_spec: ArchSpec, tiny_data: Dataset, cuda: torch.device
) -> None:
    state, data = loop.start(tiny_spec, RECIPE, cuda, seed=0), loop.to_device(tiny_data, RECIPE, cuda)
    torch.cuda.manual_seed(5)
    expected = torch.rand(3, device=cuda)
    torch.cuda.manual_seed(5)
    loop.train_phase(state, data, RECIPE, phases(RECIPE.progressive, 16, 8)[0], graphs=Graphs.on(cuda))
    assert torch.equal(torch.rand(3, device=cuda), expected)


def test_a_checkpoint_of_one_way_is_continued_in_the_other(
    tiny_spec: ArchSpec, tiny_data: Dataset, cuda: torch.device
) -> None:
    data = loop.to_device(tiny_data, RECIPE, cuda)
    first, second = phases(RECIPE.progressive, 16, RECIPE.epochs)
    shown = []
    for ways in ((None, None), (Graphs.on(cuda), None), (None, Graphs.on(cuda))):
        state = loop.start(tiny_spec, RECIPE, cuda, 0)
        loop.train_phase(state, data, RECIPE, first, graphs=ways[0])
        stored = loop.snapshot(state)
        assert {type(group["lr"]) for group in stored["optimizer"]["param_groups"]} == {float}
        state = loop.restore(tiny_spec, RECIPE, cuda, 0, stored)
        shown.append(loop.train_phase(state, data, RECIPE, second, graphs=ways[1]))
        norms = [module for module in state.network.modules() if isinstance(module, torch.nn.BatchNorm2d)]
        assert {int(norm.num_batches_tracked) for norm in norms} == {32}
        assert {float(item["step"]) for item in state.optimizer.state.values()} == {32.0}
    assert [item.train_loss for item in shown] == pytest.approx([shown[0].train_loss] * 3, rel=0.03)


def test_a_trial_runs_with_graphs_and_its_memory_is_that_of_eager_steps(
    tiny_spec: ArchSpec, tiny_data: Dataset, cuda: torch.device
) -> None:
    found = {}
    for steps in ("eager", "graph"):
        mine = Evaluator(tiny_data, RECIPE, cuda, baseline=tiny_spec, steps=steps)  # type: ignore[arg-type]
        zero, state = mine.run_phase(tiny_spec, 0, None, seed=0), None
        assert zero.outcome == "ok"
        found[steps] = zero.measurements
        for phase in (1, 2):
            result = mine.run_phase(tiny_spec, phase, state, seed=0)
            state = result.state
            assert result.outcome == "ok" and result.training is not None
        again = mine.run_phase(tiny_spec, 0, None, seed=0)
        assert again.outcome == "ok", "the baseline is captured anew"
    memory = {steps: item["peak_memory_mib"].value for steps, item in found.items()}
    assert memory["graph"] == pytest.approx(memory["eager"], rel=0.3)
    assert found["graph"]["step_time_ms"].value > 0


@pytest.mark.parametrize("phase", [0, 1])
def test_a_full_memory_in_a_capture_is_an_outcome_and_leaves_room_for_the_next(
    tiny_spec: ArchSpec, tiny_data: Dataset, cuda: torch.device, monkeypatch: pytest.MonkeyPatch, phase: int
) -> None:
    mine = Evaluator(tiny_data, RECIPE, cuda, baseline=tiny_spec, steps="graph")
    allocated, reserved = torch.cuda.memory_allocated(cuda), torch.cuda.memory_reserved(cuda)
    original, tried = loop.train_step, []

    def greedy(*arguments: Any) -> torch.Tensor:
        loss = original(*arguments)
        if torch.cuda.is_current_stream_capturing():
            tried.append(1)
            torch.empty(2**50, dtype=torch.uint8, device=cuda)
        return loss

    with monkeypatch.context() as patch:
        patch.setattr(loop, "train_step", greedy)
        result = mine.run_phase(tiny_spec, phase, None, seed=0)
    assert tried and result.outcome == "out_of_memory"
    assert torch.cuda.current_stream(cuda) == torch.cuda.default_stream(cuda)
    assert torch.cuda.memory_allocated(cuda) <= allocated + 2**22
    assert torch.cuda.memory_reserved(cuda) <= reserved + 2**26, "the pool of the broken capture is given back"
    for phase in (0, 1):
        assert mine.run_phase(tiny_spec, phase, None, seed=0).outcome == "ok"


def test_the_memory_of_one_networks_graph_is_free_for_the_next(
    tiny_spec: ArchSpec, tiny_data: Dataset, cuda: torch.device
) -> None:
    mine = Evaluator(tiny_data, RECIPE, cuda, baseline=tiny_spec, steps="graph")
    kept = []
    for seed in range(3):
        mine.run_phase(tiny_spec, 1, None, seed=seed)
        torch.cuda.empty_cache()
        kept.append(torch.cuda.memory_reserved(cuda))
    assert kept[2] <= kept[0] + 2**22


def test_the_baselines_graph_agrees(tiny_spec: ArchSpec, cuda: torch.device) -> None:
    assert preflight.step_mode("auto", None, cuda, tiny_spec, RECIPE) == ("graph", "")


def test_a_rate_that_is_frozen_when_it_is_captured_is_seen(
    tiny_spec: ArchSpec, cuda: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In this process: the capture itself succeeds, and its optimiser reads the rate of the last step before it."""
    assert preflight.compared(cuda, tiny_spec, RECIPE) == ""
    original, kept = loop.train_step, []

    def frozen(state: loop.TrainState, *arguments: Any) -> torch.Tensor:
        groups = state.optimizer.param_groups
        place = groups[0]["lr"]
        if torch.cuda.is_current_stream_capturing():
            for group in groups:
                group["lr"] = kept[-1]
        elif isinstance(place, torch.Tensor):
            kept.append(place.clone())
        loss = original(state, *arguments)
        for group in groups:
            group["lr"] = place
        return loss

    monkeypatch.setattr(loop, "train_step", frozen)
    assert "move of the weights" in preflight.compared(cuda, tiny_spec, RECIPE)
    assert len(kept) == WARMUP


BROKEN = """
from nas.train import loop, preflight
original = loop.train_step

def step(*arguments):
    loss = original(*arguments)
    loss.item()
    return loss

loop.train_step = step
preflight.main()
"""


def test_after_a_capture_that_broke_a_run_goes_on_eagerly(
    tiny_spec: ArchSpec, tiny_data: Dataset, cuda: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    reserved = torch.cuda.memory_reserved(cuda)
    monkeypatch.setattr(preflight, "COMMAND", (sys.executable, "-P", "-c", BROKEN))
    mode, why = preflight.step_mode("auto", None, cuda, tiny_spec, RECIPE)
    assert mode == "eager" and "captur" in why and "All networks of this run" in why
    assert torch.cuda.memory_reserved(cuda) == reserved
    torch.cuda.empty_cache()
    mine = Evaluator(tiny_data, RECIPE, cuda, baseline=tiny_spec, steps=mode)
    assert [mine.run_phase(tiny_spec, phase, None, seed=0).outcome for phase in (0, 1)] == ["ok", "ok"]
    torch.rand(3, device=cuda)
    with pytest.raises(DeviceError, match="Give --steps eager"):
        preflight.step_mode("graph", None, cuda, tiny_spec, RECIPE)


def test_a_run_with_graphs_says_so_and_is_not_continued_without(
    cuda: torch.device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tiny.yaml").write_text(TINY_SPACE)
    (tmp_path / "recipe.yaml").write_text(TINY_RECIPE)
    result = nas.search(
        space=str(tmp_path / "tiny.yaml"),
        data=str(write_images(tmp_path / "images")),
        recipe=str(tmp_path / "recipe.yaml"),
        out=tmp_path / "run",
        devices="cuda",
        budget=2,
        top_k=1,
        top_k_seeds=1,
    )
    assert result.run.manifest["device"]["steps"] == "graph" and result.run.manifest["remarks"] == []
    monkeypatch.setattr(preflight, "disagreement", lambda *_: "loss 4 is 2 with them and 1 without")
    with pytest.raises(RunError, match="begun with them"):
        resume(tmp_path / "run", budget=3)
