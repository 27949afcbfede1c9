"""Descriptions and arithmetic answer at once: they load neither torch nor optuna."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    "module", ["nas", "nas.errors", "nas.registry", "nas.spec", "nas.space", "nas.objective", "nas.runs"]
)
def test_a_description_needs_neither_torch_nor_optuna(module: str) -> None:
    code = f"import sys, {module}; print(sorted({{'torch', 'optuna'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
