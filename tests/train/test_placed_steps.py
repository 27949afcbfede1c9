"""The step that can be captured, on a CPU: run as it is in place of a graph, it must train as the plain one does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch

from nas import evaluate
from nas.data import Dataset
from nas.errors import DeviceError, RunError, UsageError
from nas.evaluate import Evaluator
from nas.spec import ArchSpec
from nas.train import loop, preflight
from nas.train.graphs import WARMUP, Graphs, Work
from nas.train.preflight import step_mode
from nas.train.recipes import RECIPES, Recipe
from nas.train.schedule import Progressive, phases

CPU = torch.device("cpu")
RECIPE = replace(
    RECIPES["quick"],
    batch_size=16,
    epochs=4,
    progressive=Progressive(2, (0.5, 1), magnitude=(0, 5), mixup=(0, 0.4), dropout=(0.1, 0.3)),
)


class Uncaptured:
    """Stands where `Graphs` does, and does the work itself."""

    def __init__(self) -> None:
        self.steps = 0

    @contextmanager
    def stepping(self, work: Work) -> Iterator[Callable[[], object]]:
        assert all(isinstance(group["lr"], torch.Tensor) for group in work.optimizer.param_groups)
        assert len(work.generators) == 1

        def step() -> None:
            self.steps += 1
            work()

        yield step


def trained(
    spec: ArchSpec, data: loop.DeviceData, modes: list[bool], recipe: Recipe = RECIPE, stored: bool = False
) -> tuple[loop.TrainState, list[loop.PhaseTraining]]:
    """Train two phases, each with placed steps or not; with `stored`, through a checkpoint between them."""
    state, shown = loop.start(spec, recipe, CPU, 3), []
    for phase, placed in zip(phases(recipe.progressive, 16, recipe.epochs), modes, strict=True):
        if stored:
            state = loop.restore(spec, recipe, CPU, 3, loop.snapshot(state))
        shown.append(loop.train_phase(state, data, recipe, phase, graphs=Uncaptured() if placed else None))
    return state, [replace(item, train_seconds=0.0, val_seconds=0.0) for item in shown]


def equal(first: loop.TrainState, second: loop.TrainState) -> bool:
    mine, others = first.optimizer.state_dict(), second.optimizer.state_dict()
    moments = [
        (value, others["state"][key][name]) for key, item in mine["state"].items() for name, value in item.items()
    ]
    weights = zip(first.network.state_dict().values(), second.network.state_dict().values(), strict=True)
    assert moments
    return all(torch.equal(a, b) for a, b in [*moments, *weights])


@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize("modes", [[True, True], [True, False], [False, True]])
def test_placed_steps_train_as_plain_ones_to_the_bit(
    tiny_spec: ArchSpec, tiny_data: Dataset, modes: list[bool], stored: bool
) -> None:
    """With augmentation, mixup, dropout and drop path; and a checkpoint of one way is continued in the other."""
    data = loop.to_device(tiny_data, RECIPE, CPU)
    plain, expected = trained(tiny_spec, data, [False, False])
    placed, shown = trained(tiny_spec, data, modes, stored=stored)
    assert shown == expected and len({item.train_loss for item in shown}) == 2
    assert equal(placed, plain)


def test_between_phases_the_optimiser_has_numbers_again(tiny_spec: ArchSpec, tiny_data: Dataset) -> None:
    state, _ = trained(tiny_spec, loop.to_device(tiny_data, RECIPE, CPU), [True, True])
    assert [(group["lr"], group["capturable"]) for group in state.optimizer.param_groups] == [(0.0, False)] * 2


def test_images_on_the_host_reach_the_step_through_their_place(
    tiny_spec: ArchSpec, tiny_data: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = loop.to_device(tiny_data, replace(RECIPE, train_images=40), CPU)
    assert data.train_images.rows is not None
    whole, expected = trained(tiny_spec, data, [True, True])
    of = loop.Places.of  # type: ignore[attr-defined]

    def apart(*arguments: Any) -> Any:
        return replace(of(*arguments), pixels=torch.zeros(16, 16, 16, 3, dtype=torch.uint8))

    monkeypatch.setattr(loop.Places, "of", apart)  # type: ignore[attr-defined]
    state, shown = trained(tiny_spec, data, [True, True])
    assert shown == expected and equal(state, whole)


def test_a_phase_that_ends_early_leaves_numbers_too(tiny_spec: ArchSpec, tiny_data: Dataset) -> None:
    state, data = loop.start(tiny_spec, RECIPE, CPU, 0), loop.to_device(tiny_data, RECIPE, CPU)

    def late() -> None:
        raise loop.Timeout("too late")

    with pytest.raises(loop.Timeout):
        loop.train_phase(state, data, RECIPE, phases(RECIPE.progressive, 16, 4)[0], late, Uncaptured())
    assert all(group["lr"] == 0.0 for group in state.optimizer.param_groups)


def test_a_loss_that_is_no_number_is_seen_in_placed_steps(tiny_spec: ArchSpec, tiny_data: Dataset) -> None:
    recipe = replace(RECIPE, learning_rate=1e38)
    with pytest.raises(loop.Diverged):
        trained(tiny_spec, loop.to_device(tiny_data, recipe, CPU), [True, True], recipe)


class Device:
    """What `Graphs` asks of CUDA, without any: a capture records that it was made, a replay does what was captured."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.log: list[str] = []
        device = self

        class Graph:
            def __init__(self) -> None:
                self.work: Callable[[], object] = lambda: None

            def register_generator_state(self, generator: torch.Generator) -> None:
                device.log.append("generator")

            def replay(self) -> None:
                device.log.append("replay")

            def reset(self) -> None:
                device.log.append("reset")

        @contextmanager
        def capture(graph: Graph, *, pool: object, stream: object, capture_error_mode: str) -> Iterator[None]:
            device.log.append(f"capture {pool} {capture_error_mode}")
            yield

        @contextmanager
        def on(stream: object) -> Iterator[None]:
            yield

        stream = type("Stream", (), {"wait_stream": lambda self, other: None, "device": CPU})
        for name, value in {
            "CUDAGraph": Graph,
            "graph": capture,
            "stream": on,
            "Stream": lambda device: stream(),
            "current_stream": lambda device: stream(),
            "graph_pool_handle": lambda: "shared",
            "synchronize": lambda device=None: self.log.append("wait"),
        }.items():
            monkeypatch.setattr(torch.cuda, name, value)


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Device:
    return Device(monkeypatch)


@pytest.fixture
def work(device: Device) -> Work:
    weight = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.AdamW([weight], fused=True)

    def run() -> torch.Tensor:
        device.log.append(f"work {optimizer.param_groups[0]['capturable']}")
        return torch.zeros(())

    return Work(run, optimizer, (torch.Generator(),))


def test_the_first_steps_are_real_ones_and_the_rest_is_replayed(device: Device, work: Work) -> None:
    with Graphs.on(CPU).stepping(work) as step:
        for _ in range(WARMUP + 3):
            step()
    captured = ["generator", "capture None thread_local", "work True"]
    assert device.log == [*["work False"] * WARMUP, *captured, *["replay"] * 3, "wait", "reset"]
    assert not work.optimizer.param_groups[0]["capturable"]


def test_a_phase_of_few_steps_is_not_captured(device: Device, work: Work) -> None:
    with Graphs.on(CPU).stepping(work) as step:
        for _ in range(WARMUP):
            step()
    assert device.log == ["work False"] * WARMUP


def test_graphs_that_take_turns_share_a_pool_and_what_is_warm_is_not_warmed_again(device: Device, work: Work) -> None:
    other = Work(work.run, work.optimizer)
    for turn in range(2):
        device.log.clear()
        with Graphs.on(CPU).replayed([work, other]) as steps:
            steps[1]()
        warmed = ["work False"] * (2 * WARMUP if turn == 0 else 0)
        one = ["capture shared thread_local", "work True"]
        assert device.log == [*warmed, "generator", *one, *one, "replay", "wait", "reset", "reset"]


def test_a_full_memory_in_a_capture_is_told_as_one_and_leaves_no_gradients(
    device: Device, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a capture that was broken off cannot be ended either, torch raises that, and not why it was broken off."""
    weight = work.optimizer.param_groups[0]["params"][0]

    @contextmanager
    def capture(*_: Any, **__: Any) -> Iterator[None]:
        try:
            yield
        finally:
            raise RuntimeError("operation failed due to a previous error during capture")

    def full() -> torch.Tensor:
        weight.grad = torch.ones(2)
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(torch.cuda, "graph", capture)
    work.warm, work.run = WARMUP, full
    with pytest.raises(torch.OutOfMemoryError), Graphs.on(CPU).stepping(work) as step:
        step()
    assert weight.grad is None and not work.optimizer.param_groups[0]["capturable"]
    work.run = lambda: torch.zeros(())
    with pytest.raises(RuntimeError, match="previous error"), Graphs.on(CPU).stepping(work) as step:
        step()


def test_an_evaluator_with_graphs_trains_and_times_by_them(
    tiny_spec: ArchSpec, tiny_data: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Both(Uncaptured):
        timed: int = 0

        @contextmanager
        def here(self) -> Iterator[None]:
            yield

        @contextmanager
        def replayed(self, works: list[Work]) -> Iterator[list[Callable[[], object]]]:
            self.timed += len(works)
            yield [work.run for work in works]

    both = Both()
    monkeypatch.setattr(evaluate.Graphs, "on", lambda device: both)
    mine = Evaluator(tiny_data, RECIPE, CPU, baseline=tiny_spec, steps="graph")
    assert both.timed == 1
    assert mine.run_phase(tiny_spec, 0, None, seed=0).measurements["step_time_ms"].value > 0
    assert both.timed == 3
    result = mine.run_phase(tiny_spec, 1, None, seed=3)
    plain = Evaluator(tiny_data, RECIPE, CPU, baseline=tiny_spec).run_phase(tiny_spec, 1, None, seed=3)
    assert both.steps == 8 and result.training and plain.training
    assert result.training.train_loss == plain.training.train_loss


def test_on_a_cpu_steps_are_eager_and_graphs_are_refused(tiny_spec: ArchSpec) -> None:
    assert [step_mode(asked, None, CPU, tiny_spec, RECIPE) for asked in ("auto", "eager")] == [("eager", "")] * 2
    with pytest.raises(UsageError, match=r"--steps: found graph on cpu; .* Give auto or eager"):
        step_mode("graph", None, CPU, tiny_spec, RECIPE)
    with pytest.raises(UsageError, match="--steps: found fast; allowed: auto, eager, graph"):
        step_mode("fast", None, CPU, tiny_spec, RECIPE)


def test_a_run_is_graphed_where_its_baseline_agrees_and_says_so_where_not(
    tiny_spec: ArchSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    cuda, answer = torch.device("cuda", 0), [""]
    monkeypatch.setattr(preflight, "lane_name", lambda device: "here")
    monkeypatch.setattr(preflight, "disagreement", lambda *_: answer[0])

    def mode(asked: str, manifest: dict[str, Any] | None = None) -> tuple[str, str]:
        return step_mode(asked, manifest, cuda, tiny_spec, RECIPE)

    old, eager, graphed = ({"device": item} for item in ({}, {"steps": "eager"}, {"steps": "graph"}))
    assert mode("auto") == mode("graph") == mode("auto", graphed) == ("graph", "")
    assert mode("eager") == mode("auto", old) == mode("graph", eager) == ("eager", "")
    answer[0] = "loss 4 is 2 with them and 1 without"
    found, said = mode("auto")
    assert found == "eager" and answer[0] in said and "All networks of this run" in said
    with pytest.raises(DeviceError, match=r"loss 4 is 2 .* Give --steps eager"):
        mode("graph")
    # No DeviceError: to that a search adds that it is to be continued.
    with pytest.raises(RunError, match=r"begun with them: try again .* or start a new one"):
        mode("auto", graphed)
