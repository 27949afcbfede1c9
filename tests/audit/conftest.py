"""A real run with networks enough to be audited."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from nas.search import SearchResult, resume


@pytest.fixture(scope="session")
def searched(finished: SearchResult, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = Path(shutil.copytree(finished.run.folder, tmp_path_factory.mktemp("searched") / "run"))
    resume(folder, budget=7)
    return folder


@pytest.fixture
def run_of_seven(searched: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(searched, tmp_path / "run"))
