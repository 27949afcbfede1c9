"""Sections on proxies: how many an hour, in what order they put networks, and how well a block table knows their step times."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from typing import Any

import torch
import yaml

from benchmarks._common import stored
from benchmarks._stats import spearman, tau
from benchmarks.fidelity import drawn
from benchmarks.gpu_check.setting import Setting
from nas import catalog
from nas.cost import count
from nas.cost.block_table import LEAST, fit
from nas.evaluate import Evaluator
from nas.runs import write_text
from nas.search.config import SearchConfig
from nas.search.session import setup_of
from nas.train.preflight import step_mode
from nas.train.recipes import RECIPES, Recipe

SIZES = {32: ("v2_tiny", 20e6), 64: ("v2", 3e9), 128: ("v2", 3e9)}
"""For each image size the space, and the most multiply-adds of a network at the space's own size."""


def table(setting: Setting) -> dict[str, Any]:
    """Proxies an hour at 32, 64 and 128 pixels, all arms (`benchmarks.proxy_throughput`)."""
    found: dict[str, Any] = {}
    for pixels, (space, most) in ((16, ("v2_tiny", 2e6)),) if setting.small else tuple(SIZES.items()):
        command = [
            "benchmarks.proxy_throughput",
            "--space",
            space,
            "--resolution",
            str(pixels),
            "--max-macs",
            str(most),
        ]
        command += ["--recipe", _recipe(setting), "--data", setting.source(), "--rounds", "1" if setting.small else "6"]
        command += ["--windows", *(("2", "4") if setting.small else ("8", "40"))]
        command += ["--arms", "plain", "nas"] if setting.small else []
        answer = _command(command, setting, f"*/proxy_throughput-{pixels}.json")
        found[str(pixels)] = {key: answer[key] for key in ("nas_over", "arms", "absent", "unfinished") if key in answer}
        found["unfinished"] = found.get("unfinished", False) or answer.get("unfinished", False)
        if "failed" in answer:
            return {**found, "passed": False, "tail": answer["failed"]}
    return found


def fidelity(setting: Setting) -> dict[str, Any]:
    """Kendall's tau of the proxies to a long training (`benchmarks.fidelity`): resized ones against those of constant size."""
    command = ["benchmarks.fidelity", "--recipe", _recipe(setting), "--data", setting.source()]
    command += ["--networks", "3", "--long", "1", "--val-images", "40"] if setting.small else ["--networks", "16"]
    command += [] if setting.small else ["--seeds", "3", "--long-seeds", "3", "--max-macs", "20e6", "--workers", "4"]
    answer = _command(command, setting, "*/fidelity.json")
    if "failed" in answer:
        return {"passed": False, "tail": answer["failed"]}
    return {key: answer[key] for key in ("arms", "unfinished") if key in answer} or {"unfinished": True}


def block_table(setting: Setting) -> dict[str, Any]:
    """Measure step times as a search does, learn a block table from two thirds, and predict the last third."""
    number = LEAST + 4 if setting.small else 90
    space = catalog.load_space("v2_tiny")
    recipe = RECIPES["quick"] if not setting.small else replace(RECIPES["quick"], batch_size=8)
    config = SearchConfig(space="v2_tiny", data=setting.source())
    setup, data = setup_of(config, space, recipe, lambda done, total: None)
    steps, doubt = step_mode("auto", None, setting.device, setup.baseline, recipe, lambda: None)
    evaluator: Evaluator = replace(setup, steps=steps).evaluator(setting.device, data)
    specs = drawn(
        "v2_tiny", number, 2e6 if setting.small else 20e6, num_classes=data.num_classes, in_channels=data.in_channels
    )
    seen = [evaluator.run_phase(spec, 0, None, seed=0).measurements for spec in specs]
    times = [item["step_time_ms"].value / item["ref_step_time_ms"].value for item in seen]
    learnt = LEAST if setting.small else 2 * number // 3
    known = fit(specs[:learnt], times[:learnt])
    predicted = [known.predict(spec).ms for spec in specs[learnt:]]
    macs = [float(count(spec).macs) for spec in specs[learnt:]]
    actual = times[learnt:]
    errors = sorted(abs(a / b - 1) for a, b in zip(predicted, actual, strict=True))
    return {
        "steps": steps,
        "doubt": doubt,
        "learnt_from": learnt,
        "held_out": len(actual),
        "tau": tau(predicted, actual),
        "spearman": spearman(predicted, actual),
        "median_error": errors[len(errors) // 2],
        "macs": {"tau": tau(macs, actual), "spearman": spearman(macs, actual)},
        "repeatability": sorted(item["step_time_ms"].spread / item["step_time_ms"].value for item in seen)[number // 2],
        "memory_mib": torch.cuda.max_memory_allocated() / 2**20 if setting.device.type == "cuda" else None,
    }


def _recipe(setting: Setting) -> str:
    """Return a recipe of batches that a large device is used with; in the small version, of few images."""
    own: Recipe = replace(RECIPES["quick"], batch_size=256) if not setting.small else RECIPES["quick"]
    changes = (
        {"batch_size": 8, "train_images": 80, "val_images": 40} if setting.small else {"batch_size": own.batch_size}
    )
    path = setting.folder / "proxy_recipe.yaml"
    write_text(path, yaml.safe_dump({"extends": "quick", "name": "proxy", **changes}))
    return str(path)


def _command(words: list[str], setting: Setting, answer: str) -> dict[str, Any]:
    """Run a benchmark as long as the section may take, and return what it stored; it goes on where it was cut off."""
    out = setting.folder / "proxies"
    command = [sys.executable, "-m", *words, "--device", str(setting.device), "--out", str(out)]
    unfinished = False
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=setting.limit_s)
        if done.returncode:
            return {"failed": (done.stdout + done.stderr).splitlines()[-12:]}
    except subprocess.TimeoutExpired:
        unfinished = True
    found = next(out.glob(answer), None)
    return {**(stored(found) if found else {}), **({"unfinished": True} if unfinished else {})}
