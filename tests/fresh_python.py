"""A Python for fresh processes in which timm can be imported beside a CPU-only torch."""

from __future__ import annotations

import stat
import sys
from pathlib import Path

_SCRIPT = """#!{python} -IB
# The compiled operators of torchvision, which timm imports, do not load beside a torch of another build.
import importlib.abc
import runpy
import sys


class Operators(importlib.abc.MetaPathFinder):
    library = None

    def find_spec(self, name, path=None, target=None):
        if name == "torchvision" and self.library is None:
            import torch

            self.library = torch.library.Library("torchvision", "FRAGMENT")
            for operator in ("nms", "qnms"):
                try:
                    torch.ops.torchvision.__getattr__(operator)
                except AttributeError:
                    self.library.define(operator + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


sys.meta_path.insert(0, Operators())
sys.argv = [word for word in sys.argv[1:] if not word.startswith("-")]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def write(folder: Path) -> Path:
    """Write it and return its path."""
    path = folder / "python"
    path.write_text(_SCRIPT.format(python=sys.executable))
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path
