from __future__ import annotations

import gc
import weakref
from dataclasses import replace

import torch

from nas.data import Dataset
from nas.engine import InlineEngine, Job
from nas.evaluate import Evaluator
from nas.spec import ArchSpec
from nas.train.recipes import RECIPES
from nas.train.schedule import Progressive

RECIPE = replace(RECIPES["quick"], batch_size=16, epochs=1, progressive=Progressive(2, (0.5, 1)))


def test_phases_run_when_they_are_asked_for_in_the_order_of_submission(tiny_spec: ArchSpec, tiny_data: Dataset) -> None:
    engine = InlineEngine(Evaluator(tiny_data, RECIPE, torch.device("cpu"), baseline=tiny_spec))
    for trial in (5, 3):
        engine.submit(Job(trial, tiny_spec, 1, seed=trial))
    assert engine._states == {}
    assert [engine.next()[0].trial for _ in range(2)] == [5, 3]
    assert set(engine._states) == {5, 3}


def test_the_engine_trains_what_the_evaluator_trains(tiny_spec: ArchSpec, tiny_data: Dataset) -> None:
    evaluator = Evaluator(tiny_data, RECIPE, torch.device("cpu"), baseline=tiny_spec)
    state, expected = None, []
    for phase in (1, 2):
        result = evaluator.run_phase(tiny_spec, phase, state, seed=1)
        state = result.state
        assert result.training is not None
        expected.append((result.training.train_loss, result.training.val_accuracy))
    engine, found = InlineEngine(evaluator), []
    for phase in (1, 2):
        engine.submit(Job(0, tiny_spec, phase, seed=1))
        _, result = engine.next()
        assert result.training is not None
        found.append((result.training.train_loss, result.training.val_accuracy))
    assert found == expected


def test_an_ended_trial_frees_its_network(tiny_spec: ArchSpec, tiny_data: Dataset) -> None:
    engine = InlineEngine(Evaluator(tiny_data, RECIPE, torch.device("cpu"), baseline=tiny_spec))
    networks = []
    for trial in (0, 1):
        engine.submit(Job(trial, tiny_spec, 1, seed=0))
        engine.next()
        networks.append(weakref.ref(engine._states[trial].network))
    engine.drop(0)
    gc.collect()
    assert networks[0]() is None and networks[1]() is not None
    engine.close()
    gc.collect()
    assert networks[1]() is None
