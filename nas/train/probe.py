"""What pays on this machine's CPU: how many processes of how many threads, which layout, which precision.

Measured once on a machine, in about ten seconds, with the training step of a small network: nothing of it is assumed, for it
differs from one CPU to the next (bfloat16 pays where the CPU has matrix units for it and costs where it has none). The
answer is kept in the cache folder and depends on the CPU, its usable cores and the version of torch; `nas doctor --probe`
measures anew. A run's manifest says what it was trained with, and a resumed run keeps that.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path
from statistics import median
from typing import IO, Any

import torch

from nas.data._store import cache_folder
from nas.devices import describe_device, keep_freed_memory
from nas.errors import DeviceError
from nas.runs import write_json
from nas.train.recipes import AUTO, RECIPES, Recipe

ROUNDS = 3
SECONDS = 0.6
"""Of one window. Three rounds of five windows, and the start of the processes, make about ten seconds."""

GAIN = 1.1
"""What is unusual has to be faster by this to be chosen, so that noise chooses nothing."""

MOST_WORKERS = 8
MEMORY_MIB = 1500
"""What a worker may need; a machine with little memory gets fewer."""


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
        usual = self.rates[_name(1, self.workers * self.threads)]
        gain = self.rates[_name(self.workers, self.threads)] / usual
        many = f"{self.workers} workers of {self.threads} thread{'s' * (self.threads > 1)}"
        chosen = f"{many} train {gain:.2f} times as many images as one" if self.workers > 1 else "one worker is best"
        return f"CPU: {chosen}; {self.precision}, {self.layout.replace('_', ' ')} (measured on this machine)."


def settled(recipe: Recipe, probe: Probe) -> Recipe:
    """Return the recipe with what it leaves open decided by a probe."""
    return replace(
        recipe,
        precision=probe.precision if recipe.precision == AUTO else recipe.precision,
        layout=probe.layout if recipe.layout == AUTO else recipe.layout,
    )


def probed(say: Callable[[str], None] = lambda sentence: None, *, anew: bool = False) -> Probe:
    """Return what pays on this CPU: what the cache folder has of it, or what is measured now and kept there.

    Args:
        say: Called before ten seconds of work. anew: Measure also where something is kept.

    Raises:
        DeviceError: a process of the measurement fails.
    """
    path = file()
    if not anew and path.is_file():
        return Probe(**json.loads(path.read_text(encoding="utf-8")))
    say("Trying for ten seconds what pays on this CPU: processes, threads, layout, precision. It is kept.")
    found = chosen(measured())
    save(found)
    return found


def devices(say: Callable[[str], None]) -> str:
    """Return the devices that `auto` means to a command: CUDA where there is one, else the CPU with the workers that pay.

    Args:
        say: Called before ten seconds of work.
    """
    if torch.cuda.is_available():
        return AUTO
    workers = probed(say).workers
    return f"cpu:{workers}" if workers > 1 else "cpu"


def save(probe: Probe) -> None:
    """Keep a probe for this machine."""
    file().parent.mkdir(parents=True, exist_ok=True)
    write_json(file(), asdict(probe))


def file() -> Path:
    """Return where the probe of this machine is kept."""
    facts = describe_device(torch.device("cpu"), threads=1) | {"usable": usable_cores(), "torch": torch.__version__}
    return cache_folder().parent / f"probe-{sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]}.json"


def usable_cores() -> int:
    """Return the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def splits(cores: int, memory_mib: float) -> list[tuple[int, int]]:
    """Return the ways to divide cores that are tried, as (workers, threads): all in one, and one each as far as that goes."""
    most = max(1, min(cores, MOST_WORKERS, int(memory_mib / MEMORY_MIB)))
    return [(1, cores), (most, cores // most)] if most > 1 else [(1, cores)]


def chosen(rates: Mapping[str, Mapping[str, float]]) -> Probe:
    """Choose from rates (images per second): the usual way, unless another one is faster by a tenth.

    Args:
        rates: `ways`: of one process of one thread by `precision layout`. `splits`: of all processes by `workers x threads`.
    """
    usual = "float32 channels_last"
    way = max(rates["ways"], key=lambda name: rates["ways"][name] / (1.0 if name == usual else GAIN))
    first = next(iter(rates["splits"]))
    split = max(rates["splits"], key=lambda name: rates["splits"][name] / (1.0 if name == first else GAIN))
    precision, layout = way.split()
    workers, threads = (int(number) for number in split.split("x"))
    return Probe(workers, threads, layout, precision, {**rates["ways"], **rates["splits"]})


def measured() -> dict[str, dict[str, float]]:
    """Measure the ways in one process and the splits in several, in turns, and return the medians of their rates."""
    ways = [("float32", "channels_last"), ("float32", "contiguous"), ("bfloat16", "channels_last")]
    tried = splits(usable_cores(), _free_memory_mib())
    found: dict[str, dict[str, list[float]]] = {"ways": {}, "splits": {}}
    with ExitStack() as stack:
        most = max(workers for workers, _ in tried)
        processes = [stack.enter_context(_process()) for _ in range(most)]
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


def _free_memory_mib() -> float:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
        return next(float(line.split()[1]) / 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return float("inf")


def _process() -> subprocess.Popen[str]:
    # Not multiprocessing: its spawned processes import the caller's script, which need not be made for that.
    return subprocess.Popen(
        [sys.executable, "-m", "nas.train.probe"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def _together(processes: Sequence[subprocess.Popen[str]], task: Mapping[str, Any]) -> list[float]:
    """Have some processes work for a window at the same time, and return the rate of each."""
    for process in processes:
        assert process.stdin is not None
        _ = process.stdin.write(json.dumps({**task, "seconds": SECONDS}) + "\n")
        process.stdin.flush()
    rates = []
    for process in processes:
        assert process.stdout is not None
        answer = process.stdout.readline()
        if not answer:
            raise DeviceError(
                "CPU probe: its process ended before it had measured (the lines above say why). Free memory, or name the "
                "workers yourself: --devices cpu."
            )
        rates.append(float(answer))
    return rates


def serve(questions: IO[str], answers: IO[str]) -> None:
    """Answer each line, a task in JSON, with the training images per second of a window."""
    import time

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
