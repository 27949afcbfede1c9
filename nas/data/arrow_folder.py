"""A folder written by `save_to_disk` of the Hugging Face `datasets` library, which is not needed to read it.

A `DatasetDict` is a folder of splits with a `dataset_dict.json`; a split, or a `Dataset` of its own, is a folder with
a `state.json` that lists Arrow IPC stream files, and a `dataset_info.json` with the class names.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from nas.data._columns import LABEL_COLUMNS, Table, check_shards, class_names_in, read_tables, unreadable
from nas.data._tree import TEST_NAMES, TRAIN_NAMES, VAL_NAMES
from nas.data._types import SOURCES, RawDataset, Source, path_of, reason
from nas.errors import DataError

NAME = "arrow-folder"


def _matches(value: str) -> bool:
    path = path_of(value)
    return os.path.isfile(path / "dataset_dict.json") or os.path.isfile(path / "state.json")


def _read(value: str) -> RawDataset:
    root = path_of(value)
    name = root.resolve().name
    if (root / "state.json").is_file():
        return read_tables(value, name, _split(root), [], [])
    splits = _json(root / "dataset_dict.json").get("splits")
    if not (isinstance(splits, list) and all(isinstance(split, str) for split in splits)):
        raise _not_written_by_datasets(root / "dataset_dict.json", "no list of splits")
    train, val = _one(value, splits, TRAIN_NAMES), _one(value, splits, VAL_NAMES)
    if train is None:
        found = f"the splits {', '.join(splits)}" if splits else "no split"
        raise DataError(
            f"{value}: found {found}; a split called train is needed. "
            f"Save one as train, or give the folder of the split to train on."
        )
    notes = []
    for split in splits:
        if split.lower() in TEST_NAMES:
            notes.append(f"The test split ({split}) was left untouched: nothing in it was read.")
        elif split not in (train, val):
            notes.append(f"The split {split} is neither training nor validation and was not read.")
    return read_tables(value, name, _split(root / train), _split(root / val) if val is not None else [], notes)


def _one(value: str, splits: Sequence[str], names: Sequence[str]) -> str | None:
    found = [split for split in splits if split.lower() in names]
    if len(found) > 1:
        raise DataError(f"{value}: found {', '.join(found)}; only one of them is allowed. Remove or rename the others.")
    return found[0] if found else None


def _json(path: Path) -> dict[str, Any]:
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _not_written_by_datasets(path, reason(error)) from error
    if not isinstance(stored, dict):
        raise _not_written_by_datasets(path, "not a JSON object")
    return stored


def _not_written_by_datasets(path: Path, found: str) -> DataError:
    return DataError(
        f"{path}: cannot be read ({found}); what `save_to_disk` of `datasets` writes is expected. "
        f"Save the data set again."
    )


def _split(folder: Path) -> list[Table]:
    """Return the files of one split, in the order of its `state.json`."""
    listed: Any = _json(folder / "state.json").get("_data_files")
    try:
        names = [str(entry["filename"]) for entry in listed]
    except (TypeError, KeyError):
        names = []
    if not names or not all(name == os.path.basename(name) for name in names):
        raise _not_written_by_datasets(folder / "state.json", "no list of data files")
    check_shards(str(folder), names)
    features = _json(folder / "dataset_info.json").get("features")
    class_names = next(filter(None, (class_names_in(features, label) for label in LABEL_COLUMNS)), None)
    return [_table(folder / name, class_names) for name in names]


def _table(path: Path, names: tuple[str, ...] | None) -> Table:
    import pyarrow as pa

    try:
        with pa.memory_map(str(path)) as file, pa.ipc.open_stream(file) as reader:
            return Table(path, "Arrow stream", reader.schema, partial(_batches, path), names)
    except (OSError, pa.ArrowException) as error:
        raise unreadable(path, "Arrow stream", error) from error


def _batches(path: Path, column: str) -> Iterator[Any]:
    import pyarrow as pa

    with pa.memory_map(str(path)) as file, pa.ipc.open_stream(file) as reader:
        for batch in reader:
            yield batch.column(column)


SOURCES.register(
    NAME,
    Source(
        name=NAME,
        understands="a folder written by save_to_disk of Hugging Face datasets",
        matches=_matches,
        read=_read,
    ),
)
