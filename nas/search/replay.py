"""Run one network again that the program failed on, under the conditions of its run."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from nas import catalog
from nas.cost.step_time import Protocol
from nas.devices import pick_devices
from nas.errors import RunError
from nas.search import config as configs
from nas.search.session import reopened, setup_of


def replay(bug: Path, say: Callable[[str], object]) -> str:
    """Run all phases of the network of a bug file in this process, and return a sentence where none fails.

    Args:
        bug: `bug-<hash>.yaml` in its run folder. say: Called with a line for each phase.

    Raises:
        Exception: the bug itself, unchanged. RunError: the file does not lie in a run folder.
    """
    run, space, recipe = reopened(bug.parent)
    config = configs.from_document(run.manifest["config"])
    setup, data = setup_of(config, space, recipe, lambda done, total: None)
    spec = catalog.load_arch(bug)
    conditions = bug.with_suffix(".json")
    if not conditions.is_file():
        raise RunError(f"{conditions}: no such file; a bug has one beside its network. Give RUN/bug-HASH.yaml.")
    job = json.loads(conditions.read_text(encoding="utf-8"))
    protocol = None if job["protocol"] is None else Protocol(**job["protocol"])
    setup = replace(setup, steps=run.manifest["device"].get("steps", "eager"))
    evaluator = setup.evaluator(pick_devices(config.devices)[0], data)
    state = None
    for phase in range(recipe.progressive.phases + 1):
        say(f"phase {phase} of {recipe.progressive.phases} ...")
        began = time.monotonic()
        result = evaluator.run_phase(spec, phase, state, seed=job["seed"], protocol=protocol)
        state = result.state
        say(f"  {result.outcome} {result.reason}({time.monotonic() - began:.1f} s)")
        if result.outcome not in ("ok", "infeasible"):
            break
    return f"The program did not fail. Continue with: nas search --resume {run.folder}"
