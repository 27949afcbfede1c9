"""The optimisers of full training, and how parameters are grouped for them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, overload

import torch
from torch import nn

from nas.train.full_recipes import FullRecipe


class RMSpropTF(torch.optim.Optimizer):
    """TensorFlow's RMSProp, which torch's differs from in three ways.

    With gradient g, mean square s and velocity m:  s = alpha * s + (1 - alpha) * g^2;  m = momentum * m + lr * g / sqrt(s + eps);
    p = p - m. So eps is inside the root, s begins at 1 instead of 0 (first steps are small, not large), and the rate is in
    the velocity (a change of rate acts on later gradients only). Weight decay is an L2 term in the gradient.

    Source: Tieleman & Hinton 2012, lecture 6.5, in the form of tf.compat.v1.train.RMSPropOptimizer.

    Args:
        parameters: Tensors, or groups of them.
        lr: Rate.
        alpha: Decay of the mean square. eps: Under the root. momentum: Of the velocity; 0 keeps none.
        weight_decay: Factor of the parameters that is added to their gradients.
    """

    def __init__(
        self,
        parameters: Iterable[Any],
        lr: float = 0.01,
        alpha: float = 0.9,
        eps: float = 1e-3,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(
            parameters, {"lr": lr, "alpha": alpha, "eps": eps, "momentum": momentum, "weight_decay": weight_decay}
        )

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Do one step; parameters without a gradient stay as they are.

        Args:
            closure: Computes the loss and the gradients once more; its loss is returned.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            self._step(group)
        return loss

    def _step(self, group: dict[str, Any]) -> None:
        params = [p for p in group["params"] if p.grad is not None]
        if not params:
            return
        for p in params:
            if not self.state[p]:
                self.state[p]["square"] = torch.ones_like(p)
                if group["momentum"]:
                    self.state[p]["velocity"] = torch.zeros_like(p)
        grads = [p.grad for p in params]
        if group["weight_decay"]:
            grads = list(torch._foreach_add(grads, params, alpha=group["weight_decay"]))
        squares = [self.state[p]["square"] for p in params]
        torch._foreach_mul_(squares, group["alpha"])
        torch._foreach_addcmul_(squares, grads, grads, value=1 - group["alpha"])
        roots = torch._foreach_add(squares, group["eps"])
        torch._foreach_sqrt_(roots)
        steps = list(torch._foreach_div(grads, roots))
        torch._foreach_mul_(steps, group["lr"])
        if group["momentum"]:
            velocities = [self.state[p]["velocity"] for p in params]
            torch._foreach_mul_(velocities, group["momentum"])
            torch._foreach_add_(velocities, steps)
            steps = velocities
        torch._foreach_sub_(params, steps)


def make_optimizer(network: nn.Module, recipe: FullRecipe) -> torch.optim.Optimizer:
    """Return a recipe's optimiser, at the rate 0: `set_rate` gives it one before each step.

    Args:
        network: On the device where it will be trained. A parameter that is frozen for a while (it has no gradient then) is
            left alone, by weight decay too.
    """
    every = list(network.parameters())
    if recipe.decay_norms_and_biases:
        groups: list[dict[str, Any]] = [{"params": every, "weight_decay": recipe.weight_decay}]
    else:
        groups = [
            {"params": [p for p in every if p.ndim > 1], "weight_decay": recipe.weight_decay},
            {"params": [p for p in every if p.ndim <= 1], "weight_decay": 0.0},
        ]
        groups = [group for group in groups if group["params"]]
    if recipe.optimizer == "rmsprop_tf":
        return RMSpropTF(groups, lr=0.0, alpha=recipe.alpha, eps=recipe.eps, momentum=recipe.momentum)
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=0.0, momentum=recipe.momentum, nesterov=recipe.nesterov, fused=True)
    return torch.optim.AdamW(groups, lr=0.0, betas=recipe.betas, eps=recipe.eps, fused=True)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of all groups."""
    for group in optimizer.param_groups:
        group["lr"] = rate
