"""Run one network again that the program failed on, under the conditions of its run."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from nas import catalog
from nas.evaluate import pick_devices
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
    evaluator = setup.evaluator(pick_devices(config.devices)[0], data)
    state = None
    for phase in range(recipe.progressive.phases + 1):
        say(f"phase {phase} of {recipe.progressive.phases} ...")
        began = time.monotonic()
        result = evaluator.run_phase(spec, phase, state, seed=config.seed)
        state = result.state
        say(f"  {result.outcome} {result.reason}({time.monotonic() - began:.1f} s)")
        if result.outcome != "ok":
            break
    return f"The program did not fail. Continue with: nas search --resume {run.folder}"
