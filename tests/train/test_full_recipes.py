from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas.errors import UnknownNameError, UsageError
from nas.train import full_recipes
from nas.train.full_recipes import FULL_RECIPES, FullRecipe, full_checked, full_phases, load_full_recipe
from nas.train.recipe_files import ALLOWED_PROGRESSIVE
from nas.train.schedule import Progressive, phases

NAMES = list(FULL_RECIPES)


def write(folder: Path, text: str) -> Path:
    path = folder / "mine.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_that_comes_with_nas_is_allowed_and_a_manifest_gives_it_back(name: str) -> None:
    recipe = FULL_RECIPES[name]
    assert recipe.name == name
    assert load_full_recipe(name) is full_checked(recipe, name)
    stored = json.loads(json.dumps(recipe.document()))
    assert full_recipes.full_from_document(stored, "manifest.json") == recipe


def test_every_field_has_its_allowed_values() -> None:
    assert set(full_recipes.ALLOWED) == {item.name for item in fields(FullRecipe)} - {"progressive"}


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("v2_")])
def test_efficientnetv2_as_published(name: str) -> None:
    # arXiv:2104.00298, section 5.1.
    found = FULL_RECIPES[name]
    assert (found.optimizer, found.alpha, found.momentum, found.weight_decay) == ("rmsprop_tf", 0.9, 0.9, 1e-5)
    assert (found.epochs, found.batch_size, found.ema_decay, found.ema_warmup) == (350, 4096, 0.9999, True)
    assert (found.drop_path, found.label_smoothing) == (0.2, 0.1)
    assert found.rate() == 0.256
    assert found.rate_at(4.999) == pytest.approx(0.256, rel=1e-3)
    # The paper counts the fall from the end of the warm-up, the released code from the first step: at 4.8 it is the second.
    early = 2 if name.endswith("shipped") else 0
    assert found.rate_at(5) == pytest.approx(0.256 * 0.97**early)
    assert found.rate_at(9.8) == pytest.approx(0.256 * 0.97 ** (4 if early else 2))


@pytest.mark.parametrize(
    ("name", "trained", "scored", "cutmix"),
    [
        ("v2_s_paper", (128, 185, 242, 300), 384, (0, 0, 0, 0)),
        ("v2_m_paper", (128, 212, 296, 380), 480, (0, 0, 0, 0)),
        ("v2_l_paper", (128, 212, 296, 380), 480, (0, 0, 0, 0)),
        ("v2_s_shipped", (171, 214, 257, 300), 384, (0, 0, 0, 0)),
        ("v2_m_shipped", (192, 256, 320, 384), 480, (0, 1 / 15, 2 / 15, 0.2)),
        ("v2_l_shipped", (192, 256, 320, 384), 480, (0, 1 / 6, 1 / 3, 0.5)),
    ],
)
def test_sizes_and_cutmix_as_published(
    name: str, trained: tuple[int, ...], scored: int, cutmix: tuple[float, ...]
) -> None:
    recipe = FULL_RECIPES[name]
    found = full_phases(recipe, trained[-1])
    assert tuple(phase.resolution for phase in found) == trained
    assert [phase.cutmix for phase in found] == pytest.approx(cutmix)
    assert [phase.epochs for phase in found] == [87, 87, 88, 88]
    assert recipe.test_resolution(trained[-1]) == scored


def test_the_rate_of_timm_falls_from_the_first_step_and_its_average_is_warmed() -> None:
    found = FULL_RECIPES["timm"]
    assert found.ema_warmup
    assert found.rate_at(0) == 1e-6 and found.rate_at(2.5) == pytest.approx((1e-6 + 0.048) / 2)
    assert [found.rate_at(epoch) for epoch in (5, 7.19, 7.2, 449)] == pytest.approx(
        [0.048 * 0.97**2, 0.048 * 0.97**2, 0.048 * 0.97**3, 0.048 * 0.97**187]
    )


@pytest.mark.parametrize(("batch_size", "rate"), [(256, 0.016), (2048, 0.128), (4096, 0.256)])
def test_the_rate_of_efficientnet_grows_with_the_batch(batch_size: int, rate: float) -> None:
    assert replace(FULL_RECIPES["efficientnet"], batch_size=batch_size).rate() == pytest.approx(rate)


def test_a_rate_for_no_batch_stands_as_it_is() -> None:
    assert replace(FULL_RECIPES["standard"], batch_size=999).rate() == FULL_RECIPES["standard"].learning_rate


@given(st.integers(1, 6), st.integers(0, 50), st.integers(8, 600))
def test_epochs_are_whole_and_the_remainder_is_the_last_phases(count: int, more: int, resolution: int) -> None:
    progressive = Progressive(count, (0.5, 1.0), mixup=(0, 0.3))
    recipe = replace(
        FULL_RECIPES["standard"], epochs=count + more, warmup_epochs=0, progressive=progressive, cutmix=(0, 0.3)
    )
    found = full_phases(recipe, resolution)
    lengths = [phase.epochs for phase in found]
    assert all(isinstance(length, int) for length in lengths)
    assert sum(lengths) == recipe.epochs
    assert lengths == sorted(lengths)
    assert lengths[-1] - lengths[0] <= 1
    assert [phase.cutmix for phase in found] == pytest.approx([phase.mixup for phase in found])
    plain = phases(progressive, resolution, recipe.epochs)
    assert [phase.resolution for phase in found] == [phase.resolution for phase in plain]
    assert {phase.cutmix for phase in plain} == {0.0}


def test_a_file_changes_some_keys_of_the_recipe_it_extends(tmp_path: Path) -> None:
    path = write(
        tmp_path, "extends: v2_m_shipped\nepochs: 12\ncutmix: [0, 1]\nprogressive: {phases: 2}\ndrop_path: 1e-1"
    )
    found, base = load_full_recipe(path), FULL_RECIPES["v2_m_shipped"]
    assert (found.name, found.epochs, found.cutmix, found.drop_path) == ("mine", 12, (0, 1), 0.1)
    assert found.progressive == replace(base.progressive, phases=2)
    assert found.optimizer == base.optimizer


def test_a_file_that_extends_nothing_extends_standard(tmp_path: Path) -> None:
    found = load_full_recipe(write(tmp_path, "epochs: 9\ndrop_path: null"))
    assert found == replace(FULL_RECIPES["standard"], name="mine", epochs=9, drop_path=None)


def test_an_unknown_name_or_key_gets_a_near_match(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match=r"training recipe: 'standrad' is not known\. .*Did you mean standard\?"):
        load_full_recipe("standrad")
    with pytest.raises(UnknownNameError, match=r"mine\.yaml: wieght_decay: unknown key\. .*mean weight_decay\?"):
        load_full_recipe(write(tmp_path, "wieght_decay: 0"))
    with pytest.raises(UnknownNameError, match=r"progressive\.cutmix: unknown key\. .*Known: phases, size"):
        load_full_recipe(write(tmp_path, "progressive: {cutmix: [0, 1]}"))
    with pytest.raises(UnknownNameError, match=r"training recipe: 'quick' is not known"):
        load_full_recipe(write(tmp_path, "extends: quick"))


@pytest.mark.parametrize(
    "line",
    [
        "name: 3",
        "epochs: 1.5",
        "epochs: 3",  # fewer than phases
        "batch_size: 1",
        "learning_rate: 0",
        "learning_rate_batch: -1",
        "cutmix: 0.2",
        "cutmix: [0, -1]",
        "optimizer: adam",
        "momentum: 1",
        "nesterov: 1",
        "nesterov: true",  # of AdamW
        "alpha: 1",
        "eps: 0",
        "betas: [0.9]",
        "weight_decay: .nan",
        "decay_norms_and_biases: some",
        "schedule: step",
        "warmup_epochs: -1",
        "warmup_epochs: 60",
        "warmup_learning_rate: -1",
        "decay_rate: 2",
        "decay_epochs: 0",
        "staircase: 2.4",
        "decay_from_start: 2",
        "min_learning_rate: 0.1",
        "ema_decay: 1",
        "ema_warmup: 3",
        "label_smoothing: 2",
        "clip_norm: -1",
        "drop_path: 1",
        "drop_path: own",
        "flip: sometimes",
        "crop_padding: 0.5",
        "crop_scale: 0",
        "erasing: 1.1",
        "test_size: 0.9",
        "freeze_epochs: 2",  # of untrained layers
        "freeze_epochs: 0.5",
        "freeze_norm: true",
        "needs_weights: maybe",
        "progressive: 3",
        "progressive: {phases: 61}",
        "progressive: {size: [0.5, 0.9]}",
    ],
)
def test_a_value_that_cannot_be_used_is_named(tmp_path: Path, line: str) -> None:
    key = line.partition(":")[0] if "61" not in line else "epochs"
    with pytest.raises(UsageError, match=rf"mine\.yaml: {key}.*: found .*; allowed: "):
        load_full_recipe(write(tmp_path, line))


def test_what_belongs_together_is_allowed_together(tmp_path: Path) -> None:
    text = "needs_weights: true\nfreeze_epochs: 60\nfreeze_norm: true\noptimizer: sgd\nnesterov: true\n"
    found = load_full_recipe(write(tmp_path, text))
    assert (found.freeze_epochs, found.freeze_norm, found.nesterov) == (60, True, True)


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        return "[" + ", ".join(f"{item:.3g}" for item in value) + "]"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else f"{value}"


def test_the_documentation_has_every_key_and_every_recipe() -> None:
    rows = (Path(__file__).parents[2] / "docs" / "recipes.md").read_text(encoding="utf-8").splitlines()
    standard = FULL_RECIPES["standard"]
    keys = [
        f"| `{prefix}{key}` | {_shown(getattr(holder, key))} | {words} | "
        for prefix, holder, allowed in (
            ("", standard, full_recipes.ALLOWED),
            ("progressive.", standard.progressive, ALLOWED_PROGRESSIVE),
        )
        for key, (_, words) in allowed.items()
    ]
    published = {"s_paper": 300, "m_paper": 380, "l_paper": 380, "s_shipped": 300, "m_shipped": 384, "l_shipped": 384}
    for name in NAMES:
        recipe, pixels = FULL_RECIPES[name], published.get(name.removeprefix("v2_"), 224)
        sizes = ", ".join(str(phase.resolution) for phase in full_phases(recipe, pixels))
        (row,) = [line for line in rows if line.startswith(f"| `{name}` | ")]
        assert f"| {recipe.epochs} | {recipe.batch_size} | {recipe.optimizer}, {recipe.rate():g} | " in row
        assert row.endswith(f"| {recipe.ema_decay} | {sizes}; {recipe.test_resolution(pixels)} |")
    for key in keys:
        assert len([line for line in rows if line.startswith(key)]) == 1, key
    assert len([line for line in rows if line.startswith("| `")]) == len(keys) + len(NAMES)
