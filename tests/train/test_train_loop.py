from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from nas.data import Dataset, Split
from nas.spec import ArchSpec
from nas.train import loop
from nas.train.recipes import RECIPES, Recipe
from nas.train.schedule import Phase, Progressive, phases

CPU = torch.device("cpu")
RECIPE = replace(
    RECIPES["quick"], batch_size=16, epochs=4, progressive=Progressive(2, (0.5, 1), dropout=(0.1, 0.3)), flip=False
)


def weights(state: loop.TrainState) -> list[torch.Tensor]:
    return [value.clone() for value in state.network.state_dict().values()]


def train(spec: ArchSpec, data: Dataset, recipe: Recipe = RECIPE, seed: int = 0) -> tuple[loop.TrainState, list[float]]:
    state = loop.start(spec, recipe, CPU, seed)
    on_device = loop.to_device(data, recipe, CPU)
    shown = [
        loop.train_phase(state, on_device, recipe, phase)
        for phase in phases(recipe.progressive, spec.resolution, recipe.epochs)
    ]
    return state, [item.train_loss for item in shown] + [item.val_accuracy for item in shown]


def same(first: list[torch.Tensor], second: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_one_seed_gives_one_training(tiny_spec: ArchSpec, tiny_data: Dataset) -> None:
    first, shown = train(tiny_spec, tiny_data)
    torch.rand(7)  # whatever else draws random numbers in the process
    second, again = train(tiny_spec, tiny_data)
    assert shown == again
    assert same(weights(first), weights(second))


def test_another_seed_gives_another_training(tiny_spec: ArchSpec, tiny_data: Dataset) -> None:
    first, shown = train(tiny_spec, tiny_data, seed=0)
    second, other = train(tiny_spec, tiny_data, seed=1)
    assert shown[0] != other[0]
    assert not same(weights(first), weights(second))


def test_a_phase_from_a_checkpoint_repeats_what_it_would_have_seen(tiny_spec: ArchSpec, tiny_data: Dataset) -> None:
    whole, shown = train(tiny_spec, tiny_data)
    data = loop.to_device(tiny_data, RECIPE, CPU)
    first, second = phases(RECIPE.progressive, tiny_spec.resolution, RECIPE.epochs)
    state = loop.start(tiny_spec, RECIPE, CPU, 0)
    loop.train_phase(state, data, RECIPE, first)
    stored = (state.network.state_dict(), state.optimizer.state_dict())
    fresh = loop.start(tiny_spec, RECIPE, CPU, 0)
    torch.manual_seed(12345)
    fresh.network.load_state_dict(stored[0])
    fresh.optimizer.load_state_dict(stored[1])
    result = loop.train_phase(fresh, data, RECIPE, second)
    assert result.train_loss == shown[1]
    assert same(weights(whole), weights(fresh))
    assert fresh.phases_done == 2


def test_the_loss_falls_and_the_classes_are_learned(tiny_spec: ArchSpec, tiny_data: Dataset) -> None:
    recipe = replace(RECIPE, epochs=16, progressive=Progressive(2, (0.5, 1)))
    _, (first, second, _, accuracy) = train(tiny_spec, tiny_data, recipe)
    assert second < first < 1.6
    assert accuracy > 0.8


def test_a_loss_that_is_no_number_diverges(tiny_spec: ArchSpec, tiny_data: Dataset) -> None:
    with pytest.raises(loop.Diverged, match="not finite"):
        train(tiny_spec, tiny_data, replace(RECIPE, learning_rate=1e38))


def test_who_watches_a_phase_may_end_it(tiny_spec: ArchSpec, tiny_data: Dataset) -> None:
    data = loop.to_device(tiny_data, RECIPE, CPU)
    phase = Phase(1, 16, 0.5, 0, 0, 0)
    calls: list[int] = []

    def late() -> None:
        raise loop.Timeout("too late")

    loop.train_phase(loop.start(tiny_spec, RECIPE, CPU, 0), data, RECIPE, phase, lambda: calls.append(1))
    assert calls == [1], "at least once, before scoring"
    with pytest.raises(loop.Timeout, match="too late"):
        loop.train_phase(loop.start(tiny_spec, RECIPE, CPU, 0), data, RECIPE, phase, late)


@pytest.mark.parametrize("batch_size", [7, 32, 250])
def test_the_accuracy_is_that_of_counting_one_by_one(tiny_spec: ArchSpec, tiny_data: Dataset, batch_size: int) -> None:
    state, _ = train(tiny_spec, tiny_data)
    data = loop.to_device(tiny_data, RECIPE, CPU)
    accuracy, error = loop.evaluate(state.network, data, 16)
    assert float(loop.correct(state.network, data, 16, batch_size).float().mean()) == pytest.approx(accuracy)
    state.network.eval()
    right = 0
    for image, label in zip(tiny_data.val.images, tiny_data.val.labels, strict=True):
        x = (torch.from_numpy(image).float().permute(2, 0, 1)[None] / 255 - 0.4) / 0.2
        right += int(state.network(x).argmax()) == int(label)
    n = len(tiny_data.val.labels)
    assert accuracy == pytest.approx(right / n)
    assert error == loop.proportion_error(right, n)


def test_the_error_of_an_accuracy_is_never_zero_and_that_of_many_images_the_usual_one() -> None:
    assert [loop.proportion_error(k, 18) for k in (0, 18)] == pytest.approx([math.sqrt(19 / 20**3)] * 2)
    assert loop.proportion_error(1, 2) == pytest.approx(0.25)  # p = 1/2 of 4
    assert loop.proportion_error(8_000, 10_000) == pytest.approx(math.sqrt(0.8 * 0.2 / 10_000), rel=1e-3)


def test_evaluation_changes_nothing(tiny_spec: ArchSpec, tiny_data: Dataset) -> None:
    state, _ = train(tiny_spec, tiny_data)
    before = weights(state)
    data = loop.to_device(tiny_data, RECIPE, CPU)
    assert loop.evaluate(state.network, data, 16) == loop.evaluate(state.network, data, 16)
    assert same(before, weights(state))
    assert not state.network.training


def test_training_is_in_training_mode_with_the_phases_dropout(
    tiny_spec: ArchSpec, tiny_data: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[bool, float]] = []
    original = loop.train_step

    def spy(state: loop.TrainState, images: torch.Tensor, targets: torch.Tensor, recipe: Recipe) -> torch.Tensor:
        modes = {module.training for module in state.network.modules()}
        assert modes == {True}
        seen.append((True, state.network.dropout.p))
        return original(state, images, targets, recipe)

    monkeypatch.setattr(loop, "train_step", spy)
    state, _ = train(tiny_spec, tiny_data)
    assert [p for _, p in seen] == [0.1] * 8 + [0.3] * 8
    norms = [module for module in state.network.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert norms and all(int(norm.num_batches_tracked) == 16 for norm in norms)


def test_the_global_generator_is_left_as_it_was(tiny_spec: ArchSpec, tiny_data: Dataset) -> None:
    state = loop.start(tiny_spec, RECIPE, CPU, 0)
    data = loop.to_device(tiny_data, RECIPE, CPU)
    torch.manual_seed(99)
    expected = torch.rand(4)
    torch.manual_seed(99)
    loop.train_phase(state, data, RECIPE, phases(RECIPE.progressive, 16, 1)[1])
    assert torch.equal(torch.rand(4), expected)


def test_mixup_trains_on_mixed_labels(tiny_spec: ArchSpec, tiny_data: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.Tensor] = []
    original = loop.train_step

    def spy(state: loop.TrainState, images: torch.Tensor, targets: torch.Tensor, recipe: Recipe) -> torch.Tensor:
        seen.append(targets)
        return original(state, images, targets, recipe)

    monkeypatch.setattr(loop, "train_step", spy)
    train(tiny_spec, tiny_data, replace(RECIPE, progressive=Progressive(2, (0.5, 1), mixup=(0, 0.5))))
    assert all(item.dtype == torch.int64 for item in seen[:8])
    mixed = torch.cat(seen[8:])
    assert mixed.shape == (128, 3) and mixed.dtype == torch.float32
    assert torch.allclose(mixed.sum(1), torch.ones(128))
    assert ((mixed > 0.01).sum(1) == 2).any()


def test_norms_and_biases_have_no_weight_decay(tiny_spec: ArchSpec) -> None:
    state = loop.start(tiny_spec, RECIPE, CPU, 0)
    decay = {id(p): group["weight_decay"] for group in state.optimizer.param_groups for p in group["params"]}
    parameters = dict(state.network.named_parameters())
    assert len(decay) == len(parameters)
    for name, parameter in parameters.items():
        expected = RECIPE.weight_decay if parameter.ndim > 1 else 0.0
        assert decay[id(parameter)] == expected, name
    norms = {id(p) for m in state.network.modules() if isinstance(m, torch.nn.BatchNorm2d) for p in m.parameters()}
    assert norms and all(decay[item] == 0 for item in norms)


@pytest.mark.parametrize(("images", "batch_size"), [(64, 16), (30, 7), (5, 8)])
def test_batches_hold_each_image_once_an_epoch(images: int, batch_size: int) -> None:
    epochs = 3
    steps = images * epochs // batch_size
    found = list(loop.batches(images, batch_size, steps, torch.Generator().manual_seed(0)))
    assert all(len(batch) == batch_size for batch in found)
    order = torch.cat(found).tolist()
    for epoch in range(len(order) // images):
        assert sorted(order[epoch * images : (epoch + 1) * images]) == list(range(images))
    assert max(Counter(order).values()) - min(Counter(order).values(), default=0) <= 1
    if images > 10:
        assert order[:images] != order[images : 2 * images]


def test_steps_follow_images_and_epochs() -> None:
    phase = Phase(1, 16, 0.5, 0, 0, 0)
    assert loop.phase_steps(64, RECIPE, phase) == 2
    assert loop.phase_steps(1, RECIPE, phase) == 1


def test_a_recipe_that_uses_fewer_images_takes_the_same_ones_always(tiny_data: Dataset) -> None:
    recipe = replace(RECIPE, train_images=20, val_images=10)
    first, second = loop.to_device(tiny_data, recipe, CPU), loop.to_device(tiny_data, recipe, CPU)
    assert len(first.train_labels) == 20 and len(first.val_labels) == 10
    every = torch.arange(20)
    assert torch.equal(first.train_images[every], second.train_images[every])
    assert first.train_images[every].shape == (20, 16, 16, 3)
    assert len({int(label) for label in first.train_labels}) == 3
    assert torch.equal(first.val_images[2:5], first.val_images[torch.tensor([2, 3, 4])])


def test_images_stay_in_their_file_until_a_batch_is_wanted(tiny_data: Dataset, tmp_path: Path) -> None:
    """A pack may be larger than memory: only what a batch needs is read."""
    path = tmp_path / "huge.npy"
    shape = (200_000, 224, 224, 3)  # 30 GB in all, of which the file system holds none
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
        file.truncate(file.tell() + math.prod(shape))
    labels = np.arange(shape[0], dtype=np.int64) % 3
    data = replace(tiny_data, train=Split(np.load(path, mmap_mode="r"), labels))
    for most in (1000, shape[0]):
        images = loop.to_device(data, replace(RECIPE, train_images=most), CPU).train_images
        assert images[torch.tensor([0, most - 1])].shape == (2, 224, 224, 3)


def test_the_timed_step_is_a_real_one_that_does_not_train(tiny_spec: ArchSpec, tiny_data: Dataset) -> None:
    state = loop.start(tiny_spec, RECIPE, CPU, 0)
    step = loop.timing_step(state, loop.to_device(tiny_data, RECIPE, CPU), RECIPE, 16)
    before = [p.detach().clone() for p in state.network.parameters()]
    first = step()
    assert torch.isfinite(first)
    assert all(torch.equal(a, b) for a, b in zip(before, state.network.parameters(), strict=True))
