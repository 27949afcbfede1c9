from __future__ import annotations

import gc
import weakref
from dataclasses import replace
from pathlib import Path

import torch

from nas.data import Dataset
from nas.engine import InlineEngine, Job, checkpoints
from nas.evaluate import Evaluator
from nas.spec import ArchSpec
from nas.train.recipes import RECIPES
from nas.train.schedule import Progressive

RECIPE = replace(RECIPES["quick"], batch_size=16, epochs=1, progressive=Progressive(2, (0.5, 1)))


def inline(spec: ArchSpec, data: Dataset, folder: Path | None = None) -> InlineEngine:
    return InlineEngine(Evaluator(data, RECIPE, torch.device("cpu"), baseline=spec), folder)


def train(engine: InlineEngine, spec: ArchSpec, seed: int, *phases: int) -> list[tuple[float, float]]:
    found = []
    for phase in phases:
        engine.submit(Job(spec, phase, seed))
        _, result = engine.next()
        assert result.training is not None
        found.append((result.training.train_loss, result.training.val_accuracy))
    return found


def test_phases_run_when_they_are_asked_for_in_the_order_of_submission(tiny_spec: ArchSpec, tiny_data: Dataset) -> None:
    engine = inline(tiny_spec, tiny_data)
    for seed in (5, 3):
        engine.submit(Job(tiny_spec, 1, seed))
    assert engine._worker._trainings == {}
    assert [engine.next()[0].seed for _ in range(2)] == [5, 3]
    assert {key[-1] for key in engine._worker._trainings} == {"5", "3"}


def test_the_engine_trains_what_the_evaluator_trains(tiny_spec: ArchSpec, tiny_data: Dataset) -> None:
    evaluator = Evaluator(tiny_data, RECIPE, torch.device("cpu"), baseline=tiny_spec)
    state, expected = None, []
    for phase in (1, 2):
        result = evaluator.run_phase(tiny_spec, phase, state, seed=1)
        state = result.state
        assert result.training is not None
        expected.append((result.training.train_loss, result.training.val_accuracy))
    assert train(InlineEngine(evaluator), tiny_spec, 1, 1, 2) == expected


def test_a_training_continued_from_its_checkpoint_is_the_one_that_was_not_interrupted(
    tiny_spec: ArchSpec, tiny_data: Dataset, tmp_path: Path
) -> None:
    """To the last bit: weights, optimiser, order, augmentation, dropout and drop path."""
    whole = train(inline(tiny_spec, tiny_data, tmp_path / "whole"), tiny_spec, 1, 1, 2)
    first = train(inline(tiny_spec, tiny_data, tmp_path / "cut"), tiny_spec, 1, 1)
    torch.manual_seed(99)  # another process draws other numbers
    second = train(inline(tiny_spec, tiny_data, tmp_path / "cut"), tiny_spec, 1, 2)
    assert first + second == whole
    key = Job(tiny_spec, 0, 1).key
    (_, a), (_, b) = (checkpoints.load(tmp_path / name, key) for name in ("whole", "cut"))
    assert a is not None and b is not None and a["optimizer"] is b["optimizer"] is None, "no phase follows"
    assert all(torch.equal(value, b["network"][name]) for name, value in a["network"].items())


def test_an_ended_training_frees_its_network(tiny_spec: ArchSpec, tiny_data: Dataset) -> None:
    engine = inline(tiny_spec, tiny_data)
    networks = []
    for seed in (0, 1):
        train(engine, tiny_spec, seed, 1)
        networks.append(weakref.ref(engine._worker._trainings[Job(tiny_spec, 0, seed).key].state.network))
    engine.drop(Job(tiny_spec, 0, 0).key)
    gc.collect()
    assert networks[0]() is None and networks[1]() is not None
    engine.close()
    gc.collect()
    assert networks[1]() is None
