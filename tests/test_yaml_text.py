"""YAML from people: what is longer, larger or deeper than people write is refused before anything is built of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from nas import catalog
from nas.errors import NasError, SpaceError, UsageError
from nas.train.full_recipes import load_full_recipe
from nas.train.recipes import load_recipe
from nas.yaml_text import MAX_BYTES, LimitError, composed

LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 10)
)
"""Ten lines for 9 to the power of 10 values."""

BAD = {
    "laughs": (LAUGHS, "more than 100,000 values once its aliases are written out"),
    "itself": ("epochs: &a [*a]", "a part (line 1) that contains itself, by an alias"),
    "deep": ("epochs: " + "[" * 5000 + "]" * 5000, "more levels than can be read"),
    "long": ("# " + "x" * MAX_BYTES, "longer than 1 MiB"),
}


@pytest.mark.parametrize(("text", "reason"), BAD.values(), ids=BAD)
@pytest.mark.parametrize(
    ("read", "kind"), [(catalog.load_space, SpaceError), (load_recipe, UsageError), (load_full_recipe, UsageError)]
)
def test_what_no_person_writes_is_refused(
    text: str, reason: str, read: Callable[[Path], object], kind: type[NasError], tmp_path: Path
) -> None:
    path = tmp_path / "file.yaml"
    path.write_text(text)
    with pytest.raises(kind) as caught:
        read(path)
    assert str(path.name) in str(caught.value)
    assert reason in str(caught.value)
    assert len(str(caught.value)) < 500


def test_aliases_that_people_write_are_read(tmp_path: Path) -> None:
    path = tmp_path / "file.yaml"
    path.write_text("a: &kernels [3, 5, 7]\nb: *kernels\nc: {d: *kernels}\n")
    loader, root = composed(path, yaml.SafeLoader)
    assert root is not None
    assert loader.construct_document(root) == {"a": [3, 5, 7], "b": [3, 5, 7], "c": {"d": [3, 5, 7]}}


def test_the_number_of_values_is_that_of_the_file_written_out(tmp_path: Path) -> None:
    path = tmp_path / "file.yaml"
    path.write_text("[" + "1, " * 99_998 + "1]")  # and the list itself: as many as are allowed
    composed(path, yaml.SafeLoader)
    path.write_text("[" + "1, " * 99_999 + "1]")
    with pytest.raises(LimitError):
        composed(path, yaml.SafeLoader)
