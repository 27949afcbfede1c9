from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmarks import libraries
from nas.models import build
from nas.spec import ArchSpec
from nas.train.full_recipes import FULL_RECIPES
from nas.train.optimizers import RMSpropTF, make_optimizer, set_rate

SHAPES = [(8, 3, 3, 3), (8,), (5, 8)]


def parameters() -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]


def trained(optimizer: torch.optim.Optimizer, params: list[nn.Parameter], steps: int = 30) -> list[Tensor]:
    """Step on gradients that depend on the parameters, so that errors grow, at a rate that changes."""
    generator = torch.Generator().manual_seed(1)
    for step in range(steps):
        set_rate(optimizer, 0.02 / (1 + step // 10))
        for p in params:
            p.grad = torch.sin(p.detach()) + torch.randn(p.shape, generator=generator)
        optimizer.step()
    return [p.detach() for p in params]


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("weight_decay", [0.0, 0.01])
def test_rmsprop_equals_timms(momentum: float, weight_decay: float) -> None:
    try:
        libraries.load()
    except ImportError as error:
        pytest.skip(f"{error}: install the extra `parity`")
    from timm.optim import RMSpropTF as Theirs

    settings: dict[str, Any] = {"alpha": 0.9, "eps": 1e-3, "momentum": momentum, "weight_decay": weight_decay}
    ours, theirs = parameters(), parameters()
    found = trained(RMSpropTF(ours, lr=0.0, **settings), ours)
    wanted = trained(Theirs(theirs, lr=0.0, **settings), theirs)
    for mine, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6)


def test_rmsprop_is_the_formula_of_its_docstring() -> None:
    p = nn.Parameter(torch.tensor([0.7], dtype=torch.float64))
    optimizer = RMSpropTF([p], lr=0.1, alpha=0.8, eps=0.5, momentum=0.6, weight_decay=0.3)
    value, square, velocity = 0.7, 1.0, 0.0
    for step in range(8):
        rate = 0.1 / (step + 1)
        set_rate(optimizer, rate)
        p.grad = torch.tensor([math.cos(step)], dtype=torch.float64)
        optimizer.step()
        gradient = math.cos(step) + 0.3 * value
        square = 0.8 * square + 0.2 * gradient**2
        velocity = 0.6 * velocity + rate * gradient / math.sqrt(square + 0.5)
        value -= velocity
        assert float(p.detach()) == pytest.approx(value, rel=1e-12)


def test_a_parameter_without_a_gradient_stays_and_joins_later() -> None:
    first, second = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2, 2))
    optimizer = RMSpropTF([first, second], lr=0.1, weight_decay=0.1)
    first.grad = torch.ones(2, 2)
    optimizer.step()
    assert torch.equal(second, torch.ones(2, 2))
    second.grad = torch.ones(2, 2)
    optimizer.step()
    assert float(second.detach()[0, 0]) < 1


def test_a_stored_state_goes_on_where_it_was() -> None:
    whole = parameters()
    wanted = trained(RMSpropTF(whole), whole, steps=20)
    again = parameters()
    optimizer = RMSpropTF(again)
    generator = torch.Generator().manual_seed(1)
    for step in range(20):
        if step == 7:
            stored, optimizer = optimizer.state_dict(), RMSpropTF(again)
            optimizer.load_state_dict(stored)
        set_rate(optimizer, 0.02 / (1 + step // 10))
        for p in again:
            p.grad = torch.sin(p.detach()) + torch.randn(p.shape, generator=generator)
        optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(wanted, again, strict=True))


def test_a_closure_gives_its_loss_and_gradients() -> None:
    p = nn.Parameter(torch.tensor([3.0]))
    optimizer = RMSpropTF([p], lr=0.1)

    def closure() -> float:
        optimizer.zero_grad()
        loss = (p**2).sum()
        loss.backward()
        return float(loss.detach())

    assert optimizer.step(closure) == 9.0
    assert float(p.detach()) < 3


@pytest.mark.parametrize(
    ("name", "kind"), [("rmsprop_tf", RMSpropTF), ("sgd", torch.optim.SGD), ("adamw", torch.optim.AdamW)]
)
@pytest.mark.parametrize("all_decay", [False, True])
def test_the_optimizer_of_a_recipe(tiny_spec: ArchSpec, name: Any, kind: type, all_decay: bool) -> None:
    network = build(tiny_spec, seed=0)
    recipe = replace(
        FULL_RECIPES["standard"], optimizer=name, weight_decay=0.3, decay_norms_and_biases=all_decay, momentum=0.5
    )
    optimizer = make_optimizer(network, recipe)
    assert type(optimizer) is kind
    decay = {p: group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert set(decay) == set(network.parameters())
    for key, p in network.named_parameters():
        one_dimensional = key.endswith("bias") or ".bn" in key or key.startswith("bn")
        assert decay[p] == (0.3 if all_decay or not one_dimensional else 0.0), key
    before = [p.detach().clone() for p in network.parameters()]
    network(torch.randn(4, 3, 16, 16)).square().mean().backward()
    optimizer.step()  # at the rate 0
    assert all(torch.equal(p, own) for p, own in zip(network.parameters(), before, strict=True))
    set_rate(optimizer, 0.01)
    optimizer.step()
    assert not any(
        torch.equal(p, own) for p, own in itertools.islice(zip(network.parameters(), before, strict=True), 3)
    )
