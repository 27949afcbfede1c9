from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from full_training import assert_same

from nas.blocks._layers import DropPath
from nas.data import Dataset, Split
from nas.models import Network, build
from nas.spec import ArchSpec
from nas.train import full_loop
from nas.train.distributed import Group
from nas.train.feed import feed
from nas.train.full_loop import Training, begin, epoch_steps, seed_of, train_epoch
from nas.train.full_recipes import FULL_RECIPES, FullRecipe, full_phases
from nas.train.loop import DeviceData, Images, to_device
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
    schedule="constant",
    ema_decay=0.0,
    clip_norm=0.0,
    crop_padding=0.0,
    flip=False,
    drop_path=0.0,
)
"""Nothing is drawn but the order."""


@pytest.fixture
def data(tiny_data: Dataset) -> DeviceData:
    return to_device(tiny_data, None, CPU)


def started(spec: ArchSpec, recipe: FullRecipe, seed: int = 0) -> Training:
    return begin(build(spec, seed=seed), recipe, seed=seed, device=CPU)


def epoch(training: Training, data: DeviceData, number: int = 1) -> float:
    phase = full_phases(training.recipe, 16)[0]
    return train_epoch(training, data, phase, number).train_loss


def differ(first: Network, second: Network) -> float:
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return max(float((a - b).abs().max()) for a, b in pairs)


def test_parts_of_a_batch_add_up_to_its_gradient(tiny_spec: ArchSpec, data: DeviceData) -> None:
    """Batch norm is what differs: with frozen statistics the parts of a batch make the same step as the whole."""
    for frozen, same in ((True, True), (False, False)):
        recipe = replace(PLAIN, freeze_norm=frozen)
        whole, parts = started(tiny_spec, recipe), started(tiny_spec, recipe)
        parts.micro_batch = 5  # of 16: four parts of four
        assert full_loop.batch_parts(parts) == 4
        losses = epoch(whole, data), epoch(parts, data)
        assert whole.steps == parts.steps == 4
        assert (differ(whole.network, parts.network) < 1e-5) == same
        assert (abs(losses[0] - losses[1]) < 1e-5) == same


def test_an_epoch_is_the_same_whatever_came_before(tiny_spec: ArchSpec, data: DeviceData) -> None:
    recipe = replace(PLAIN, erasing=0.5, crop_padding=0.1, drop_path=0.3, cutmix=(1.0, 1.0))
    first, second = started(tiny_spec, recipe), started(tiny_spec, recipe)
    torch.manual_seed(99)
    before = torch.get_rng_state()
    one = epoch(first, data, 2)
    assert torch.equal(torch.get_rng_state(), before), "torch's own generator is as it was"
    torch.rand(3)
    assert epoch(second, data, 2) == one
    assert_same(first.network.state_dict(), second.network.state_dict())
    assert epoch(started(tiny_spec, recipe), data, 1) != one


def test_seeds_of_all_purposes_differ() -> None:
    found = {
        seed_of(seed, epoch, purpose, rank)
        for seed in range(4)
        for epoch in range(50)
        for purpose in range(3)
        for rank in range(4)
    }
    assert len(found) == 4 * 50 * 3 * 4


def test_the_order_is_that_of_all_processes_and_each_takes_its_part() -> None:
    parts = [Group(rank, 3).part(10) for rank in range(3)]
    assert [index for part in parts for index in part] == list(range(10))
    assert Group().part(10) == range(10)


def test_drop_path_is_the_recipe_s_or_the_network_s_own(tiny_spec: ArchSpec) -> None:
    def rates(recipe: FullRecipe) -> list[float]:
        return [item.rate for item in started(tiny_spec, recipe).network.modules() if isinstance(item, DropPath)]

    own = rates(replace(PLAIN, drop_path=None))
    assert max(own) > 0
    assert rates(replace(PLAIN, drop_path=0.3)) == pytest.approx([3 * rate for rate in own])  # the network's is 0.1
    assert set(rates(PLAIN)) == {0.0}


def test_what_is_frozen_stays_and_learns_later(tiny_spec: ArchSpec, data: DeviceData) -> None:
    training = started(tiny_spec, replace(PLAIN, freeze_epochs=1, weight_decay=0.1))
    before = {name: value.clone() for name, value in training.network.state_dict().items()}
    epoch(training, data, 1)
    moved = {name for name, value in training.network.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {"classifier.weight", "classifier.bias"}
    epoch(training, data, 2)
    moved = {name for name, value in training.network.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == set(before)


def test_the_averaged_weights_are_scored_and_the_others_go_on(tiny_spec: ArchSpec, data: DeviceData) -> None:
    training = started(tiny_spec, replace(PLAIN, ema_decay=0.99))
    epoch(training, data)
    own = {name: value.clone() for name, value in training.network.state_dict().items()}
    with full_loop.averaged(training) as network:
        assert differ_from(network, own) > 0
        found = full_loop.scores(training, data, 16)
    assert differ_from(training.network, own) == 0
    assert found[:, 0].tolist() == torch.bincount(data.val_labels).tolist()
    assert bool((found[:, 1] <= found[:, 0]).all())


def differ_from(network: Network, state: dict[str, torch.Tensor]) -> float:
    return max(float((value - state[name]).abs().max()) for name, value in network.state_dict().items())


def test_progress_is_told_to_the_last_step(tiny_spec: ArchSpec, data: DeviceData) -> None:
    told: list[tuple[int, int]] = []
    training = started(tiny_spec, replace(PLAIN, batch_size=5))
    phase = full_phases(training.recipe, 16)[0]
    train_epoch(training, data, phase, 1, lambda done, steps: told.append((done, steps)))
    assert told == [(10, 13), (13, 13)] and epoch_steps(64, training.recipe) == 13


def test_images_come_in_the_order_of_their_indices() -> None:
    split = Split(np.arange(40, dtype=np.uint8).reshape(10, 2, 2, 1), np.zeros(10, np.int64))
    images = Images(torch.from_numpy(split.images), None, CPU)
    wanted = list(torch.tensor([[3, 1], [9, 9], [0, 4]]))
    found = list(feed(iter(wanted), images))
    for index, pixels in zip(wanted, found, strict=True):
        assert torch.equal(pixels, images.pixels[index])


@pytest.mark.parametrize("optimizer", ["rmsprop_tf", "adamw", "sgd"])
def test_a_small_training_learns_with_every_optimiser(tiny_spec: ArchSpec, data: DeviceData, optimizer: str) -> None:
    rate = {"rmsprop_tf": 0.005, "adamw": 0.005, "sgd": 0.1}[optimizer]
    training = started(tiny_spec, replace(PLAIN, optimizer=optimizer, learning_rate=rate, ema_decay=0.5, momentum=0.9))  # type: ignore[arg-type]
    losses = [epoch(training, data, number) for number in (1, 2, 3, 4, 5)]
    assert losses[-1] < losses[0] - 0.1


def test_every_step_has_the_rate_of_the_closed_form(
    tiny_spec: ArchSpec, data: DeviceData, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rise from 0.01 to 0.1 over one of three epochs of four steps, then half a cosine; at the middle of each step."""
    recipe = replace(PLAIN, epochs=3, schedule="cosine", warmup_epochs=1, warmup_learning_rate=0.01)
    training, rates = started(tiny_spec, recipe), []
    step = training.optimizer.step

    def recorded() -> None:
        rates.append([group["lr"] for group in training.optimizer.param_groups])
        step()

    monkeypatch.setattr(training.optimizer, "step", recorded)
    for number in (1, 2, 3):
        epoch(training, data, number)
    rise = [0.01 + 0.09 * (step + 0.5) / 4 for step in range(4)]
    fall = [0.05 * (1 + math.cos(math.pi * (step + 0.5) / 8)) for step in range(8)]
    assert len(training.optimizer.param_groups) == 2
    assert rates == [pytest.approx([rate, rate]) for rate in rise + fall]


def one_step(spec: ArchSpec, data: DeviceData, recipe: FullRecipe, monkeypatch: pytest.MonkeyPatch) -> Training:
    """Train one step of a whole epoch, with its gradients kept."""
    training = started(spec, replace(recipe, batch_size=64))
    monkeypatch.setattr(training.optimizer, "zero_grad", lambda **_: None)
    epoch(training, data)
    assert training.steps == 1
    return training


def length(training: Training) -> float:
    gradients = [p.grad.flatten() for p in training.network.parameters() if p.grad is not None]
    return float(torch.cat(gradients).norm())


def test_a_long_gradient_is_shortened(tiny_spec: ArchSpec, data: DeviceData, monkeypatch: pytest.MonkeyPatch) -> None:
    free = length(one_step(tiny_spec, data, PLAIN, monkeypatch))
    assert free > 0.2
    assert length(one_step(tiny_spec, data, replace(PLAIN, clip_norm=0.1), monkeypatch)) == pytest.approx(0.1, rel=1e-3)
    assert length(one_step(tiny_spec, data, replace(PLAIN, clip_norm=2 * free), monkeypatch)) == pytest.approx(free)


def test_targets_are_smoothed(tiny_spec: ArchSpec, data: DeviceData) -> None:
    images = torch.randn(6, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1, 2, 2, 1, 0])
    for share in (0.0, 0.3):
        training = started(tiny_spec, replace(PLAIN, label_smoothing=share))
        training.network.eval()
        chances = training.network(images).log_softmax(1).detach()
        # Szegedy et al. 2016, section 7: (1 - share) of the class itself, share of all classes alike
        wanted = -(1 - share) * chances[range(6), labels] - share * chances.mean(1)
        assert float(full_loop.backward(training, images, labels, 0.5)) == pytest.approx(0.5 * float(wanted.mean()))


def test_dropout_is_that_of_the_phase(tiny_spec: ArchSpec, data: DeviceData) -> None:
    recipe = replace(PLAIN, epochs=2, progressive=Progressive(2, (1.0, 1.0), dropout=(0.0, 0.75)))
    training, zeros = started(tiny_spec, recipe), []

    def seen(_: object, given: tuple[torch.Tensor], said: torch.Tensor) -> None:
        zeros.append(float(((said == 0) & (given[0] != 0)).float().mean()))

    training.network.dropout.register_forward_hook(seen)
    for number, phase in enumerate(full_phases(recipe, 16), 1):
        train_epoch(training, data, phase, number)
    assert set(zeros[:4]) == {0.0} and sum(zeros[4:]) / 4 == pytest.approx(0.75, abs=0.1)


def test_erasing_sets_a_box_to_zero(data: DeviceData) -> None:
    recipe = replace(PLAIN, erasing=1.0)
    phase = full_phases(recipe, 16)[0]
    pixels, labels = data.train_images[torch.arange(16)], data.train_labels[:16]
    whole, erased = (
        full_loop.make_batch(data, pixels, labels, item, phase, torch.Generator().manual_seed(0))[0]
        for item in (replace(recipe, erasing=0.0), recipe)
    )
    gone = (erased == 0).all(1) & (whole != 0).any(1)
    assert bool(gone.flatten(1).any(1).all()), "a box in every image"
    assert torch.equal(erased[~gone[:, None].expand_as(erased)], whole[~gone[:, None].expand_as(whole)])
