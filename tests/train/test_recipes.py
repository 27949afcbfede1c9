from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import pytest

from nas.errors import UnknownNameError, UsageError
from nas.train import recipe_files, recipes
from nas.train.recipes import RECIPES, from_document, load_recipe


def write(folder: Path, text: str) -> Path:
    path = folder / "mine.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", ["quick", "standard"])
def test_a_name_is_a_recipe(name: str) -> None:
    assert load_recipe(name) is RECIPES[name]
    assert RECIPES[name].name == name


def test_an_unknown_name_lists_the_known_and_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match=r"'quikc' is not known\. Known: quick, standard\. Did you mean quick\?"):
        load_recipe("quikc")


def test_a_file_changes_some_keys_of_the_recipe_it_extends(tmp_path: Path) -> None:
    path = write(tmp_path, "extends: standard\nepochs: 3\nflip: false\nprogressive: {phases: 2, magnitude: [0, 9]}\n")
    found, base = load_recipe(path), RECIPES["standard"]
    assert (found.name, found.epochs, found.flip) == ("mine", 3, False)
    assert (found.progressive.phases, found.progressive.magnitude) == (2, (0, 9))
    assert found.progressive.size == base.progressive.size
    assert (found.batch_size, found.learning_rate) == (base.batch_size, base.learning_rate)


def test_a_file_that_extends_nothing_extends_quick(tmp_path: Path) -> None:
    assert load_recipe(write(tmp_path, "epochs: 9")).batch_size == RECIPES["quick"].batch_size


@pytest.mark.parametrize("name", ["quick", "standard"])
def test_a_manifest_gives_the_recipe_back(name: str) -> None:
    stored = json.loads(json.dumps(RECIPES[name].document()))
    assert from_document(stored, where="manifest.json") == RECIPES[name]


def test_an_unknown_key_gets_a_near_match(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match=r"mine\.yaml: epohcs: unknown key\. .*Did you mean epochs\?"):
        load_recipe(write(tmp_path, "epohcs: 3"))
    with pytest.raises(UnknownNameError, match=r"progressive\.phase: unknown key\. .*Did you mean phases\?"):
        load_recipe(write(tmp_path, "progressive: {phase: 3}"))


@pytest.mark.parametrize(
    "line",
    [
        "epochs: 0",
        "epochs: .nan",
        "epochs: .inf",
        "epochs: many",
        "epochs: true",
        "batch_size: 2.5",
        "batch_size: -1",
        "train_images: 0",
        "val_images: 1.5",
        "learning_rate: 0",
        "clip_norm: -1",
        "warmup: 1",
        "warmup: some",
        "flip: sometimes",
        "crop_scale: 0",
        "crop_padding: -0.1",
        "label_smoothing: 2",
        "betas: 0.9",
        "weight_decay: -1",
        "progressive: 3",
        "progressive: {phases: 0}",
        "progressive: {phases: 1.5}",
        "progressive: {size: 0.5}",
        "progressive: {size: [0.5, 0.9]}",
        "progressive: {dropout: [0, 1]}",
        "progressive: {rule: papre}",
        "progressive: {mixup: [a, b]}",
    ],
)
def test_a_value_that_cannot_be_used_is_named(tmp_path: Path, line: str) -> None:
    key = line.partition(":")[0]
    with pytest.raises(UsageError, match=rf"mine\.yaml: {key}.*: found .*; allowed: "):
        load_recipe(write(tmp_path, line))


def test_a_number_with_an_exponent_and_no_point_is_a_number(tmp_path: Path) -> None:
    found = load_recipe(write(tmp_path, "learning_rate: 1e-3\nweight_decay: 5E-2\nbetas: [0.9, 9.9e-1]\nname: '1e-3'"))
    assert (found.learning_rate, found.weight_decay, found.betas, found.name) == (0.001, 0.05, (0.9, 0.99), "1e-3")


def test_the_documentation_has_every_key_with_its_values() -> None:
    rows = (Path(__file__).parents[2] / "docs" / "reference.md").read_text(encoding="utf-8").splitlines()
    for prefix, allowed in (("", recipes._ALLOWED), ("progressive.", recipe_files.ALLOWED_PROGRESSIVE)):
        for key, (_, values) in allowed.items():
            quick, standard = (_shown(RECIPES[name], prefix, key) for name in ("quick", "standard"))
            row = f"| `{prefix}{key}` | {quick} | {standard} | {values} |"
            assert any(line.startswith(row) for line in rows), row
    named = [
        line for line in rows if line.startswith(("| `progressive.", *(f"| `{key}` |" for key in recipes._ALLOWED)))
    ]
    assert len(named) == len(recipes._ALLOWED) + len(recipe_files.ALLOWED_PROGRESSIVE)
    assert set(recipes._ALLOWED) == {item.name for item in fields(recipes.Recipe)} - {"progressive"}
    assert set(recipe_files.ALLOWED_PROGRESSIVE) == {item.name for item in fields(recipes.Progressive)}


def _shown(recipe: recipes.Recipe, prefix: str, key: str) -> str:
    value = getattr(recipe.progressive if prefix else recipe, key)
    if isinstance(value, tuple):
        return "[" + ", ".join(f"{item:.3g}" for item in value) + "]"
    return str(value).lower() if isinstance(value, bool) else f"{value}"


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_bytes(b"\x80")
    with pytest.raises(UsageError, match="cannot be read as a recipe"):
        load_recipe(tmp_path / "mine.yaml")


@pytest.mark.parametrize(("text", "words"), [("- 1", "found list"), ("a: [", "cannot be read as a recipe")])
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        load_recipe(write(tmp_path, text))


def test_an_absent_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"absent\.yaml: cannot be read as a recipe"):
        load_recipe(tmp_path / "absent.yaml")
