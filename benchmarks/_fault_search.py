"""`nas search` with networks that are not trained but answered for at once, and with a fault at a wanted place.

`python -m benchmarks._fault_search search --space ...`: everything but the training is the command's own: its messages, files,
signals, engines. Every phase that is begun or ended leaves a line in the file `FAULT_LOG` names.
"""

from __future__ import annotations

import os
import pkgutil
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch

import nas.cli
from nas.cost import COSTS, Measurement
from nas.cost.step_time import Protocol
from nas.engine import InlineEngine, LocalEngine
from nas.evaluate import PhaseResult, Setup
from nas.spec import ArchSpec
from nas.train import loop, stuck
from nas.train.loop import PhaseTraining, proportion_error

VAL_IMAGES = 2000

STAGES = {
    "reading images": "nas.search.session.load_data",
    "opening the study": "nas.search.session.open_study",
    "asking": "nas.search.loop.ask",
    "phase 0": "benchmarks._fault_search.Stub.counted",
    "training": "benchmarks._fault_search.Stub.trained",
    "a checkpoint": "nas.engine.checkpoints.save",
    "writing a record": "nas.search.loop._store",
    "telling": "optuna.Study.tell",
    "the table": "nas.search.record.LiveTable.add",
    "a finalist": "nas.search.session.measure_again",
    "the report": "nas.search.session.write_report",
}
"""Moments of a search, and the function that is called in each."""


@dataclass(frozen=True)
class Stub:
    """Counts networks as an evaluator does; times and accuracies are functions of the counts and the hash.

    Args:
        log: Gets a line `start|end <hash> <seed> <phase> <process>`. seconds: That a phase takes.
    """

    log: Path
    seconds: float = 0.0

    def run_phase(
        self, spec: ArchSpec, phase: int, state: Any, *, seed: int, protocol: Protocol | None = None
    ) -> PhaseResult:
        """Answer after the seconds that a phase is to take."""
        self._write("start", spec, seed, phase)
        time.sleep(self.seconds)
        result = self.counted(spec) if phase == 0 else self.trained(spec, phase)
        self._write("end", spec, seed, phase)
        return result

    def counted(self, spec: ArchSpec) -> PhaseResult:
        """Return what phase 0 shows."""
        found = {name: cost.of_spec(spec) for name in COSTS if (cost := COSTS[name]).of_spec is not None}
        times = {"step_time_ms": 5 + found["macs"].value / 1e6, "ref_step_time_ms": 12.0}
        timed = {name: Measurement(value, "ms", 0.1, 40, "stub") for name, value in times.items()}
        return PhaseResult(0, "ok", 1.0, measurements=found | timed, lane=((0.0, 1.0),))

    def trained(self, spec: ArchSpec, phase: int) -> PhaseResult:
        """Return what a training phase shows: a number that the network alone decides."""
        right = int(VAL_IMAGES * (0.5 + 0.3 * int(spec.arch_hash[:8], 16) / 0xFFFFFFFF) * (1 - 0.1 / phase))
        training = PhaseTraining(
            1 / phase, right / VAL_IMAGES, proportion_error(right, VAL_IMAGES), 70, 4.0, 0.5, val_right="f0" * 250
        )
        state = {"network": torch.zeros(1000), "phases": phase}
        return PhaseResult(phase, "ok", 4.5, training=training, lane=((0.0, 4.5),), state=state)  # type: ignore[arg-type]

    def snapshot(self, state: Any) -> dict[str, Any]:
        """Return the state: it is plain."""
        return dict(state)

    def at_work(self) -> AbstractContextManager[None]:
        """Nothing is on the device."""
        return nullcontext()

    def _write(self, what: str, spec: ArchSpec, seed: int, phase: int) -> None:
        with open(self.log, "a") as file:  # one short line: appended whole
            file.write(f"{what} {spec.arch_hash} {seed} {phase} {os.getpid()}\n")


@dataclass(frozen=True)
class StartStub:
    """What a worker makes its stub with."""

    stub: Stub

    def __call__(self, device: torch.device, waiting: Callable[[], None]) -> Stub:
        """Return the stub: there is nothing to load."""
        return self.stub


def engine_for(
    setup: Setup, data: Any, devices: Sequence[torch.device], *, asked: str, checkpoints: Path, say: Any, **rest: Any
) -> InlineEngine | LocalEngine:
    """Return the engine that the devices ask for, with the stub in place of the evaluator."""
    stub = Stub(Path(os.environ["FAULT_LOG"]), float(os.environ.get("FAULT_SECONDS", "0")))
    if "cpu:" not in asked:
        return InlineEngine(stub, checkpoints)
    return LocalEngine(StartStub(stub), devices, threads=1, checkpoints=checkpoints, say=say)


class Faulty(torch.nn.Module):
    """A network that misbehaves where a real one might: `nan`, `memory`, `hang`, `raise`."""

    def __init__(self, network: Any, how: str) -> None:
        super().__init__()
        self.network, self.how = network, how
        self.dropout = network.dropout

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Misbehave."""
        if self.how == "memory":
            torch.empty(2**55)
        if self.how == "raise":
            raise ZeroDivisionError("in the block")
        if self.how == "hang":
            time.sleep(3600)
        found: torch.Tensor = self.network(images) * float("nan")
        return found


def start_faulty(how: str, file: Path) -> Callable[..., Any]:
    """Return `nas.train.loop.start`, but the second network after the baseline misbehaves; the file says which one."""
    original = loop.start
    seen: list[str] = []

    def start(spec: ArchSpec, *args: Any, **kwargs: Any) -> Any:
        if spec.arch_hash not in seen:
            seen.append(spec.arch_hash)
        if len(seen) == 3 and not file.exists():
            file.write_text(spec.arch_hash)
        state = original(spec, *args, **kwargs)
        if file.exists() and file.read_text() == spec.arch_hash:
            state.network = Faulty(state.network, how)
        return state

    return start


def signalled(function: Callable[..., Any], number: int, calls: int) -> Callable[..., Any]:
    """Return a function that sends this process a signal when it is called for the n-th time."""
    left = [calls]

    def call(*args: Any, **kwargs: Any) -> Any:
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), number)
        return function(*args, **kwargs)

    return call


def main(words: list[str], environment: dict[str, str]) -> None:
    """Run the command line with the stub.

    Args:
        environment: `FAULT_LOG`, the file of the phases; `FAULT_SECONDS`, how long a phase takes; `FAULT_SIGNAL`, as
            `SIGINT asking 3`: sent to this process at the third time of a moment of `STAGES`; `FAULT_NETWORK`, as `nan FILE`:
            in place of the stub real trainings, of which one misbehaves.
    """
    os.environ.update(environment)
    os.chdir(Path(environment["FAULT_LOG"]).parent)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a fork server ignores it
    torch.set_num_threads(1)
    if "FAULT_NETWORK" in environment:
        how, file = environment["FAULT_NETWORK"].split(maxsplit=1)
        with mock.patch.object(loop, "start", start_faulty(how, Path(file))), mock.patch.object(stuck, "LEAST_S", 3.0):
            nas.cli.main(words)
    with mock.patch("nas.engine._choice.engine_for", engine_for):
        if "FAULT_SIGNAL" not in environment:
            nas.cli.main(words)
        name, rest = environment["FAULT_SIGNAL"].split(maxsplit=1)
        stage, calls = rest.rsplit(maxsplit=1)
        place = pkgutil.resolve_name(STAGES[stage])
        with mock.patch(STAGES[stage], signalled(place, signal.Signals[name], int(calls))):
            nas.cli.main(words)


def forked(words: list[str], environment: dict[str, str], log: str) -> None:
    """Run the command line in a process that a fork server has made, its output in a file."""
    with open(log, "ab", buffering=0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.stdin.close()
    main(words, environment)


if __name__ == "__main__":
    main(sys.argv[1:], {name: value for name, value in os.environ.items() if name.startswith("FAULT_")})
