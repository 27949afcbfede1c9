"""`peak_memory_mib`: the most device memory that one training step holds. CUDA only; a CPU keeps no such account."""

from __future__ import annotations

import torch

from nas.cost._base import COSTS, Cost, Measurement, Step


def peak_memory(step: Step, device: torch.device, resident: int = 0) -> Measurement | None:
    """Return the peak of allocated memory over two steps, in MiB, or None on a CPU.

    Args:
        resident: Bytes that were allocated before the network was built (data, other networks) and do not count.
    """
    if device.type != "cuda":
        return None
    step()  # gradients and optimiser state exist from the first step on
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    for _ in range(2):
        step()
    torch.cuda.synchronize(device)
    return Measurement((torch.cuda.max_memory_allocated(device) - resident) / 2**20, "MiB", 0.0, 2, str(device))


COSTS.register(
    "peak_memory_mib",
    Cost("MiB", of_step=peak_memory, absent="peak_memory_mib is measured on CUDA devices only"),
)
