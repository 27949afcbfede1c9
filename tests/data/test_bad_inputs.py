"""Every bad input ends in one line that says where, what was found, what is allowed and what to do.

`python -c "import test_bad_inputs; print(test_bad_inputs.table())"`, run in this folder, prints the table that
`docs/data.md` shows.
"""

from __future__ import annotations

import re
import sys
import tempfile
import warnings
from pathlib import Path

import bad_inputs_archives
import bad_inputs_arrays
import pytest
from bad_inputs import CASES, Case

from nas.data import load
from nas.errors import DataError

assert bad_inputs_archives and bad_inputs_arrays  # imported for the cases they add

DOCS = Path(__file__).resolve().parents[2] / "docs" / "data.md"
FOREIGN = re.compile(r"(cannot be (?:decoded|read)[^(]*|raised \w+ )\(.*?\)(?=;)")


def message(case: Case, folder: Path, patch: pytest.MonkeyPatch) -> str:
    """Load a bad input below an empty folder and return what the error says."""
    patch.setenv("NAS_CACHE", str(folder / "nas-cache"))
    patch.chdir(folder)
    for module in ("bad_photos", "bad_import"):
        patch.delitem(sys.modules, module, raising=False)
    value = case.make(folder, patch) or "photos"
    with pytest.raises(DataError) as caught, warnings.catch_warnings():
        warnings.simplefilter("error")
        load(str(value), resolution=32, skip_broken=case.skip_broken)
    return str(caught.value).replace(f"{folder}/", "")


def table() -> str:
    """Return the rows of the table in the documentation: source, input, message."""
    rows = []
    for case in CASES:
        with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
            text = message(case, Path(folder).resolve(), patch)
        text = FOREIGN.sub(r"\1(...)", text) if case.foreign else text
        text = re.sub(r"[\d,]+ bytes unpack", "8,920 bytes unpack", text)  # zlib and zlib-ng differ in a few
        rows.append(f"| {case.source} | {case.name} | ``{text}`` |")
    return "\n".join(rows)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.source}: {case.name}")
def test_a_bad_input_is_explained(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = message(case, tmp_path, monkeypatch)
    for part in case.says:
        assert part in text
    # where: found; allowed. What to do.
    assert re.fullmatch(r".+?: .+; .+\. .+", text)
    assert text.isprintable()
    assert not (tmp_path / "pwned").exists()
    left = tmp_path / "nas-cache" / "packs"
    assert not left.exists() or not list(left.iterdir())


def test_the_documentation_shows_these_messages() -> None:
    assert table() in DOCS.read_text(encoding="utf-8"), "docs/data.md is not what test_bad_inputs.table() makes"
