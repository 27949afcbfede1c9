"""CUDA graphs of whole training steps: the kernels of a step are recorded once, and one call starts them all again.

A step of a small network on small images is hundreds of kernels of a few microseconds, and the host is slower to start them
than the device to run them. What a graph does is fixed when it is captured: whatever changes from step to step has to lie in
tensors that stay where they are. The first steps are done without a graph, in earnest: libraries choose their kernels in
them, the optimiser makes its state, and a memory that does not suffice shows as it would without graphs. So nothing has to
be undone, and a graphed training differs from an eager one in no step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from nas.devices import out_of_memory
from nas.train.places import Places

Mode = Literal["eager", "graph"]
"""How the steps of a run are done: kernel by kernel, or as graphs."""

WARMUP = 3
"""Steps on the stream of the capture before it, as PyTorch's notes on CUDA graphs ask for."""


@dataclass
class Work:
    """A training step whose inputs and outputs stay where they are, so that it can be captured.

    Args:
        run: Does the step and returns its loss. optimizer: Which it does it with.
        generators: What it draws random numbers from, besides torch's own.
        warm: Steps done so far: in a run with graphs all are done on the stream of the capture.
        places: Where it finds what changes from step to step; None where nothing does.
    """

    run: Callable[[], Tensor]
    optimizer: torch.optim.Optimizer
    generators: tuple[torch.Generator, ...] = ()
    warm: int = 0
    places: Places | None = None

    def __call__(self) -> Tensor:
        """Do the step, kernel by kernel."""
        self.warm += 1
        return self.run()


class Replayer(Protocol):
    """What a phase does its steps with: `Graphs`, or in tests what stands in for them."""

    def stepping(self, work: Work) -> AbstractContextManager[Callable[[], object]]:
        """Yield what does a step."""


@dataclass(frozen=True)
class Graphs:
    """Captures the steps of one device, on a stream of its own.

    One for a process and device: cuBLAS keeps a workspace for each stream that it has seen.

    Graphs that live at the same time share a memory pool, and give it back when the last of them is freed. They are not kept
    beyond a phase or a timing, so that the memory of one network does not stand in the way of the next.
    """

    stream: torch.cuda.Stream

    @classmethod
    def on(cls, device: torch.device) -> Graphs:
        """Return what captures steps on a CUDA device."""
        return cls(torch.cuda.Stream(device))  # type: ignore[no-untyped-call]

    @contextmanager
    def here(self) -> Iterator[None]:
        """Let the body's work go to the stream, after what was queued before it; what is queued later waits for it."""
        outside = torch.cuda.current_stream(self.stream.device)
        self.stream.wait_stream(outside)
        with torch.cuda.stream(self.stream):
            yield
        outside.wait_stream(self.stream)

    @contextmanager
    def stepping(self, work: Work) -> Iterator[Callable[[], object]]:
        """Yield what does a step: at first the work itself, then its graph. The body runs on the stream.

        Raises:
            torch.OutOfMemoryError: the memory does not suffice for a step or for its graph.
        """
        held: list[torch.cuda.CUDAGraph] = []

        def step() -> None:
            if work.warm < WARMUP:
                work()
                return
            if not held:
                held.append(self._captured(work))
            held[0].replay()

        try:
            with self.here():
                yield step
        finally:
            self._free(held)

    @contextmanager
    def replayed(self, works: Sequence[Work]) -> Iterator[list[Callable[[], object]]]:
        """Yield a graph's replay for each of some steps, to be run in turns, on whichever stream is the current one.

        They have one memory pool, so that two of them must never run at once.

        Raises:
            torch.OutOfMemoryError: as `stepping`.
        """
        held: list[torch.cuda.CUDAGraph] = []
        pool = torch.cuda.graph_pool_handle()
        try:
            with self.here():
                for work in works:
                    while work.warm < WARMUP:
                        work()
                for work in works:
                    held.append(self._captured(work, pool))
            yield [graph.replay for graph in held]
        finally:
            self._free(held)

    def _captured(self, work: Work, pool: object = None) -> torch.cuda.CUDAGraph:
        """Record a step; nothing of it is done. Its memory is what the warm-up took: that is given back first."""
        graph = torch.cuda.CUDAGraph()
        for generator in work.generators:  # torch's own is registered by the capture
            graph.register_generator_state(generator)
        try:
            with (
                _capturable(work.optimizer),
                # Of this thread alone: another one may wait for an event or pin memory meanwhile.
                torch.cuda.graph(graph, pool=pool, stream=self.stream, capture_error_mode="thread_local"),  # type: ignore[arg-type]
            ):
                work.run()
        except RuntimeError as error:
            work.optimizer.zero_grad(set_to_none=True)  # what there is of gradients lies in the graph's memory
            # A capture that is broken off may fail once more where it is ended; what is told is why it was.
            first = error.__context__
            if first is not None and out_of_memory(first) and not out_of_memory(error):
                raise first from None
            raise
        return graph

    def _free(self, held: list[torch.cuda.CUDAGraph]) -> None:
        """Free graphs, when the device is done with them; their memory is free for all with the next capture."""
        if held:
            torch.cuda.synchronize(self.stream.device)
        while held:
            held.pop().reset()


@contextmanager
def _capturable(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Say that a step of the optimiser may be captured: torch asks for it. It does nothing else where the step is fused."""
    for group in optimizer.param_groups:
        group["capturable"] = True
    try:
        yield
    finally:
        for group in optimizer.param_groups:
            group["capturable"] = False
