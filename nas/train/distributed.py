"""Several processes that train one network: who takes part, and what they agree on.

`torchrun --nproc-per-node N -m nas train ...` starts N processes that find one another by the environment (RANK, WORLD_SIZE,
LOCAL_RANK, MASTER_ADDR, MASTER_PORT). Process 0 owns the run folder and prints. A process alone is a group of one, for which
everything here is free. Gradients go over NCCL between CUDA devices and over gloo between CPUs; what the processes agree on
besides (a path, a flag) is on the CPU and goes over gloo, so that it never waits for a device.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from nas.devices import pick_device
from nas.errors import DeviceError, UsageError

T = TypeVar("T")

_PATIENCE = timedelta(hours=2)
"""How long a process waits for the others: the first of them may be decoding a large set of images."""


@dataclass(frozen=True)
class Group:
    """The processes of a training.

    Args:
        rank: Number of this one, from 0. size: How many there are.
    """

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process owns the run folder and prints."""
        return self.rank == 0

    def agreed(self, value: T) -> T:
        """Return the value of process 0."""
        if self.size == 1:
            return value
        held = [value]
        dist.broadcast_object_list(held, src=0, device=torch.device("cpu"))
        return held[0]

    def any(self, flag: bool) -> bool:
        """Return whether the flag is set in some process. Waits for all of them."""
        if self.size == 1:
            return flag
        found = torch.tensor(int(flag))
        dist.all_reduce(found, dist.ReduceOp.MAX)
        return bool(found)

    def wait(self) -> None:
        """Wait until all processes are here."""
        self.any(False)

    def total(self, values: Tensor) -> Tensor:
        """Return the sum of a tensor over the processes, where it is."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def part(self, number: int) -> range:
        """Return this process's share of `number` things: neighbours, as many as the others have, give or take one."""
        return range(number * self.rank // self.size, number * (self.rank + 1) // self.size)

    def same(self, network: nn.Module) -> None:
        """Give every process the weights and the running statistics of process 0."""
        if self.size > 1:
            for tensor in network.state_dict().values():
                dist.broadcast(tensor, src=0)


def rank() -> int:
    """Return the number of this process by its environment; 0 where it is alone."""
    return _number("RANK") if "WORLD_SIZE" in os.environ else 0


@contextmanager
def joined(device: str) -> Iterator[tuple[Group, torch.device]]:
    """Join the other processes where there are some, and yield the group and this process's device.

    Args:
        device: As the user named it; with several processes `cuda` and `auto` take the device of each one's LOCAL_RANK.

    Raises:
        DeviceError: the device is not there. UsageError: one device for several processes.
    """
    if "WORLD_SIZE" not in os.environ or _number("WORLD_SIZE") == 1:
        yield Group(), pick_device(device)
        return
    cuda = device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())
    if ":" in device:
        raise UsageError(
            f"--device: found {device}; with several processes each takes a device of its own: give cuda, cpu or auto, and "
            "choose among the devices with CUDA_VISIBLE_DEVICES."
        )
    place = pick_device(f"cuda:{_number('LOCAL_RANK')}" if cuda else "cpu")
    if cuda and not dist.is_nccl_available():
        raise DeviceError(
            "torchrun: this torch has no NCCL, over which CUDA devices talk. Train on one device, or on cpu."
        )
    dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo", timeout=_PATIENCE)
    yield Group(dist.get_rank(), dist.get_world_size()), place
    dist.destroy_process_group()  # not after an error: it may wait for what the others will never send


def _number(name: str) -> int:
    text = os.environ.get(name, "")
    if not text.isdecimal():
        raise UsageError(
            f"{name}: found {text!r} in the environment beside WORLD_SIZE; torchrun sets it to a whole number. Start with "
            "torchrun, or unset WORLD_SIZE."
        )
    return int(text)
