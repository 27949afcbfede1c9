"""What README and the table of published runs say is what the published files say."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.equal_step_time import compare, t_quantile  # noqa: E402
from nas.catalog import load_arch  # noqa: E402


def test_the_tables_are_those_of_the_files() -> None:
    command = [sys.executable, "-m", "benchmarks.publish", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_published_runs_are_whole_and_without_databases() -> None:
    manifests = list((ROOT / "results" / "published").glob("*/manifest.json"))
    assert manifests
    for manifest in manifests:
        folder = manifest.parent
        facts = json.loads(manifest.read_text())
        assert facts["device"]["name"] and facts["versions"]["torch"]
        winner = json.loads((folder / "finalists.json").read_text())["finalists"][0]["record"]["arch_hash"]
        assert load_arch(folder / "winner.yaml").arch_hash == winner
        assert not list(folder.glob("*.db"))


@pytest.mark.parametrize(("share", "freedom", "known"), [(0.975, 10, 2.2281), (0.975, 30, 2.0423), (0.995, 20, 2.8453)])
def test_the_quantile_is_students(share: float, freedom: int, known: float) -> None:
    assert t_quantile(share, freedom) == pytest.approx(known, abs=0.01)


def row(name: str, kind: str, time: float, *accuracies: float) -> dict[str, object]:
    mean = float(np.mean(accuracies))
    return {"name": name, "kind": kind, "step_time_ms": time, "accuracies": list(accuracies), "accuracy": mean}


def test_a_network_on_the_front_cannot_be_told_and_one_far_above_it_can() -> None:
    rng = np.random.default_rng(0)
    rows = [
        row("fast", "hand-made", 10, 0.80, 0.81, 0.80),
        row("same", "found", 20, 0.84, 0.83, 0.84),
        row("better", "found", 20, 0.95, 0.95, 0.96),
        row("slow", "hand-made", 40, 0.87, 0.87, 0.88),
    ]
    right = {str(item["name"]): (rng.random((3, 5000)) < item["accuracy"]).mean(axis=0) for item in rows}
    same, better = compare(rows, right)
    assert same["answer"] == "cannot be told" and same["share_of_second"] == pytest.approx(0.5)
    assert better["answer"] == "yes" and better["difference"] > better["half_interval"]
    assert (
        compare([row("first", "found", 5, 0.9, 0.9, 0.9), *rows], {"first": right["better"], **right})[0]["against"]
        is None
    )
