from __future__ import annotations

from pathlib import Path

import pytest
from stubs import Search

from nas.space import SearchSpace


@pytest.fixture
def search(tmp_path: Path, tiny_space: SearchSpace) -> Search:
    return Search(tmp_path / "run", tiny_space)
