from __future__ import annotations

import pytest
import torch
from torch import Tensor

from nas.errors import RunError
from nas.models import Network, build
from nas.spec import ArchSpec
from nas.train.ema import Ema


@pytest.fixture
def network(tiny_spec: ArchSpec) -> Network:
    return build(tiny_spec, seed=0)


def copied(network: Network) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


@torch.no_grad()
def moved(network: Network, seed: int) -> None:
    """Change every tensor of a network, as a training step would."""
    generator = torch.Generator().manual_seed(seed)
    for value in network.state_dict().values():
        if value.is_floating_point():
            value.add_(torch.randn(value.shape, generator=generator))
        else:
            value.add_(1)


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return list(first) == list(second) and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("warmup", [True, False])
def test_the_average_is_that_of_weights_and_statistics(network: Network, warmup: bool) -> None:
    ema, wanted = Ema(network, 0.5, warmup=warmup), copied(network)
    for step in range(1, 13):
        moved(network, step)
        ema.update(network, step)
        # tf.train.ExponentialMovingAverage: 2 / 11, 3 / 12, ... up to the decay, which step 8 reaches
        decay = min(0.5, (1 + step) / (10 + step)) if warmup else 0.5
        for name, live in network.state_dict().items():
            wanted[name] = decay * wanted[name] + (1 - decay) * live if live.is_floating_point() else live.clone()
    found = ema.state_dict()
    assert list(found) == list(network.state_dict())
    torch.testing.assert_close(found, wanted)
    counters = [value for name, value in found.items() if name.endswith("num_batches_tracked")]
    assert counters and all(int(value) == 12 for value in counters)
    assert any(name.endswith("running_mean") for name in found)


def test_the_decay_is_warmed() -> None:
    ema = Ema(torch.nn.Linear(1, 1), 0.9999)
    assert [ema.decay_at(step) for step in (1, 10, 80_000, 1_000_000)] == pytest.approx(
        [2 / 11, 11 / 20, 80_001 / 80_010, 0.9999]
    )


def test_the_average_is_apart_from_the_network(network: Network) -> None:
    ema, first = Ema(network, 0.9), copied(network)
    moved(network, 1)
    assert same(ema.state_dict(), first)


def test_swapped_for_a_while_in_place_and_back_after_an_error(network: Network) -> None:
    ema = Ema(network, 0.9)
    moved(network, 1)
    own, places = copied(network), [p.data_ptr() for p in network.parameters()]
    with pytest.raises(KeyError), ema.swapped(network):
        assert same(copied(network), ema.state_dict())
        assert [p.data_ptr() for p in network.parameters()] == places
        raise KeyError
    assert same(copied(network), own)
    assert [p.data_ptr() for p in network.parameters()] == places


def test_a_moved_network_is_walked_again(network: Network) -> None:
    ema = Ema(network, 0.5, warmup=False)
    ema.update(network, 1)
    network.to(dtype=torch.float64).to(dtype=torch.float32)  # other tensors of the same values
    moved(network, 1)
    ema.update(network, 2)
    statistics = network.get_buffer("bn1.running_mean")
    assert torch.allclose(ema.state_dict()["bn1.running_mean"], statistics / 2)


def test_stored_and_taken_back(network: Network, tiny_spec: ArchSpec) -> None:
    ema = Ema(network, 0.9)
    moved(network, 1)
    ema.update(network, 1)
    other = Ema(build(tiny_spec, seed=5), 0.9)
    other.load_state_dict(ema.state_dict())
    assert same(other.state_dict(), ema.state_dict())
    ema.update(network, 2)
    assert not same(other.state_dict(), ema.state_dict())


def test_tensors_of_another_network_are_refused(network: Network) -> None:
    ema = Ema(network, 0.9)
    stored = ema.state_dict()
    stored["classifier.bias"] = torch.zeros(7)
    with pytest.raises(RunError, match=r"1 tensors do not fit \(classifier\.bias: found \(7,\); allowed: \(3,\)\)"):
        ema.load_state_dict(stored)
    with pytest.raises(RunError, match="found a network with other tensors"):
        ema.update(torch.nn.Linear(1, 1), 1)
