"""What only a CUDA device can show. Skipped elsewhere."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from nas.cost.latency import BACKENDS, latencies
from nas.cost.step_time import SEARCH, step_times
from nas.data import Dataset
from nas.devices import describe_device, pick_device
from nas.engine import InlineEngine, Job, checkpoints
from nas.evaluate import Evaluator
from nas.space import Limit
from nas.spec import ArchSpec, scaled
from nas.train import images, loop
from nas.train.recipes import RECIPES
from nas.train.schedule import Progressive, phases

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"),
]

RECIPE = replace(RECIPES["quick"], batch_size=16, epochs=2, progressive=Progressive(2, (0.5, 1)), flip=False)


@pytest.fixture
def cuda() -> torch.device:
    return pick_device("cuda")


def evaluator(data: Dataset, spec: ArchSpec, device: torch.device, *limits: Limit) -> Evaluator:
    return Evaluator(data, RECIPE, device, baseline=spec, limits=limits)


def test_a_trial_runs_from_counting_to_its_last_phase(
    tiny_spec: ArchSpec, tiny_data: Dataset, cuda: torch.device
) -> None:
    mine = evaluator(tiny_data, tiny_spec, cuda)
    zero = mine.run_phase(tiny_spec, 0, None, seed=0)
    assert zero.outcome == "ok"
    assert zero.measurements["step_time_ms"].value > 0 and zero.measurements["step_time_ms"].device == str(cuda)
    state = None
    for phase in (1, 2):
        result = mine.run_phase(tiny_spec, phase, state, seed=0)
        state = result.state
        assert result.outcome == "ok" and result.training is not None
        assert 0 <= result.training.val_accuracy <= 1 and result.training.train_loss < 3
    assert state is not None and {p.device for p in state.network.parameters()} == {cuda}
    assert all(p.dtype == torch.float32 for p in state.network.parameters())


def test_the_peak_of_memory_is_measured_and_grows_with_the_network(
    tiny_spec: ArchSpec, tiny_data: Dataset, cuda: torch.device
) -> None:
    mine = evaluator(tiny_data, tiny_spec, cuda)
    wide = scaled(tiny_spec, width=8)
    small, large = (mine.run_phase(spec, 0, None, seed=0).measurements["peak_memory_mib"] for spec in (tiny_spec, wide))
    assert small.unit == "MiB" and 0 < small.value < large.value
    limited = evaluator(tiny_data, tiny_spec, cuda, Limit("peak_memory_mib", max=large.value / 2))
    result = limited.run_phase(wide, 0, None, seed=0)
    assert result.outcome == "infeasible" and result.slacks["peak_memory_mib.max"] > 0


@pytest.mark.parametrize("phase", [0, 1])
def test_a_full_memory_is_an_outcome_and_leaves_room_for_the_next(
    tiny_spec: ArchSpec, tiny_data: Dataset, cuda: torch.device, monkeypatch: pytest.MonkeyPatch, phase: int
) -> None:
    mine = evaluator(tiny_data, tiny_spec, cuda)
    before = torch.cuda.memory_allocated(cuda)
    original = loop.train_step

    def greedy(*arguments: Any) -> torch.Tensor:
        torch.empty(2**50, dtype=torch.uint8, device=cuda)
        return original(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "train_step", greedy)
        result = mine.run_phase(tiny_spec, phase, None, seed=0)
    assert result.outcome == "out_of_memory" and "16 pixels" in result.reason
    assert torch.cuda.memory_allocated(cuda) <= before + 2**22
    assert mine.run_phase(tiny_spec, 1, None, seed=0).outcome == "ok"


def test_step_times_come_from_the_devices_own_clock(cuda: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step that returns before the device is done must not look fast: `perf_counter` alone would say microseconds."""
    made: list[bool] = []
    event = torch.cuda.Event

    def counted(*arguments: Any, **named: Any) -> torch.cuda.Event:
        made.append(named.get("enable_timing", False))
        return event(*arguments, **named)

    monkeypatch.setattr(torch.cuda, "Event", counted)
    matrix = torch.randn(4096, 4096, device=cuda)

    def step() -> None:
        for _ in range(20):
            torch.mm(matrix, matrix)

    (found,) = step_times([step], cuda, SEARCH)
    assert made and all(made)
    torch.cuda.synchronize()
    first, last = event(enable_timing=True), event(enable_timing=True)
    first.record()
    step()
    last.record()
    last.synchronize()
    assert found.value == pytest.approx(first.elapsed_time(last), rel=0.5)


@pytest.mark.slow
def test_inference_is_timed_eager_and_compiled_on_the_device_and_in_onnxruntime_beside_it(
    tiny_spec: ArchSpec, cuda: torch.device
) -> None:
    rows = latencies({"a": tiny_spec}, cuda, backends=list(BACKENDS), batch_sizes=[1, 8])
    assert [row.problem for row in rows] == [""] * 6
    places = {(row.backend, row.device, row.dtype) for row in rows}
    assert places == {
        ("eager", str(cuda), "bfloat16"), ("compile", str(cuda), "bfloat16"), ("onnxruntime", "cpu", "float32"),
    }  # fmt: skip
    for row in rows:
        assert row.measured is not None and row.measured.value > 0 and row.measured.n >= 20
        assert row.difference is not None and row.difference < (0.2 if row.dtype == "bfloat16" else 1e-4)


def test_a_latency_limit_is_checked_on_the_device(tiny_spec: ArchSpec, tiny_data: Dataset, cuda: torch.device) -> None:
    result = evaluator(tiny_data, tiny_spec, cuda, Limit("latency_ms", max=1e-3)).run_phase(tiny_spec, 0, None, seed=0)
    assert result.outcome == "infeasible" and result.measurements["latency_ms"].device == str(cuda)


def test_the_first_losses_agree_with_those_of_the_cpu(
    tiny_spec: ArchSpec, tiny_data: Dataset, cuda: torch.device
) -> None:
    """The same weights and images give the same losses, within bfloat16: without dropout, the only random part."""
    spec = replace(tiny_spec, dropout=0.0, drop_path=0.0)
    losses: dict[str, list[float]] = {}
    for device in (torch.device("cpu"), cuda):
        state = loop.start(spec, RECIPE, device, seed=0)
        data = loop.to_device(tiny_data, RECIPE, device)
        state.network.dropout.p = 0.0
        for group in state.optimizer.param_groups:
            group["lr"] = 1e-3
        state.network.train()
        losses[device.type] = []
        for step in range(4):
            index = torch.arange(16, device=device) + 16 * step
            images = loop.eval_batch(data.train_images[index], resolution=16, mean=data.mean, std=data.std)
            loss = loop.train_step(state, images, data.train_labels[index], RECIPE)
            losses[device.type].append(float(loss))
    assert losses["cuda"] == pytest.approx(losses["cpu"], rel=0.03)


def test_training_learns_on_the_device(tiny_spec: ArchSpec, tiny_data: Dataset, cuda: torch.device) -> None:
    recipe = replace(RECIPE, epochs=16)
    state = loop.start(tiny_spec, recipe, cuda, seed=0)
    data = loop.to_device(tiny_data, recipe, cuda)
    shown = [loop.train_phase(state, data, recipe, phase) for phase in phases(recipe.progressive, 16, 16)]
    assert shown[1].train_loss < shown[0].train_loss and shown[1].val_accuracy > 0.7


def test_the_generators_of_the_device_are_left_as_they_were(
    tiny_spec: ArchSpec, tiny_data: Dataset, cuda: torch.device
) -> None:
    state = loop.start(tiny_spec, RECIPE, cuda, seed=0)
    data = loop.to_device(tiny_data, RECIPE, cuda)
    torch.cuda.manual_seed(5)
    expected = torch.rand(3, device=cuda)
    torch.cuda.manual_seed(5)
    loop.train_phase(state, data, RECIPE, phases(RECIPE.progressive, 16, 1)[0])
    assert torch.equal(torch.rand(3, device=cuda), expected)


def test_the_device_is_described(cuda: torch.device) -> None:
    found = describe_device(cuda)
    assert found["type"] == "cuda" and found["name"] and found["memory_mib"] > 1000
    assert found["precision"] == "bfloat16 autocast"


def test_a_training_continues_from_its_checkpoint(
    tiny_spec: ArchSpec, tiny_data: Dataset, cuda: torch.device, tmp_path: Path
) -> None:
    """Weights, buffers and the optimiser's state, on the device; convolutions there are not reproducible to the bit."""
    for phase in (0, 1):
        engine = InlineEngine(evaluator(tiny_data, tiny_spec, cuda), tmp_path)
        engine.submit(Job(tiny_spec, phase, 0))
        assert engine.next()[1].outcome == "ok"
    results, stored = checkpoints.load(tmp_path, Job(tiny_spec, 0, 0).key)
    assert [result.phase for result in results] == [0, 1] and stored is not None
    state = loop.restore(tiny_spec, RECIPE, cuda, 0, stored)
    assert {p.device for p in state.network.parameters()} == {cuda}
    moments = [value for item in state.optimizer.state.values() for value in item.values()]
    assert moments and {value.device for value in moments} == {cuda}
    engine = InlineEngine(evaluator(tiny_data, tiny_spec, cuda), tmp_path)
    engine.submit(Job(tiny_spec, 2, 0))
    assert engine.next()[1].outcome == "ok"


def test_images_that_would_fill_the_device_stay_on_the_host(
    tiny_data: Dataset, cuda: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    near = loop.to_device(tiny_data, RECIPE, cuda).train_images
    monkeypatch.setattr(images, "DEVICE_SHARE", 0.0)
    far = loop.to_device(tiny_data, replace(RECIPE, train_images=40), cuda).train_images
    assert (near.pixels.device, far.pixels.device.type) == (cuda, "cpu")
    index = torch.tensor([3, 1, 2], device=cuda)
    assert far[index].device == cuda and far[index].shape == near[index].shape
