from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from nas.cli import main


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    shown = capsys.readouterr()
    return int(ended.value.code or 0), shown.out, shown.err


def test_the_last_line_is_a_command_that_works(run_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "export", str(run_copy), "--format", "torch", "--format", "safetensors")
    assert (code, err) == (0, "")
    lines = out.strip().splitlines()
    assert "loading torch, safetensors again, each in a fresh process" in out
    assert any(line.startswith("torch") and "accuracy" in line and "all given the same class" in line for line in lines)
    assert lines[-1].startswith("next: cd ")
    command = lines[-1].removeprefix("next: ").replace("python ", f"{sys.executable} ")
    done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and "conv_stem" in done.stdout, done.stderr


def test_mistakes_take_one_line(run_copy: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run(capsys, "export", "mobilenet_v1")[0::2] == (
        2,
        "nas: mobilenet_v1: is an architecture, and has no weights. Give them with --weights FILE (.safetensors, .pt, .pth), "
        "name a run in its place, or say --random-weights.\n",
    )
    code, _, err = run(capsys, "export", str(run_copy), "--format", "torhc")
    assert code == 2 and err.endswith("Did you mean torch?\n")
    code, _, err = run(capsys, "export", str(tmp_path))
    assert code == 1 and "not a run folder" in err
