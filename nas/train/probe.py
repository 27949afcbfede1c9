"""What pays on this machine's CPU: how many processes of how many threads, which layout, which precision.

Measured once on a machine, in about ten seconds, with the training step of a small network: nothing of it is assumed, for it
differs from one CPU to the next (bfloat16 pays where the CPU has matrix units for it and costs where it has none). The
answer is kept in the cache folder; it holds for the CPU, the cores and memory that may be used, and the version of torch. A run's
manifest says what it was trained with, and a resumed run keeps that.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path
from statistics import median
from typing import IO, Any

import torch

from nas.data._store import cache_folder
from nas.devices import describe_device
from nas.errors import DeviceError
from nas.host import keep_freed_memory, memory_available, usable_cores
from nas.lane import lane
from nas.runs import write_json
from nas.train.recipes import AUTO, RECIPES, Recipe

WORKERS = "cpu:auto"
"""The devices that mean as many workers on the CPU as pay."""

ROUNDS = 3
SECONDS = 0.6
"""Of one window. Three rounds of five windows, and the start of the processes, make about ten seconds."""

LIMIT_S = 120.0
"""After so many seconds the measurement is given up."""

GAIN = 1.1
"""What is unusual has to be faster by this to be chosen, so that noise chooses nothing."""

MOST_WORKERS = 8
MEMORY_MIB = 1500
"""What a worker may need; a machine with little memory gets fewer."""

USUAL = "float32 channels_last"


@dataclass(frozen=True)
class Probe:
    """What pays on this CPU.

    Args:
        workers: Processes that train at a time. threads: Of each.
        layout, precision: Of `Recipe`.
        rates: Training images per second of each way that was tried, all processes together: medians.
    """

    workers: int
    threads: int
    layout: str
    precision: str
    rates: Mapping[str, float]

    def sentence(self) -> str:
        """Say what was chosen, and against what."""
        usual = next((rate for name, rate in self.rates.items() if name.startswith("1x")), None)
        gain = (
            f" train {self.rates[_name(self.workers, self.threads)] / usual:.2f} times as many images as one"
            if usual
            else ""
        )
        many = f"{self.workers} workers of {self.threads} thread{'s' * (self.threads > 1)}{gain}"
        return (
            f"CPU: {many if self.workers > 1 else 'one worker is best'}; {self.precision}, {self.layout.replace('_', ' ')} "
            "(measured on this machine)."
        )


DEFAULT = Probe(1, 1, "channels_last", "float32", {})
"""What is taken where nothing can be measured."""


def settled(recipe: Recipe, probe: Probe) -> Recipe:
    """Return the recipe with what it leaves open decided by a probe; what is usual on a CPU is left open as it was."""
    return replace(
        recipe,
        precision=probe.precision if recipe.precision == AUTO and probe.precision != "float32" else recipe.precision,
        layout=probe.layout if recipe.layout == AUTO and probe.layout != "channels_last" else recipe.layout,
    )


def probed(
    say: Callable[[str], None] = lambda sentence: None,
    waiting: Callable[[], None] | None = None,
    *,
    anew: bool = False,
) -> Probe:
    """Return what pays on this CPU: what the cache folder has of it, or what is measured now and kept there.

    Measured with the CPU's lane alone: neither does it disturb the timings of other runs, nor their trainings it.

    Args:
        say: Called before ten seconds of work. waiting: Called when another run holds the lane.
        anew: Measure also where something is kept.

    Raises:
        DeviceError: it cannot be measured.
    """
    found = None if anew else _kept()
    if found is not None:
        return found
    with lane("cpu", alone=True, waiting=waiting):
        if not anew and (found := _kept()) is not None:  # another run has measured meanwhile
            return found
        say(f"Trying for ten seconds what pays on this CPU: processes, threads, layout, precision. Kept in {file()}.")
        found = chosen(measured())
    save(found)
    return found


def _kept() -> Probe | None:
    """Return what is kept of this machine, or None where that is nothing or is damaged (it is then measured again)."""
    try:
        return Probe(**json.loads(file().read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def save(probe: Probe) -> None:
    """Keep a probe for this machine.

    Raises:
        RunError, DeviceError: the cache folder cannot be written.
    """
    try:
        file().parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DeviceError(
            f"{file().parent}: cannot be made ({error.strerror}), and what pays on this CPU is to be kept there. "
            "Set NAS_CACHE to another folder."
        ) from None
    write_json(file(), asdict(probe))


def file() -> Path:
    """Return where the probe of this machine is kept."""
    facts = describe_device(torch.device("cpu"), threads=1)
    facts |= {"usable": usable_cores(), "torch": torch.__version__, "tried": splits(_threads(), _memory_mib())}
    return cache_folder().parent / f"probe-{sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]}.json"


def _threads() -> int:
    """Return the threads that all workers have together, as a search divides them."""
    return min(torch.get_num_threads(), usable_cores())


def _memory_mib() -> float:
    try:
        return memory_available() / 2**20
    except (OSError, KeyError):  # no Linux: nobody says
        return float("inf")


def splits(cores: int, memory_mib: float) -> list[tuple[int, int]]:
    """Return the ways to divide cores that are tried, as (workers, threads): all in one, and one each as far as that goes."""
    most = max(1, min(cores, MOST_WORKERS, int(memory_mib / MEMORY_MIB)))
    return [(1, cores), (most, cores // most)] if most > 1 else [(1, cores)]


def chosen(rates: Mapping[str, Mapping[str, float]]) -> Probe:
    """Choose from rates (images per second): the usual way, unless another one is faster by a tenth.

    Args:
        rates: `ways`: of one process of one thread by `precision layout`. `splits`: of all processes by `workers x threads`.
    """
    way = max(rates["ways"], key=lambda name: rates["ways"][name] / (1.0 if name == USUAL else GAIN))
    first = next(iter(rates["splits"]))
    split = max(rates["splits"], key=lambda name: rates["splits"][name] / (1.0 if name == first else GAIN))
    precision, layout = way.split()
    workers, threads = (int(number) for number in split.split("x"))
    return Probe(workers, threads, layout, precision, {**rates["ways"], **rates["splits"]})


def measured() -> dict[str, dict[str, float]]:
    """Measure the ways in one process and the splits in several, in turns, and return the medians of their rates.

    Raises:
        DeviceError: a process ends, or there is no end.
    """
    ways = [("float32", "channels_last"), ("float32", "contiguous"), ("bfloat16", "channels_last")]
    tried = splits(_threads(), _memory_mib())
    found: dict[str, dict[str, list[float]]] = {"ways": {}, "splits": {}}
    with ExitStack() as stack:
        processes = [stack.enter_context(_process()) for _ in range(max(workers for workers, _ in tried))]
        for number in range(ROUNDS + 1):
            for precision, layout in ways:
                (rate,) = _together(processes[:1], {"precision": precision, "layout": layout, "threads": 1})
                if number:  # the first round plans kernels and allocates
                    found["ways"].setdefault(f"{precision} {layout}", []).append(rate)
            for workers, threads in tried:
                task = {"precision": "float32", "layout": "channels_last", "threads": threads}
                rate = sum(_together(processes[:workers], task))
                if number:
                    found["splits"].setdefault(_name(workers, threads), []).append(rate)
    return {kind: {name: median(seen) for name, seen in rates.items()} for kind, rates in found.items()}


def _name(workers: int, threads: int) -> str:
    return f"{workers}x{threads}"


COMMAND = (sys.executable, "-P", "-m", "nas.train.probe")


@contextmanager
def _process() -> Iterator[subprocess.Popen[str]]:
    """Start a process that measures, and end it; one that hangs is ended, which its reader takes for a failure."""
    # Not multiprocessing: its spawned processes import the caller's script, which need not be made for that.
    process = subprocess.Popen(
        COMMAND,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    deadline = threading.Timer(LIMIT_S, process.kill)
    deadline.start()
    try:
        yield process
    finally:
        deadline.cancel()
        process.kill()
        process.communicate()


def _together(processes: Sequence[subprocess.Popen[str]], task: Mapping[str, Any]) -> list[float]:
    """Have some processes work for a window at the same time, and return the rate of each."""
    try:
        for process in processes:
            assert process.stdin is not None
            process.stdin.write(json.dumps({**task, "seconds": SECONDS}) + "\n")
            process.stdin.flush()
        return [float(process.stdout.readline()) for process in processes if process.stdout is not None]
    except (OSError, ValueError):
        raise DeviceError(
            "What pays on this CPU cannot be measured: its process ended before it had an answer (the lines above say why). Free "
            "memory, and start again."
        ) from None


def serve(questions: IO[str], answers: IO[str]) -> None:
    """Answer each line, a task in JSON, with the training images per second of a window."""
    from nas import catalog
    from nas.train import loop

    spec = catalog.baseline(catalog.load_space("v2_tiny"), num_classes=10, in_channels=3)
    keep_freed_memory()
    device, batch = torch.device("cpu"), RECIPES["quick"].batch_size
    images = torch.randn(batch, 3, spec.resolution, spec.resolution).to(memory_format=torch.channels_last)
    targets = torch.arange(batch) % 10
    states: dict[tuple[str, str], loop.TrainState] = {}
    for line in questions:
        task = json.loads(line)
        recipe = replace(RECIPES["quick"], precision=task["precision"], layout=task["layout"])
        torch.set_num_threads(task["threads"])
        key = (recipe.precision, recipe.layout)
        if key not in states:
            states[key] = loop.start(spec, recipe, device, seed=0)
        began, done = time.perf_counter(), 0
        while time.perf_counter() - began < task["seconds"]:
            loop.train_step(states[key], images, targets, recipe)
            done += 1
        print(done * batch / (time.perf_counter() - began), file=answers, flush=True)


if __name__ == "__main__":
    serve(sys.stdin, sys.stdout)
