"""The examples of the documentation run, one after the other, as a reader would run them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tiny import TINY_RECIPE, TINY_SPACE, write_images

import nas

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "docs" / "examples"


def example(name: str, *arguments: str, cwd: Path) -> str:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *arguments], cwd=cwd, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_examples_search_read_train_and_hand_over(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(TINY_SPACE)
    write_images(tmp_path / "photos")
    (tmp_path / "recipe.yaml").write_text(TINY_RECIPE)
    example("search.py", "tiny.yaml", "photos", "recipe.yaml", "2", "run", cwd=tmp_path)
    run = nas.load_run(tmp_path / "run")
    assert len(run.trials) >= 2
    assert "reward" in example("read_run.py", "run", cwd=tmp_path)
    example("train_winner.py", "run", "photos", "4", "trained", cwd=tmp_path)
    assert (tmp_path / "trained" / "export").is_dir()
    assert {path.name for path in EXAMPLES.glob("*.py")} == {"search.py", "read_run.py", "train_winner.py"}


def test_the_space_of_the_example_loads() -> None:
    assert nas.load_space(EXAMPLES / "own_space.yaml").name == "own_space"


def test_the_page_on_python_names_all_that_is_public() -> None:
    page = (ROOT / "docs" / "python.md").read_text()
    for name in nas.__all__:
        assert name == "__version__" or f"`nas.{name}`" in page, name
