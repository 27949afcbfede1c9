"""The fresh process in which an export is loaded again: run as a file, with numpy and the standard library alone.

It reads a job (one line of JSON) and then batches from stdin, and answers with scores on stdout: each a line of JSON with the
shape, then float32 as bytes.
"""

from __future__ import annotations

import importlib
import importlib.abc
import json
import os
import sys
from importlib.machinery import ModuleSpec
from typing import Any

import numpy as np


class Wall(importlib.abc.MetaPathFinder):
    """Stands in front of the usual finders and hides some packages, as if they were not installed."""

    def __init__(self, blocked: list[str], finders: list[Any]) -> None:
        self.blocked = set(blocked)
        self.finders = finders

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """Find a module that is not hidden."""
        if name.partition(".")[0] in self.blocked:
            return None
        found = (finder.find_spec(name, path, target) for finder in self.finders)
        return next((spec for spec in found if spec is not None), None)


def main() -> None:
    """Load the export and answer batches until there are none."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # a library that prints must not print into the answers
    job = json.loads(sys.stdin.buffer.readline())
    sys.path[:0] = job["path"]
    sys.meta_path[:] = [Wall(job["blocked"], sys.meta_path[:])]
    for package in job["blocked"]:
        try:
            importlib.import_module(package)
        except ImportError:
            continue
        raise SystemExit(f"{package} could be imported where it must not be")
    space: dict[str, object] = {}
    exec("from __future__ import annotations\n" + job["reload"], space)
    predict = space["reload"](job["folder"], job["name"])  # type: ignore[operator]
    while line := sys.stdin.buffer.readline():
        shape = json.loads(line)
        images = np.frombuffer(bytearray(sys.stdin.buffer.read(4 * int(np.prod(shape)))), np.float32).reshape(shape)
        scores = np.ascontiguousarray(predict(images), np.float32)
        answers.write(json.dumps(scores.shape).encode() + b"\n" + scores.tobytes())
        answers.flush()


if __name__ == "__main__":
    main()
