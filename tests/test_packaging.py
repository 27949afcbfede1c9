"""The wheel alone, and the editable checkout, both find the space files and the built-in data."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SPACES = ROOT / "search_spaces"

pytestmark = pytest.mark.slow


def run(*command: str, cwd: Path, site: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command; with `site`, Python looks there before any installed `nas`."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    environment["NO_COLOR"] = "1"
    if site is not None:
        environment["PYTHONPATH"] = str(site)
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)


def pip(*arguments: str, cwd: Path) -> None:
    done = run(sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments, cwd=cwd)
    assert done.returncode == 0, done.stdout + done.stderr


def space_files() -> list[str]:
    """Every space file of the checkout, relative to `search_spaces/`."""
    return sorted(path.relative_to(SPACES).as_posix() for path in SPACES.rglob("*.yaml"))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(ROOT), cwd=folder)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, installed alone into an empty folder."""
    folder = tmp_path_factory.mktemp("site")
    pip("install", "--no-deps", "--no-index", "--target", str(folder), str(wheel), cwd=folder)
    return folder


def test_wheel_holds_what_a_user_needs_and_no_tests(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {f"nas/report/templates/{path.name}" for path in ROOT.glob("nas/report/templates/*")} <= set(names)
    packed = sorted(
        name.removeprefix("nas/_search_spaces/")
        for name in names
        if name.startswith("nas/_search_spaces/") and name.endswith(".yaml")
    )
    assert packed == space_files()
    assert "v2_tiny.yaml" in packed

    builtin = ROOT / "nas" / "data" / "builtin"
    data = [path for path in builtin.iterdir() if path.is_file() and path.suffix != ".py"]
    assert "LICENSE" in {path.name for path in data}
    for path in data:
        assert f"nas/data/builtin/{path.name}" in names

    assert "nas/py.typed" in names
    licences = {name.split("/")[-1] for name in names if ".dist-info/licenses/" in name}
    assert licences >= {"LICENSE", "NOTICE"}
    assert {name.split("/")[0].split("-")[0] for name in names} == {"nas", "phinas"}
    assert not [name for name in names if name.startswith("tests/") or "/test_" in name or "conftest" in name]


def test_installed_wheel_shows_a_space_from_an_empty_folder(site: Path, tmp_path: Path) -> None:
    where = run(sys.executable, "-P", "-c", "import nas; print(nas.__file__)", cwd=tmp_path, site=site)
    assert Path(where.stdout.strip()).is_relative_to(site), where.stdout + where.stderr

    shown = run(sys.executable, "-P", "-m", "nas", "show", "v2_tiny", cwd=tmp_path, site=site)
    assert shown.returncode == 0, shown.stdout + shown.stderr
    assert "v2_tiny" in shown.stdout
    assert "params" in shown.stdout.lower()
    assert list(tmp_path.iterdir()) == [], "showing a space writes nothing"


LIST_NAMES = "from nas.space import library; print('\\n'.join(library.names()))"


def test_wheel_and_checkout_find_the_same_spaces(site: Path, tmp_path: Path) -> None:
    from_wheel = run(sys.executable, "-P", "-c", LIST_NAMES, cwd=tmp_path, site=site)
    from_checkout = run(sys.executable, "-P", "-c", LIST_NAMES, cwd=tmp_path, site=ROOT)
    assert from_wheel.returncode == 0, from_wheel.stderr
    expected = [name.removesuffix(".yaml") for name in space_files()]
    assert sorted(from_wheel.stdout.split()) == sorted(expected)
    assert from_checkout.stdout == from_wheel.stdout
