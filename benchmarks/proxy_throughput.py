"""How many proxies an hour: ours against what people use today, all in one run.

Arms: `plain`, the Optuna objective of `benchmarks.plain` with 0 or as many DataLoader processes as there are cores;
`plain_channels_last`, the same in that layout; `resident`, the expert's; `ray`, Ray Tune running the plain objective with all
cores for one trial or one core for each of as many trials; `nas`, this package's evaluator in one process per core (on
CUDA one process, with CUDA graphs), timing, counting and resizing included. `nas_one` has all cores in one process, `nas_eager`
has no graphs.

Each round draws one network and gives it to every arm in an order drawn anew. Nothing is trained to the end: of each image
size an arm trains two short windows of steps, and the line through them gives its fixed cost and its seconds per step, with
which the recipe's own number of steps is counted. Scoring, building and timing are done in full. Seconds per proxy are

    nas      timing + (building + steps + scoring) / processes        timing has the device to itself
    others   (start + building + steps + scoring) / trials at a time

Ratios are taken round by round and given as a median with its bootstrap interval over the rounds. The column
`with stopping` counts what a search with `--pruner halving` trains: the first phase of all, the rest of the share that goes on.

    python -m benchmarks.proxy_throughput
    python -m benchmarks.proxy_throughput --arms nas plain --resolution 64 --device cuda

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
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
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
from nas.evaluate import Setup
from nas.search.config import SearchConfig
from nas.search.session import setup_of
from nas.spec import ArchSpec
from nas.train.loop import phase_steps
from nas.train.preflight import step_mode
from nas.train.recipes import Recipe, load_recipe
from nas.train.schedule import Progressive, phases

Parts = dict[str, Any]
"""What one arm needed for one network, in seconds: `proxy`, and what that is made of."""


@dataclass(frozen=True)
class Task:
    """What all arms are given.

    Args:
        setup: Of our evaluator; its recipe is ours. plain_recipe: The recipe at one image size.
        windows: Steps of the short and the long window. device: Where.
    """

    setup: Setup
    plain_recipe: Recipe
    windows: tuple[int, int]
    device: str

    def steps(self, images: int) -> list[int]:
        """Return the steps of each phase of our recipe."""
        recipe = self.setup.recipe
        return [phase_steps(images, recipe, phase) for phase in phases(recipe.progressive, 32, recipe.epochs)]


def line(first: tuple[int, float], second: tuple[int, float]) -> tuple[float, float]:
    """Return intercept and slope of the line through two windows (steps, seconds)."""
    slope = (second[1] - first[1]) / (second[0] - first[0])
    return first[1] - slope * first[0], slope


# --- processes that serve an arm ---------------------------------------------------------------------------


def serve_plain(pipe: Connection, task: Task, threads: int) -> None:
    """Time plain trainings on request: (spec, way) -> parts."""
    torch.set_num_threads(threads)
    device = pick_device(task.device)
    data = _data(task)
    _answers(pipe, lambda spec, way: plain_parts(spec, data, task, device, way))


def plain_parts(spec: ArchSpec, data: Dataset, task: Task, device: torch.device, way: Way) -> Parts:
    """Build a network, train a short and a long window, score it, and count the whole."""
    began = time.perf_counter()
    training = PlainTraining(spec, data, task.plain_recipe, device, way, seed=0)
    short, long = task.windows
    seconds = []
    for upto in (short, long):
        while training.done < upto:
            training.step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - began)
    fixed, step = line((short, seconds[0]), (long, seconds[1]))
    scoring = time.perf_counter()
    training.score()
    scoring = time.perf_counter() - scoring
    return {"fixed": fixed, "step": step, "scoring": scoring, "proxy": fixed + training.steps * step + scoring}


def serve_nas(pipe: Connection, task: Task, threads: int) -> None:
    """Run phases of our evaluator on request: (spec, phase, steps, state is kept) -> seconds of the phase."""
    torch.set_num_threads(threads)
    evaluator = task.setup.evaluator(pick_device(task.device))
    recipe = task.setup.recipe
    images = len(evaluator.data.train_labels)

    def run(spec: ArchSpec, phase: int, steps: int) -> Parts:
        evaluator.recipe = replace(
            recipe, epochs=steps * recipe.batch_size * recipe.progressive.phases / images if steps else recipe.epochs
        )
        began = time.perf_counter()
        result = evaluator.run_phase(spec, phase, states.get(phase - 1), seed=0)
        assert result.outcome == "ok", result.reason
        states[phase] = result.state
        return {
            "seconds": time.perf_counter() - began,
            "scoring": result.training.val_seconds if result.training else 0.0,
            "images": images,
        }

    states: dict[int, Any] = {}
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

    def ask(self, *request: Any) -> list[Parts]:
        """Give every process the request at the same time, and return all answers."""
        for pipe in self._pipes:
            pipe.send(request)
        answers = [pipe.recv() for pipe in self._pipes]
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
    """Time one network, then train it in every process at the same time, a short and a long window of each phase."""
    timing = statistics.fmean(answer["seconds"] for answer in _one_by_one(servers, spec))
    fixed, steps_s, scoring, first = 0.0, 0.0, 0.0, 0.0
    step = []
    short, long = task.windows
    for number in range(1, task.setup.recipe.progressive.phases + 1):
        pair = [servers.ask(spec, number, steps) for steps in (short, long)]
        mean = [statistics.fmean(item["seconds"] - item["scoring"] for item in answers) for answers in pair]
        begin, each = line((short, mean[0]), (long, mean[1]))
        planned = task.steps(int(pair[0][0]["images"]))[number - 1]
        scored = statistics.fmean(item["scoring"] for answers in pair for item in answers)
        fixed, steps_s, scoring = fixed + begin, steps_s + each * planned, scoring + scored
        step.append(each)
        first = first or begin + each * planned + scored
    whole = fixed + steps_s + scoring
    stopped = timing + (first + (whole - first) * share) / processes
    return {
        "timing": timing,
        "fixed": fixed,
        "step": step,
        "scoring": scoring,
        "proxy": timing + whole / processes,
        "proxy_with_stopping": stopped,
    }


def _one_by_one(servers: Servers, spec: ArchSpec) -> list[Parts]:
    """Time the network in one process; the lane would make the others wait."""
    pipe = servers._pipes[0]
    pipe.send((spec, 0, 0))
    answer = pipe.recv()
    if isinstance(answer, str):
        raise RuntimeError(answer)
    return [answer]


def ray_parts(spec: ArchSpec, task: Task, trials: int, at_once: int, cores: int) -> Parts:
    """Run trials under Ray Tune, each one window of the plain training, and count the whole from what it cost."""
    import ray
    from ray import tune

    def objective(config: dict[str, Any]) -> None:
        import torch as own_torch

        own_torch.set_num_threads(cores // at_once)
        tune.report(plain_parts(spec, load_for_ray(task), task, pick_device(task.device), Way()))

    gpus = 1 / at_once if task.device.startswith("cuda") else 0
    with tempfile.TemporaryDirectory() as where:
        began = time.perf_counter()
        tuner = tune.Tuner(
            tune.with_resources(objective, {"cpu": cores / at_once, "gpu": gpus}),
            param_space={"number": tune.grid_search(list(range(trials)))},
            tune_config=tune.TuneConfig(max_concurrent_trials=at_once),
            run_config=ray.tune.RunConfig(storage_path=where, verbose=0),
        )
        results = tuner.fit()
        wall = time.perf_counter() - began
    if results.errors:
        raise RuntimeError(str(results.errors[0]))
    rows = [result.metrics for result in results]
    inside = statistics.fmean(row["fixed"] + task.windows[1] * row["step"] + row["scoring"] for row in rows)
    start = wall * at_once / trials - inside
    proxy = statistics.fmean(row["proxy"] for row in rows)
    return {
        "start": start,
        **{name: statistics.fmean(row[name] for row in rows) for name in ("fixed", "step", "scoring")},
        "proxy": (start + proxy) / at_once,
    }


def load_for_ray(task: Task) -> Dataset:
    """Load the images in a trial's own process, as a trainable does."""
    return _data(task)


def arms_of(
    task: Task, wanted: list[str], share: float, ray_trials: int
) -> tuple[dict[str, Callable[[ArchSpec], Parts]], list[Servers]]:
    """Return the arms by name, and the processes behind them."""
    cores = os.cpu_count() or 1
    cuda = task.device.startswith("cuda")
    found: dict[str, Callable[[ArchSpec], Parts]] = {}
    kept: list[Servers] = []

    def serve(target: Callable[..., None], number: int, threads: int, own: Task = task) -> Servers:
        kept.append(Servers(target, own, number, threads))
        return kept[-1]

    if any(name.startswith(("plain", "resident")) for name in wanted):
        plain = serve(serve_plain, 1, cores)
        ways = {
            "plain": Way(),
            "plain_loaders": Way(workers=cores),
            "plain_channels_last": Way(channels_last=True),
            "plain_channels_last_loaders": Way(channels_last=True, workers=cores),
            "resident": Way(channels_last=True, resident=True),
        }
        for name, way in ways.items():
            if name in wanted:
                found[name] = lambda spec, way=way: plain.ask(spec, way)[0]  # type: ignore[misc]
    if "nas" in wanted:
        number = 1 if cuda else cores
        ours = serve(serve_nas, number, max(1, cores // number))
        found["nas"] = lambda spec: nas_parts(ours, spec, task, number, share)
    if "nas_one" in wanted and not cuda:
        one = serve(serve_nas, 1, cores)
        found["nas_one"] = lambda spec: nas_parts(one, spec, task, 1, share)
    if "nas_eager" in wanted and cuda:
        eager = serve(serve_nas, 1, cores, replace(task, setup=replace(task.setup, steps="eager")))
        found["nas_eager"] = lambda spec: nas_parts(eager, spec, task, 1, share)
    for name, at_once in (("ray", 1), ("ray_packed", cores if not cuda else 4)):
        if name in wanted:
            found[name] = lambda spec, at_once=at_once: ray_parts(spec, task, ray_trials, at_once, cores)  # type: ignore[misc]
    return found, kept


ARMS = (
    "plain",
    "plain_loaders",
    "plain_channels_last",
    "plain_channels_last_loaders",
    "resident",
    "ray",
    "ray_packed",
    "nas_one",
    "nas_eager",
    "nas",
)

RIVALS = {
    "plain": ("plain", "plain_loaders"),
    "plain, channels_last": ("plain_channels_last", "plain_channels_last_loaders"),
    "resident": ("resident",),
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
                for part in ("timing", "start", "fixed", "scoring", "proxy", "proxy_with_stopping")
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
    parser.add_argument("--windows", type=int, nargs=2, default=(4, 16), metavar=("SHORT", "LONG"), help="steps")
    parser.add_argument("--max-macs", type=float, default=8e6)
    parser.add_argument("--share", type=float, default=0.35, help="of the networks that go on after the first phase")
    parser.add_argument("--ray-trials", type=int, default=4, help="trials of a round")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks"))
    options = parser.parse_args()

    wanted = [name for name in options.arms if "ray" not in name or find_spec("ray") is not None]
    absent = {name: "Ray is not installed (pip install 'ray[tune]')" for name in options.arms if name not in wanted}
    device = pick_device(options.device)
    space, recipe = catalog.load_space(options.space), load_recipe(options.recipe)
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
        arms, servers = arms_of(task, wanted, options.share, options.ray_trials)
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
                    | {"settings": asked, "steps": steps, "doubt": doubt, "absent": absent, "rounds": rounds}
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
