"""What `benchmarks.fidelity` takes for trained already."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import fidelity
from nas.train.recipes import RECIPES

QUICK = RECIPES["quick"]
ARMS = fidelity.recipes(QUICK, [], 10.0, 6000)


def document(recipe: Any) -> dict[str, Any]:
    """A recipe as a file has it: what were tuples are lists."""
    return json.loads(json.dumps(recipe.document()))  # type: ignore[no-any-return]


def test_arms_and_changed_recipes_have_marks_of_their_own() -> None:
    marks = {fidelity.mark(recipe.document()) for recipe in ARMS.values()}
    assert len(marks) == len(ARMS) == 3, "other recipes of one name"
    assert fidelity.mark(document(QUICK)) == fidelity.mark(QUICK.document()), "the same from a file"
    assert all(len(mark) == 8 for mark in marks)


@pytest.mark.parametrize("finished", [True, False])
def test_figures_of_before_recipes_were_in_the_keys_are_kept(finished: bool) -> None:
    content: dict[str, Any] = {
        "trainings": {"nas/aa/0": {"accuracy": 0.1}, "truth/aa/1": {"accuracy": 0.2}, "gone/aa/0": {}}
    }
    if finished:
        content["recipes"] = {name: document(recipe) for name, recipe in ARMS.items()}
    found = fidelity.kept(content, ARMS)
    nas, truth = (fidelity.mark(ARMS[name].document()) for name in ("nas", "truth"))
    assert found == {f"nas/{nas}/aa/0": {"accuracy": 0.1}, f"truth/{truth}/aa/1": {"accuracy": 0.2}, "gone/aa/0": {}}
    assert fidelity.kept({"trainings": found}, ARMS) == found, "once"


def test_figures_of_a_recipe_that_has_changed_under_its_name_are_not_todays() -> None:
    before = document(replace(QUICK, learning_rate=0.5))
    found = fidelity.kept({"trainings": {"nas/aa/0": {"accuracy": 0.1}}, "recipes": {"nas": before}}, ARMS)
    assert found == {f"nas/{fidelity.mark(before)}/aa/0": {"accuracy": 0.1}}, "kept under what it was"
    assert fidelity.mark(before) != fidelity.mark(QUICK.document())


def test_the_command_goes_on_with_what_is_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainings are stubs; of a file with keys of before, one arm's recipe has changed since, and is trained again."""
    arguments = ["--networks", "3", "--device", "cpu", "--out", str(tmp_path), "--max-macs", "1e9"]
    asked: list[str] = []

    class Pool:
        def __init__(self, *args: Any, **kwargs: Any) -> None: ...
        def __enter__(self) -> Pool:
            return self

        def __exit__(self, *args: Any) -> None: ...
        def submit(self, work: Any, spec: Any, recipe: Any, arm: str, *rest: Any) -> Any:
            asked.append(arm)
            return Done({"accuracy": int(spec.arch_hash[:4], 16) / 65536 + rest[-1] / 100})

    class Done:
        def __init__(self, answer: Any) -> None:
            self.result = lambda: answer

    monkeypatch.setattr(fidelity, "ProcessPoolExecutor", Pool)
    monkeypatch.setattr(fidelity, "as_completed", list)
    fidelity.main(arguments)
    assert len(asked) == 3 * (2 + 2 + 1)
    (path,) = tmp_path.glob("*/fidelity.json")
    content = json.loads(path.read_text())
    first = content["arms"]
    content["trainings"] = {
        key.replace(key.split("/")[1] + "/", "", 1): row for key, row in content["trainings"].items()
    }
    path.write_text(json.dumps(content))
    asked.clear()
    fidelity.main(arguments)
    assert not asked and json.loads(path.read_text())["arms"] == first
    content["recipes"]["plain"]["learning_rate"] = 0.5
    path.write_text(json.dumps(content))
    fidelity.main(arguments)
    assert set(asked) == {"plain"} and len(asked) == 6
    assert len(json.loads(path.read_text())["trainings"]) == 15 + 6, "nothing measured is lost"
