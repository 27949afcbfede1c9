"""The registry, and the folders that fill one."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from nas.errors import UnknownNameError
from nas.registry import Registry, import_folder


@pytest.fixture
def colours() -> Registry[int]:
    registry: Registry[int] = Registry("colour")
    registry.register("red", 1)
    registry.register("blue", 2)
    return registry


def test_values_by_name(colours: Registry[int]) -> None:
    assert colours["red"] == 1
    assert list(colours) == ["blue", "red"]
    assert len(colours) == 2
    assert "red" in colours
    assert "green" not in colours
    assert 1 not in colours


def test_register_returns_the_value(colours: Registry[int]) -> None:
    assert colours.register("green", 3) == 3


def test_an_unknown_name_gets_the_known_ones_and_the_nearest(colours: Registry[int]) -> None:
    with pytest.raises(UnknownNameError) as caught:
        colours["bleu"]
    assert str(caught.value) == "colour: 'bleu' is not known. Known: blue, red. Did you mean blue?"
    assert caught.value.exit_code == 2
    with pytest.raises(UnknownNameError, match=r"Known: blue, red\.$"):
        colours["x"]


def test_a_name_can_be_taken_once(colours: Registry[int]) -> None:
    with pytest.raises(ValueError, match="colour 'red' is registered twice"):
        colours.register("red", 5)
    assert colours["red"] == 1


def test_import_folder_imports_public_modules_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "folder_of_things"
    package.mkdir()
    for name in ("__init__", "first", "_private"):
        (package / f"{name}.py").write_text("", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    import_folder("folder_of_things")
    imported = {name for name in sys.modules if name.startswith("folder_of_things")}
    assert imported == {"folder_of_things", "folder_of_things.first"}
    for name in imported:
        monkeypatch.delitem(sys.modules, name)
