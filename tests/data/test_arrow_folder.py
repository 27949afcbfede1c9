"""Folders in the layout that `save_to_disk` of Hugging Face `datasets` writes."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from data_samples import encoded, write_parquet

from nas.data import load
from nas.errors import DataError

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def write_split(folder: Path, shards: Sequence[Sequence[Any]], names: Sequence[str] | None = None) -> Path:
    """Write a `Dataset` as datasets 4.0 does: shards of record batches, state and info."""
    folder.mkdir(parents=True)
    files, row = [], 0
    for number, labels in enumerate(shards):
        cells = [{"bytes": encoded(row + index), "path": None} for index in range(len(labels))]
        row += len(labels)
        table = pa.table({"image": pa.array(cells, IMAGE), "label": pa.array(labels)})
        files.append({"filename": f"data-{number:05}-of-{len(shards):05}.arrow"})
        with pa.OSFile(str(folder / files[-1]["filename"]), "wb") as file, pa.ipc.new_stream(file, table.schema) as out:
            out.write_table(table, max_chunksize=7)
    state = {
        "_data_files": files,
        "_fingerprint": "0",
        "_format_columns": None,
        "_format_type": None,
        "_split": "train",
    }
    (folder / "state.json").write_text(json.dumps(state))
    label = {"names": list(names), "_type": "ClassLabel"} if names else {"dtype": "int64", "_type": "Value"}
    (folder / "dataset_info.json").write_text(json.dumps({"features": {"image": {"_type": "Image"}, "label": label}}))
    return folder


def write_dict(root: Path, splits: Sequence[str]) -> None:
    (root / "dataset_dict.json").write_text(json.dumps({"splits": list(splits)}))


def test_a_dict_of_splits(tmp_path: Path) -> None:
    root = tmp_path / "pets"
    write_split(root / "train", [[0, 1] * 5, [1, 0] * 4], ["cat", "dog"])
    write_split(root / "validation", [[0, 1, 1]], ["cat", "dog"])
    write_dict(root, ["train", "validation", "test", "unsupervised"])  # the last two are not even there
    data = load(str(root), resolution=32)
    assert (data.name, data.class_names) == ("pets", ("cat", "dog"))
    assert data.train.labels.tolist() == [0, 1] * 5 + [1, 0] * 4
    assert data.val.labels.tolist() == [0, 1, 1]
    assert any("test split (test) was left untouched" in note for note in data.notes)
    assert any("split unsupervised is neither" in note for note in data.notes)


def test_the_same_rows_as_parquet(tmp_path: Path) -> None:
    labels = ["dog", "cat"] * 9
    arrow = load(str(write_split(tmp_path / "pets", [labels])), resolution=32)
    parquet = load(str(write_parquet(tmp_path / "pets.parquet", labels)), resolution=32)
    assert arrow.fingerprint == parquet.fingerprint
    assert arrow.class_names == ("cat", "dog")
    assert np.bincount(arrow.val.labels).tolist() == [1, 1]


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("train/state.json", "{}", r"state\.json: cannot be read \(no list of data files\)"),
        ("train/state.json", '{"_data_files": [{"filename": "../x.arrow"}]}', "no list of data files"),
        ("train/state.json", '{"_data_files": [{"filename": "data-1-of-2.arrow"}]}', "part 0 of 2 is missing"),
        ("train/state.json", '{"_data_files": [{"filename": "x.arrow"}]}', r"x\.arrow: cannot be read as Arrow stream"),
        ("train/dataset_info.json", "[]", r"dataset_info\.json: cannot be read \(not a JSON object\)"),
        ("dataset_dict.json", "{}", r"dataset_dict\.json: cannot be read \(no list of splits\)"),
        ("dataset_dict.json", '{"splits": ["train", "training"]}', "found train, training; only one"),
    ],
)
def test_a_damaged_folder(tmp_path: Path, file: str, content: str, said: str) -> None:
    write_split(tmp_path / "pets" / "train", [[0, 1] * 3])
    write_dict(tmp_path / "pets", ["train"])
    (tmp_path / "pets" / file).write_text(content)
    with pytest.raises(DataError) as caught:
        load(str(tmp_path / "pets"), resolution=32)
    assert re.search(said, str(caught.value))


def test_a_stream_that_ends_early(tmp_path: Path) -> None:
    folder = write_split(tmp_path / "pets", [[0, 1] * 20])
    file = folder / "data-00000-of-00001.arrow"
    file.write_bytes(file.read_bytes()[:-3000])
    with pytest.raises(DataError, match=r"data-00000-of-00001\.arrow: cannot be read as Arrow stream"):
        load(str(folder), resolution=32)
