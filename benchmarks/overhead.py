"""What does a search cost beside training and timing? Its own seconds a trial, its memory and its files, up to 5,000 trials.

Real searches (`nas.search`: SQLite study, records, checkpoints, trials.csv, printed lines) with a stub in place of the
evaluator: it counts each network as the real one does, answers times and accuracies from a formula, and takes no time. What is
left of a trial is overhead; a trial is taken to be 10 s. Seconds are those of a network that cost budget: what duplicates and
forbidden ones take is charged to the next. Wall time, and time computed, for on a machine that others use too the first is theirs
as well.

- *windows*: the next trials of a run that has 200, 1,000 and 5,000 already. Arms: `nas` with the samplers `arch`, `random` and
  `tpe`, and beside the last two the same sampler in a plain Optuna study (SQLite, the same choices, two reports and a value a
  trial), to tell what is Optuna's own. Each window is a process; arms take turns, in random order. Runs are grown from a small
  one by copying its rows under other numbers and hashes, with the choices mixed.
- *soak*: one `nas` run of 5,000 networks, in one process: does memory grow?
- *dashboard*: optuna-dashboard on a run of 5,000: seconds until its answers are there, and their size.
- *fixed*: real phases with almost no steps, less the seconds of training and scoring, in this process and on workers.

    python -m benchmarks.overhead
    python -m benchmarks.overhead --only windows,dashboard --rounds 2
    python -m benchmarks.overhead --only soak --minutes 30

Writes `overhead.json` under the results folder of the device, anew after each window or chunk. What it holds is not measured
again, with other settings it is refused; each row has the conditions under which it was taken. The soak's run lies under --work
and goes on. Intervals are over processes (*windows*) or rounds (*fixed*), for the trials of one are not independent of each
other; of few of these they are the least and the largest.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import shutil
import socket
import statistics
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks._common import conditions, folder, settings, store, stored
from benchmarks._stats import median_interval, shuffled
from benchmarks._stub_search import grown, small, turns
from benchmarks.engines import drawn
from nas import catalog
from nas.devices import pick_device, pick_devices
from nas.engine import Engine, InlineEngine, Job, LocalEngine, checkpoints
from nas.search.config import SearchConfig
from nas.search.session import setup_of
from nas.train.recipes import from_document

ARMS = ("nas-arch", "nas-random", "nas-tpe", "optuna-random", "optuna-tpe")
TRIAL_SECONDS = 10.0
SECTIONS = ("windows", "dashboard", "fixed", "soak")
CONTINUED = {"windows": ("space", "base", "window"), "soak": ("space", "trials", "chunk")}
"""The sections that go on with what a file holds, and the options that all of its rows must share."""


def summarised(row: dict[str, Any]) -> dict[str, Any]:
    """Return the means and the 99th percentile of a window, with their shares of a trial."""
    found: dict[str, Any] = {}
    for name in ("owner_ms", "computed_ms"):
        values = np.asarray(row[name])
        found[name] = {"mean": float(values.mean()), "median": float(np.median(values)), "n": len(values)}
        found[name] |= {"p99": float(np.quantile(values, 0.99)), "share": float(values.mean() / TRIAL_SECONDS / 1000)}
    return found


def windows(setting: argparse.Namespace, content: dict[str, Any], save: Any) -> None:
    """Measure the next trials of each arm at each size, in rounds."""
    bases = {
        kind: small(setting.work, kind, setting.space, setting.base)
        for kind in sorted({arm.split("-")[0] for arm in setting.arms})
    }
    places = [f"{arm}@{size}" for arm in setting.arms for size in setting.sizes]
    rows = content.setdefault("windows", [])
    for number, order in enumerate(shuffled(places, setting.rounds)):
        for place in order:
            if any(row["round"] == number and row["place"] == place for row in rows):
                continue
            arm, size = place.split("@")
            kind, sampler = arm.split("-")
            run = setting.work / "window"
            shutil.rmtree(run, ignore_errors=True)
            trials = grown(bases[kind], run, int(size), sampler)
            heard = next(found := turns(arm, run, setting.space, trials + 10 * setting.window, setting.window))
            found.close()
            row = {"round": number, "place": place, "arm": arm, "size": int(size), "trials": trials} | heard
            rows.append(row | {"summary": summarised(row), "conditions": content["conditions"]})
            save()
            print(_line(rows[-1]), flush=True)
    content["result"] = {place: _joined([row for row in rows if row["place"] == place]) for place in places}
    save()


def _line(row: dict[str, Any]) -> str:
    wall, cpu = row["summary"]["owner_ms"], row["summary"]["computed_ms"]
    parts = ", ".join(
        f"{name} {value:.0f}" for name, value in sorted(row["parts_ms"].items(), key=lambda item: -item[1])
    )
    return (
        f"{row['arm']:14s} at {row['trials']:5d}: {wall['mean']:6.0f} ms a trial (p99 {wall['p99']:.0f}), computed "
        f"{cpu['mean']:.0f} (p99 {cpu['p99']:.0f}) = {wall['share']:.2%} and {cpu['share']:.2%} of 10 s; "
        f"{parts}; load {row['load']}"
    )


def _joined(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the windows of one arm at one size together: the median of their medians, with its interval over windows.

    A window is a process, and its trials follow each other: what slows one slows its neighbours, so windows count, not trials.
    """
    found = {}
    for name in ("owner_ms", "computed_ms"):
        values = [value for row in rows for value in row[name]]
        found[name] = median_interval([statistics.median(row[name]) for row in rows]) | {
            "mean": statistics.fmean(values),
            "p99": float(np.quantile(values, 0.99)),
            "trials": len(values),
        }
        found[name]["share"] = found[name]["mean"] / TRIAL_SECONDS / 1000
    return found


def soak(setting: argparse.Namespace, content: dict[str, Any], save: Any) -> None:
    """Let one run go on for a long time, and fit a line to its memory."""
    rows = content.setdefault("soak", [])
    until = time.monotonic() + 60 * setting.minutes
    done = sum(len(row["owner_ms"]) for row in rows)
    if not rows:
        shutil.rmtree(setting.work / "soak", ignore_errors=True)
    if done < setting.trials:
        for heard in (
            found := turns("nas-random", setting.work / "soak", setting.space, setting.trials, setting.chunk)
        ):
            if "end_seconds" in heard:
                content["soak_end_seconds"] = heard["end_seconds"]
                break
            done += setting.chunk
            rows.append(heard | {"trials": done, "summary": summarised(heard), "conditions": content["conditions"]})
            content["memory"] = memory(rows)
            save()
            print(
                f"soak: {done} networks, {heard['rss_mib']:.0f} MiB, study {heard['database_mib']:.0f} MiB", flush=True
            )
            if time.monotonic() > until:
                break
        found.close()
    save()


def memory(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return how memory grows with trials: MiB per 1,000, by least squares over the last process's chunks but the first."""
    last = [row for row in rows if row["process"] == rows[-1]["process"]][1:]
    found: dict[str, Any] = {"chunks": len(last), "mib_per_1000_trials": None}
    if len(last) > 2:
        x, y = ([row[name] for row in last] for name in ("trials", "rss_mib"))
        (slope, _), spread = np.polyfit(x, y, 1, cov=True)
        found |= {"mib_per_1000_trials": 1000 * slope, "standard_error": 1000 * float(spread[0, 0]) ** 0.5}
        found |= {"from_trials": x[0], "to_trials": x[-1], "first_mib": y[0], "last_mib": y[-1]}
    return found


def dashboard(setting: argparse.Namespace, content: dict[str, Any], save: Any) -> None:
    """Open optuna-dashboard on a large run as `nas dashboard` does, and time its answers: cold, then as its page asks again."""
    run = setting.work / "shown"
    shutil.rmtree(run, ignore_errors=True)
    base = small(setting.work, "nas", setting.space, setting.base)
    trials = grown(base, run, max(setting.sizes), "random")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    began = time.perf_counter()
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=_dashboard, args=(run, port), daemon=True)
    process.start()
    try:
        url = f"http://127.0.0.1:{port}"
        answers = [_asked(f"{url}/api/studies", patience=600)]
        up = time.perf_counter() - began
        study = json.loads(answers[0].pop("text"))["study_summaries"][0]["study_id"]
        seen = 0
        for whole in (
            True,
            True,
            False,
        ):  # all trials, twice, and what the open page asks for: those after the last it has
            after = 0 if whole else seen
            answers.append(_asked(f"{url}/api/studies/{study}?after={after}"))
            answers[-1]["trials"] = len(json.loads(answers[-1].pop("text"))["trials"])
            seen = max(seen, answers[-1]["trials"])
    finally:
        process.kill()
        process.join()
    content["dashboard"] = {"trials": trials, "until_first_answer_seconds": up, "answers": answers}
    save()
    for row in answers:
        print(f"dashboard: {row['path']}: {row['seconds']:.2f} s, {row['mib']:.1f} MiB", flush=True)


def _dashboard(run: Path, port: int) -> None:
    from nas.search.dashboard import serve as show

    show(run, host="127.0.0.1", port=port, say=lambda sentence: None)


def _asked(url: str, patience: float = 0.0) -> dict[str, Any]:
    until = time.monotonic() + patience
    while True:
        began = time.perf_counter()
        try:
            with urllib.request.urlopen(url, timeout=300) as answer:
                text = answer.read()
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.2)
            continue
        seconds = time.perf_counter() - began
        return {"path": url[url.index("/api") :], "seconds": seconds, "mib": len(text) / 2**20, "text": text}


def fixed(setting: argparse.Namespace, content: dict[str, Any], save: Any) -> None:
    """Run real phases with almost no steps, and take the seconds that were not training, scoring or timing."""
    tiny = {"extends": "quick", "name": "tiny", "train_images": 128, "val_images": 64, "epochs": 1.0}
    recipe = from_document(tiny, "benchmark")
    space = catalog.load_space(setting.space)
    devices = pick_devices(setting.devices)
    setup, data = setup_of(SearchConfig(space=setting.space), space, recipe, lambda done, total: None)
    specs = drawn(space, setting.networks, 300e3, num_classes=data.num_classes, in_channels=data.in_channels)
    sides: dict[str, Engine] = {
        "inline": InlineEngine(setup.evaluator(devices[0], data), _made(setting.work / "fixed-inline")),
        setting.devices: LocalEngine(setup.start, devices, threads=1, checkpoints=_made(setting.work / "fixed-local")),
    }
    rows = content["fixed"] = []
    try:
        for number, order in enumerate(shuffled(list(sides), 2)):
            for side in order:
                rows += [
                    {"engine": side, "round": number} | row
                    for row in _phases(sides[side], specs, recipe.progressive.phases)
                ]
                for name in ("inline", "local"):  # a training that has ended is not to be found again in the next round
                    checkpoints.keep_only(setting.work / f"fixed-{name}", (), (0,))
    finally:
        for engine in sides.values():
            engine.close()
    content["fixed_result"] = {}
    for side in sides:
        content["fixed_result"][side] = found = _fixed([row for row in rows if row["engine"] == side][len(devices) :])
        print(
            f"fixed: {side}: {found['median']:.3f} s a trial beside its steps and timing (max {found['max']:.3f})",
            flush=True,
        )
    save()


def _fixed(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the median of the rounds' medians: the trials of a round share a process and follow each other."""
    rounds: dict[int, list[float]] = {}
    for row in rows:
        rounds.setdefault(row["round"], []).append(row["rest_seconds"])
    found = median_interval([statistics.median(values) for values in rounds.values()])
    return found | {"max": max(row["rest_seconds"] for row in rows), "trials": len(rows)}


def _made(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(path)
    return path


def _phases(engine: Engine, specs: list[Any], num_phases: int) -> list[dict[str, Any]]:
    """Run networks one after the other on an engine, and return what of each trial's wall time was not work of its phases."""
    rows = []
    for spec in specs:
        began = time.perf_counter()
        phases, work = 0.0, 0.0
        for phase in range(num_phases + 1):
            engine.submit(Job(spec, phase, 0))
            _, result = engine.next()
            assert result.outcome == "ok", result
            phases += result.seconds
            if result.training is not None:
                work += result.training.train_seconds + result.training.val_seconds
            else:  # timing, with its warm-up: all that holds the device alone
                work += sum(last - first for first, last in result.lane)
        engine.drop(Job(spec, 0, 0).key)
        wall = time.perf_counter() - began
        rows.append({"wall_seconds": wall, "phase_seconds": phases, "work_seconds": work, "rest_seconds": wall - work})
    return rows


def check_same(path: Path, content: dict[str, Any], asked: dict[str, str]) -> None:
    """Refuse to go on with figures of other settings.

    Raises:
        SystemExit: the file holds such.
    """
    for before, options in content.get("settings", {}).items():
        for section in {*asked["only"].split(",")} & {*before.split(",")} & {*CONTINUED} & {*content}:
            other = {name: options.get(name) for name in CONTINUED[section] if options.get(name) != asked[name]}
            if other:
                raise SystemExit(f"{path}: holds {section} of other settings ({other}). Move it away, or give --out.")


def main(arguments: list[str] | None = None) -> Path:
    """Measure what is asked for, and return the result file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(SECTIONS), help="of: " + ", ".join(SECTIONS))
    parser.add_argument("--space", default="v2_tiny")
    parser.add_argument("--arms", default=",".join(ARMS))
    parser.add_argument("--sizes", default="200,1000,5000", help="trials that a run has when a window begins")
    parser.add_argument("--base", type=int, default=200, help="trials of the run that is grown")
    parser.add_argument("--window", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--trials", type=int, default=5000, help="of the soak")
    parser.add_argument("--chunk", type=int, default=100, help="of the soak")
    parser.add_argument("--minutes", type=float, default=60, help="that the soak may take this time")
    parser.add_argument("--devices", default="cpu:2", help="workers of the section `fixed`")
    parser.add_argument("--networks", type=int, default=8, help="of the section `fixed`")
    parser.add_argument("--work", type=Path, default=Path("results/overhead-work"), help="where the stub's runs lie")
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks"))
    setting = parser.parse_args(arguments)
    setting.arms, setting.sizes = setting.arms.split(","), [int(size) for size in setting.sizes.split(",")]
    torch.set_num_threads(1)
    device = pick_device("cpu")
    path = folder(device, setting.out) / "overhead.json"
    content, asked = stored(path), settings(setting)
    check_same(path, content, asked)
    content |= {"conditions": conditions(device), "trial_seconds": TRIAL_SECONDS}
    content.setdefault("settings", {})[setting.only] = asked
    setting.work.mkdir(parents=True, exist_ok=True)
    sections = {"windows": windows, "dashboard": dashboard, "fixed": fixed, "soak": soak}
    for name in setting.only.split(","):
        sections[name](setting, content, lambda: store(path, content))
    print(path)
    return path


if __name__ == "__main__":
    main(sys.argv[1:])
