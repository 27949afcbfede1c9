"""Sections that are commands of their own, each in a process of its own."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks._common import stored
from benchmarks.gpu_check.setting import Setting


def tests(setting: Setting) -> dict[str, Any]:
    """Run the tests that are marked `gpu`: those of `tests/gpu`, and a few beside what they test."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider"]
    done = _run(command, setting)
    lines = done.stdout.splitlines()
    return {
        "passed": done.returncode == 0,
        "exit_code": done.returncode,
        "summary": lines[-1] if lines else done.stderr[-300:],
        "tail": lines[-15:],
    }


def search(setting: Setting) -> dict[str, Any]:
    """Search v2_tiny (and v2 on a GPU) on the built-in data through the command line, to the winner."""
    found = {}
    spaces = (("v2_tiny", 2),) if setting.small else (("v2_tiny", 8), ("v2", 1))
    for space, budget in spaces:
        with tempfile.TemporaryDirectory() as temp:
            out = Path(temp) / "run"
            command = [sys.executable, "-m", "nas", "search", "--space", space, "--budget", str(budget), "--top-k", "1"]
            command += ["--out", str(out), "--device", str(setting.device), "--recipe", "quick"]
            began = time.perf_counter()
            done = subprocess.run(command, capture_output=True, text=True, timeout=setting.limit_s / len(spaces))
            found[space] = {
                "exit_code": done.returncode,
                "seconds": round(time.perf_counter() - began, 1),
                "budget": budget,
                "trials_csv": (out / "trials.csv").read_text().splitlines()[:4] if done.returncode == 0 else [],
                "tail": (done.stdout + done.stderr).splitlines()[-6:],
            }
    return {"passed": all(item["exit_code"] == 0 for item in found.values()), **found}


def engines(setting: Setting) -> dict[str, Any]:
    """Two workers on one device against one process: the same networks in turns, and whether any timing was shared."""
    name = str(setting.device)
    devices = "cpu:2" if setting.small else f"{name},{name}"
    with tempfile.TemporaryDirectory() as temp:
        command = [sys.executable, "-m", "benchmarks.engines", "--devices", devices, "--out", temp, "--rounds", "2"]
        command += ["--networks", "2" if setting.small else "6", "--max-params", "100e3"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=400 if setting.small else 110)
        if done.returncode:
            return {"passed": False, "tail": (done.stdout + done.stderr).splitlines()[-6:]}
        found = stored(next(Path(temp).glob("*/engines.json")))
    alone = all(row[side]["timings_shared"] == 0 for row in found["rounds"] for side in ("inline", "local"))
    return {"passed": alone, "local_over_inline": found["ratio"], "rounds": found["rounds"]}


def progressive(setting: Setting) -> dict[str, Any]:
    """Train progressively and at one size (`benchmarks.progressive`): what does it save here, at what price?

    On a GPU EfficientNetV2-S at 128 pixels, for with small networks and images it is the host that takes the time.
    """
    command = [sys.executable, "-m", "benchmarks.progressive", "--device", str(setting.device), "--seeds", "3"]
    command += ["--data", setting.source()]
    if setting.small:
        command += ["--arch", str(setting.network_file()), "--resolution", "16", "--recipe", "short", "--epochs", "2"]
        command += ["--batch-size", "16", "--images", "32"]
    else:
        command += ["--arch", "efficientnetv2_s", "--resolution", "128", "--recipe", "standard", "--epochs", "12"]
        command += ["--images", "4000"]
    out = setting.folder / "progressive"
    done = _run([*command, "--out", str(out)], setting)
    if done.returncode:
        return {"passed": False, "tail": (done.stdout + done.stderr).splitlines()[-6:]}
    found = stored(next(out.glob("*/progressive.json")))
    kept = ("command", "arch_hash", "phases", "data", "pixel_ratio", "result")
    return {**{key: found[key] for key in kept}, "said": done.stdout.splitlines()[-4:]}


def _run(command: list[str], setting: Setting) -> subprocess.CompletedProcess[str]:
    """Run a command, as long as the section may take."""
    return subprocess.run(command, capture_output=True, text=True, timeout=setting.limit_s)
