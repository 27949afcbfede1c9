"""How many proxies an hour: ours against what people use today, all in one run.

Arms: `plain`, the Optuna objective of `benchmarks.plain` with 0 or as many DataLoader processes as there are cores;
`plain_channels_last`, the same in that layout; `resident`, the expert's; both also `_packed`, one training for each core at a
time; `ray`, Ray Tune running the plain objective, one trial at a time with all cores or one for each core; `nas`, our phases
as a worker of a search runs them (on a CPU in as many processes as the probe says, on CUDA one process with CUDA graphs),
counting, timing, resizing and checkpoints included. `nas_one` has all cores in one process, `nas_eager` no graphs.

Each round draws one network and gives it to every arm in an order drawn anew. Nothing is trained to the end: of each image
size an arm does a window of steps in a row; its second part gives the seconds per step, with which the recipe's own number of
steps is counted, and all else (building, first steps, scoring, checkpoints) is taken as it was. Seconds per proxy are

    nas      timing + (building + steps + scoring + checkpoints) / processes        timing has the device to itself
    others   (start + building + steps + scoring) / trainings at a time

Ray's cost of a trial is the difference of two experiments of different length, so what an experiment costs once is not
charged. Asking and telling the study is in no arm (`benchmarks.overhead` has it). Ratios are taken round by round and given as a
median with its bootstrap interval over the rounds. With stopping, all networks do the first phase and a share the rest:
what went on in the replay of `results/published/stopping.json` under `--pruner halving`, audits included.

    python -m benchmarks.proxy_throughput
    python -m benchmarks.proxy_throughput --arms nas plain --resolution 64 --device cuda --windows 10 50

Writes `proxy_throughput.json` (of another resolution `proxy_throughput-64.json`) under the results folder of the device,
anew after each round, and goes on there when it is started again.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from benchmarks._common import conditions, folder, settings, store, stored
from benchmarks._stats import median_interval, shown, shuffled
from benchmarks.fidelity import drawn
from benchmarks.plain import PlainTraining, Way
from nas import catalog
from nas.cost import count
from nas.data import Dataset, load
from nas.devices import pick_device
from nas.engine import Job, checkpoints
from nas.engine._worker import Worker
from nas.evaluate import Evaluator, PhaseResult, Setup
from nas.host import usable_cores
from nas.search.config import SearchConfig
from nas.search.session import setup_of
from nas.spec import ArchSpec
from nas.train import loop
from nas.train.loop import phase_steps
from nas.train.preflight import step_mode
from nas.train.probe import probed, settled
from nas.train.recipes import Recipe, load_recipe
from nas.train.schedule import Progressive, phases

Parts = dict[str, Any]
"""What one arm needed for one network, in seconds: `proxy`, and what that is made of."""


@dataclass(frozen=True)
class Task:
    """What all arms are given.

    Args:
        setup: Of our evaluator; its recipe is ours. plain_recipe: The recipe at one image size.
        window: Steps of its first part and of the whole, in tens. device: Where.
    """

    setup: Setup
    plain_recipe: Recipe
    window: tuple[int, int]
    device: str


# --- processes that serve an arm ---------------------------------------------------------------------------


def serve_plain(pipe: Connection, task: Task, threads: int) -> None:
    """Time plain trainings on request: (spec, way) -> parts."""
    torch.set_num_threads(threads)
    device = pick_device(task.device)
    data = _data(task)
    _answers(pipe, lambda spec, way: plain_parts(spec, data, task, device, way))


def plain_parts(spec: ArchSpec, data: Dataset, task: Task, device: torch.device, way: Way) -> Parts:
    """Build a network, train a window, score it, and count the whole."""
    began = time.perf_counter()
    training = PlainTraining(spec, data, task.plain_recipe, device, way, seed=0)
    marks = []
    for upto in task.window:
        while training.done < upto:
            training.step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        marks.append(time.perf_counter())
    training.score()
    return counted(marks, task.window, time.perf_counter() - began, training.steps)


def counted(marks: Sequence[float], window: tuple[int, int], seconds: float, steps: int) -> Parts:
    """Return what a training costs, from one whose window was its only steps.

    Args:
        marks: When the two parts of the window ended. window: Steps done by then.
        seconds: That the whole took. steps: That the recipe has.
    """
    step = (marks[1] - marks[0]) / (window[1] - window[0])
    rest = seconds - window[1] * step
    return {"rest": rest, "step": step, "proxy": rest + steps * step}


class Windows:
    """What a worker runs phases with: the evaluator, but for training phases that end after the window."""

    def __init__(self, evaluator: Evaluator, window: tuple[int, int]) -> None:
        self.evaluator, self.window = evaluator, window
        self.images = len(evaluator.data.train_labels)
        self.marks: list[float] = []

    def run_phase(self, spec: ArchSpec, phase: int, state: Any, *, seed: int, protocol: Any = None) -> PhaseResult:
        """Run a phase as the evaluator does, and note when the parts of the window ended."""
        evaluator = self.evaluator
        if phase == 0:
            return evaluator.run_phase(spec, phase, state, seed=seed, protocol=protocol)
        recipe = evaluator.recipe
        resolution = spec.resolved().resolution
        short = phases(recipe.progressive, resolution, recipe.epochs)[phase - 1]
        short = replace(short, epochs=self.window[1] * recipe.batch_size / self.images)
        self.marks = []
        with evaluator.at_work() as held:

            def between() -> None:
                held.wanted()
                if evaluator.device.type == "cuda":
                    torch.cuda.synchronize(evaluator.device)
                self.marks.append(time.perf_counter())

            state = state or loop.start(spec, recipe, evaluator.device, seed)
            training = loop.train_phase(state, evaluator.data, recipe, short, between, evaluator._graphs)
        return PhaseResult(phase, "ok", 0.0, training=training, state=state)

    def snapshot(self, state: Any) -> dict[str, Any]:
        """Return what a checkpoint holds."""
        return self.evaluator.snapshot(state)

    def at_work(self) -> AbstractContextManager[Any]:
        """Share the lane."""
        return self.evaluator.at_work()


def serve_nas(pipe: Connection, task: Task, threads: int) -> None:
    """Run phases as a worker of a search on request: (spec, phase) -> parts."""
    torch.set_num_threads(threads)
    runner = Windows(task.setup.evaluator(pick_device(task.device)), task.window)
    recipe = task.setup.recipe

    with tempfile.TemporaryDirectory() as folder:
        worker = Worker(runner, Path(folder))

        def run(spec: ArchSpec, phase: int) -> Parts:
            began = time.perf_counter()
            result = worker.run(Job(spec, phase, 0))
            seconds = time.perf_counter() - began
            assert result.outcome in ("ok", "infeasible"), result.reason
            if phase == 0:
                return {"proxy": seconds}
            if phase == recipe.progressive.phases:
                worker.drop(Job(spec, phase, 0).key)
                checkpoints.keep_only(Path(folder), [], [0])
            planned = phase_steps(runner.images, recipe, phases(recipe.progressive, 32, recipe.epochs)[phase - 1])
            tens = (runner.marks[task.window[0] // 10 - 1], runner.marks[task.window[1] // 10 - 1])
            return counted(tens, task.window, seconds, planned)

        _answers(pipe, run)


def _answers(pipe: Connection, answer: Callable[..., Parts]) -> None:
    pipe.send("ready")
    while (request := pipe.recv()) is not None:
        try:
            pipe.send(answer(*request))
        except Exception:
            pipe.send(traceback.format_exc())


def _data(task: Task) -> Dataset:
    return load(task.setup.source, resolution=task.setup.data_resolution)


class Servers:
    """Some processes that serve an arm, asked all at once."""

    def __init__(self, target: Callable[..., None], task: Task, number: int, threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipes = []
        for _ in range(number):
            here, there = multiprocessing.Pipe()
            context.Process(target=target, args=(there, task, threads), daemon=False).start()
            there.close()
            self._pipes.append(here)
        for pipe in self._pipes:
            assert pipe.recv() == "ready"

    def ask(self, *request: Any, only: int | None = None) -> list[Parts]:
        """Give every process, or so many, the request at the same time, and return all answers."""
        for pipe in self._pipes[:only]:
            pipe.send(request)
        answers = [pipe.recv() for pipe in self._pipes[:only]]
        for answer in answers:
            if isinstance(answer, str):
                raise RuntimeError(answer)
        return answers

    def close(self) -> None:
        """End the processes."""
        for pipe in self._pipes:
            pipe.send(None)


# --- the arms ----------------------------------------------------------------------------------------------


def nas_parts(servers: Servers, spec: ArchSpec, task: Task, processes: int, share: float) -> Parts:
    """Time one network in one process, then train it in every process at the same time."""
    timing = servers.ask(spec, 0, only=1)[0]["proxy"]
    found = [_mean(servers.ask(spec, number)) for number in range(1, task.setup.recipe.progressive.phases + 1)]
    whole, first = sum(item["proxy"] for item in found), found[0]["proxy"]
    return {
        "timing": timing,
        "rest": sum(item["rest"] for item in found),
        "step": [item["step"] for item in found],
        "proxy": timing + whole / processes,
        "proxy_with_stopping": timing + (first + (whole - first) * share) / processes,
    }


def _mean(answers: list[Parts]) -> Parts:
    return {name: statistics.fmean(answer[name] for answer in answers) for name in answers[0]}


def packed_parts(servers: Servers, spec: ArchSpec, way: Way, processes: int) -> Parts:
    """Train a network plainly in every process at the same time."""
    found = _mean(servers.ask(spec, way))
    return found | {"proxy": found["proxy"] / processes}


def ray_parts(spec: ArchSpec, task: Task, at_once: int, cores: int) -> Parts:
    """Run two experiments under Ray Tune whose trials are windows of the plain training, and count a trial more of it."""
    few, many = at_once, 2 * at_once
    walls, rows = zip(*(_experiment(spec, task, trials, at_once, cores) for trials in (few, many)), strict=True)
    seen = _mean([row for part in rows for row in part])
    trial = (walls[1] - walls[0]) / (many - few) * at_once
    inside = seen["rest"] + task.window[1] * seen["step"]
    return {
        "start": trial - inside,
        "rest": seen["rest"],
        "step": seen["step"],
        "proxy": (trial - inside + seen["proxy"]) / at_once,
    }


def _experiment(spec: ArchSpec, task: Task, trials: int, at_once: int, cores: int) -> tuple[float, list[Parts]]:
    import ray
    from ray import tune

    ray.init(ignore_reinit_error=True, num_cpus=cores, include_dashboard=False, log_to_driver=False)

    def objective(config: dict[str, Any]) -> None:
        import torch as own_torch

        own_torch.set_num_threads(cores // at_once)
        tune.report(plain_parts(spec, _data(task), task, pick_device(task.device), Way()))

    gpus = 1 / at_once if task.device.startswith("cuda") else 0
    with tempfile.TemporaryDirectory() as where:
        began = time.perf_counter()
        results = tune.Tuner(
            tune.with_resources(objective, {"cpu": cores / at_once, "gpu": gpus}),
            param_space={"number": tune.grid_search(list(range(trials)))},
            tune_config=tune.TuneConfig(max_concurrent_trials=at_once),
            run_config=tune.RunConfig(storage_path=where, verbose=0),
        ).fit()
        wall = time.perf_counter() - began
    if results.errors:
        raise RuntimeError(str(results.errors[0]))
    return wall, [{name: result.metrics[name] for name in ("rest", "step", "proxy")} for result in results]


def arms_of(
    task: Task, wanted: list[str], share: float, workers: int
) -> tuple[dict[str, Callable[[ArchSpec], Parts]], list[Servers]]:
    """Return the arms by name, and the processes behind them."""
    cores = usable_cores()
    cuda = task.device.startswith("cuda")
    found: dict[str, Callable[[ArchSpec], Parts]] = {}
    kept: list[Servers] = []

    def serve(target: Callable[..., None], number: int, threads: int, own: Task = task) -> Servers:
        kept.append(Servers(target, own, number, threads))
        return kept[-1]

    ways = {
        "plain": Way(),
        "plain_loaders": Way(workers=cores),
        "plain_channels_last": Way(channels_last=True),
        "resident": Way(channels_last=True, resident=True),
    }
    if any(name in wanted for name in ways):
        alone = serve(serve_plain, 1, cores)
        found |= {name: partial(packed_parts, alone, way=way, processes=1) for name, way in ways.items()}
    if any(f"{name}_packed" in wanted for name in ways):
        several = serve(serve_plain, cores, 1)
        found |= {
            f"{name}_packed": partial(packed_parts, several, way=way, processes=cores) for name, way in ways.items()
        }
    if "nas" in wanted:
        ours = serve(serve_nas, workers, max(1, cores // workers))
        found["nas"] = partial(nas_parts, ours, task=task, processes=workers, share=share)
    if "nas_one" in wanted and not cuda:
        found["nas_one"] = partial(nas_parts, serve(serve_nas, 1, cores), task=task, processes=1, share=share)
    if "nas_eager" in wanted and cuda:
        eager = serve(serve_nas, 1, cores, replace(task, setup=replace(task.setup, steps="eager")))
        found["nas_eager"] = partial(nas_parts, eager, task=task, processes=1, share=share)
    for name, at_once in (("ray", 1), ("ray_packed", 4 if cuda else cores)):
        found[name] = partial(ray_parts, task=task, at_once=at_once, cores=cores)
    return {name: arm for name, arm in found.items() if name in wanted}, kept


ARMS = (
    "plain",
    "plain_loaders",
    "plain_packed",
    "plain_channels_last",
    "plain_channels_last_packed",
    "resident",
    "resident_packed",
    "ray",
    "ray_packed",
    "nas_one",
    "nas_eager",
    "nas",
)

RIVALS = {
    "plain": ("plain", "plain_loaders"),
    "plain, channels_last": ("plain_channels_last",),
    "resident": ("resident",),
    "plain, packed": ("plain_packed", "plain_channels_last_packed"),
    "resident, packed": ("resident_packed",),
    "ray": ("ray", "ray_packed"),
    "nas, one process": ("nas_one",),
    "nas, no graphs": ("nas_eager",),
}
"""What is compared with `nas`: of each, the arm that is quicker over all rounds."""


def summary(rounds: list[Mapping[str, Any]]) -> dict[str, Any]:
    """Return for each arm its proxies an hour, and for each rival the ratio of ours to its best arm, round by round."""
    names = [name for name in ARMS if all(name in row["arms"] for row in rounds)]
    arms = {
        name: {
            "proxies_per_hour": median_interval([3600 / row["arms"][name]["proxy"] for row in rounds]),
            "seconds": {
                part: median_interval([row["arms"][name][part] for row in rounds])
                for part in ("timing", "start", "rest", "proxy", "proxy_with_stopping")
                if part in rounds[0]["arms"][name]
            },
        }
        for name in names
    }
    ratios: dict[str, Any] = {}
    for rival, of in RIVALS.items():
        there = [name for name in of if name in names]
        if not there or "nas" not in names:
            continue
        best = min(there, key=lambda name: arms[name]["seconds"]["proxy"]["median"])
        for what, ours in (("", "proxy"), (", with stopping", "proxy_with_stopping")):
            pairs = [row["arms"][best]["proxy"] / row["arms"]["nas"][ours] for row in rounds]
            ratios[rival + what] = {"arm": best, **median_interval(pairs)}
    return {"arms": arms, "nas_over": ratios}


def _short(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else " ".join(f"{item:.3f}" for item in value)


def main() -> None:
    """Run the rounds that are missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", default="v2_tiny")
    parser.add_argument("--data", default="fashion-mnist-subset")
    parser.add_argument("--recipe", default="quick")
    parser.add_argument("--resolution", type=int, help="of the networks, in pixels; the space's unless given")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument(
        "--windows", type=int, nargs=2, default=(10, 30), metavar=("FIRST", "ALL"), help="steps, in tens"
    )
    parser.add_argument("--max-macs", type=float, default=8e6)
    parser.add_argument("--share", type=float, default=0.48, help="of the networks that go on after the first phase")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks"))
    options = parser.parse_args()

    wanted = [name for name in options.arms if "ray" not in name or find_spec("ray") is not None]
    absent = {name: "Ray is not installed (pip install 'ray[tune]')" for name in options.arms if name not in wanted}
    device = pick_device(options.device)
    space, recipe = catalog.load_space(options.space), load_recipe(options.recipe)
    workers = 1
    if device.type == "cpu":
        probe = probed(print)
        recipe, workers = settled(recipe, probe), probe.workers
    setup, data = setup_of(
        SearchConfig(space=options.space, data=options.data), space, recipe, lambda done, total: None
    )
    steps, doubt = step_mode("auto", None, device, setup.baseline, recipe, lambda: None)
    setup = replace(setup, steps=steps)
    plain_recipe = replace(recipe, progressive=Progressive(1, (1.0, 1.0)))
    task = Task(setup, plain_recipe, (options.windows[0], options.windows[1]), str(device))
    specs = drawn(
        options.space, options.rounds, options.max_macs, num_classes=data.num_classes, in_channels=data.in_channels
    )
    if options.resolution:
        specs = [replace(spec, resolution=options.resolution, resolution_mult=1.0) for spec in specs]
    name = f"proxy_throughput-{options.resolution}.json" if options.resolution else "proxy_throughput.json"
    path = folder(device, options.out) / name
    asked = settings(options)
    content = stored(path)
    rounds: list[dict[str, Any]] = content.get("rounds", []) if content.get("settings") == asked else []
    if len(rounds) < options.rounds:
        arms, servers = arms_of(task, wanted, options.share, workers)
        try:
            for number, order in enumerate(shuffled(wanted, options.rounds)):
                if number < len(rounds):
                    continue
                spec = specs[number]
                row: dict[str, Any] = {
                    "network": spec.arch_hash,
                    "macs": count(spec).macs,
                    "order": order,
                    "arms": {},
                    "load": [],
                }
                for arm in order:
                    if arm in arms:
                        row["arms"][arm] = arms[arm](spec)
                        row["load"].append(os.getloadavg()[0])
                        parts = ", ".join(f"{key} {_short(value)}" for key, value in row["arms"][arm].items())
                        print(f"round {number + 1} {arm:20s} {parts}", flush=True)
                rounds.append(row)
                store(
                    path,
                    conditions(device)
                    | {
                        "settings": asked,
                        "steps": steps,
                        "doubt": doubt,
                        "processes": workers,
                        "recipe": recipe.document(),
                        "absent": absent,
                        "rounds": rounds,
                    }
                    | summary(rounds),
                )
        finally:
            for item in servers:
                item.close()
    found = summary(rounds)
    for arm, values in found["arms"].items():
        print(f"{arm:28s} {shown(values['proxies_per_hour'], 0)} proxies an hour")
    for rival, ratio in found["nas_over"].items():
        print(f"nas over {rival:36s} {shown(ratio)} ({ratio['arm']})")


if __name__ == "__main__":
    main()
