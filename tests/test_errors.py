"""The exception tree and the near matches."""

from __future__ import annotations

import inspect
import pickle

import pytest

from nas import errors
from nas.errors import NasError, SpaceError, UnknownNameError, UsageError, nearest

CLASSES = [item for _, item in inspect.getmembers(errors, inspect.isclass) if issubclass(item, NasError)]


@pytest.mark.parametrize("error", CLASSES, ids=lambda item: item.__name__)
def test_the_tree_in_the_docstring_is_the_tree(error: type[NasError]) -> None:
    lines = [line for line in (errors.__doc__ or "").splitlines() if error.__name__ in line.split()]
    lines += [line for line in (errors.__doc__ or "").splitlines() if line.endswith(f"─ {error.__name__}")]
    drawn = next(line for line in lines if any(word.isdigit() for word in line.split()))
    assert int(next(word for word in drawn.split() if word.isdigit())) == error.exit_code


def test_usage_errors_exit_with_2_and_the_others_with_1() -> None:
    assert {item for item in CLASSES if item.exit_code == 2} == {UsageError, UnknownNameError}
    assert {item.exit_code for item in CLASSES} == {1, 2}


def test_a_space_error_holds_one_line_for_each_problem() -> None:
    error = SpaceError(["a: 1", "b: 2"])
    assert error.problems == ("a: 1", "b: 2")
    assert str(error) == "a: 1\nb: 2"


def test_nearest_suggests_only_what_is_near() -> None:
    assert nearest("kernal_size", ["kernel_size", "stride"]) == " Did you mean kernel_size?"
    assert nearest("zzz", ["kernel_size", "stride"]) == ""
    assert nearest("x", []) == ""
    assert nearest("b_x", ["b_7", "b_0", "b_1"]) == " Did you mean b_0?"


def test_every_error_survives_the_way_from_another_process() -> None:
    error = pickle.loads(pickle.dumps(SpaceError(["a.yaml:1: one", "a.yaml:2: two"])))
    assert error.problems == ("a.yaml:1: one", "a.yaml:2: two") and str(error) == "a.yaml:1: one\na.yaml:2: two"
    assert str(pickle.loads(pickle.dumps(NasError("x")))) == "x"
