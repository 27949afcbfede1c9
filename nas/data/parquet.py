"""Parquet files in the layout of Hugging Face: an image column of encoded bytes, and a label column."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from nas.data._columns import ROWS_AT_ONCE, Table, check_shards, read_tables, unreadable
from nas.data._types import SOURCES, RawDataset, Source, path_of
from nas.errors import DataError

NAME = "parquet"


def _matches(value: str) -> bool:
    path = path_of(value)
    if os.path.isfile(path):
        return path.suffix.lower() == ".parquet"
    return _folder(path) is not None


def _folder(path: Path) -> Path | None:
    """Return the folder that holds the parquet files: the one given, or its `data` (as on the Hub)."""
    return next((place for place in (path, path / "data") if next(place.glob("*.parquet"), None)), None)


def _read(value: str) -> RawDataset:
    path = path_of(value)
    if path.is_file():
        return read_tables(value, path.stem, [_table(path)], [], [])
    train, val, notes = _splits(value, _folder(path) or path)
    return read_tables(value, path.resolve().name, [_table(f) for f in train], [_table(f) for f in val], notes)


def _splits(value: str, folder: Path) -> tuple[list[Path], list[Path], list[str]]:
    """Return the files of the training and validation split, and notes on the other files."""
    files = sorted(folder.glob("*.parquet"))
    train = [file for file in files if file.name.lower().startswith("train")]
    val = [file for file in files if file.name.lower().startswith("val")]
    if not train:
        raise DataError(
            f"{value}: found {', '.join(file.name for file in files)}; a folder needs train*.parquet. "
            f"Rename the training files, or give one file instead of the folder."
        )
    for split in (train, val):
        check_shards(value, [file.name for file in split])
    notes = []
    for file in files:
        if file.name.lower().startswith("test"):
            notes.append(f"The test split ({file.name}) was left untouched: nothing in it was read.")
        elif file not in (*train, *val):
            notes.append(f"{file.name} is neither train*.parquet nor val*.parquet and was not read.")
    return train, val, notes


def _table(path: Path) -> Table:
    import pyarrow as pa
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            return Table(path, "parquet", file.schema_arrow, partial(_batches, path))
    except (OSError, pa.ArrowException) as error:
        raise unreadable(path, "parquet", error) from error


def _batches(path: Path, column: str) -> Iterator[Any]:
    import pyarrow.parquet

    # With a buffer, a page is in memory at a time; without one, all of a column in a row group.
    with pyarrow.parquet.ParquetFile(path, buffer_size=1 << 20) as file:
        for batch in file.iter_batches(batch_size=ROWS_AT_ONCE, columns=[column]):
            yield batch.column(0)


SOURCES.register(
    NAME,
    Source(
        name=NAME,
        understands="a .parquet file, or a folder with train*.parquet (Hugging Face layout)",
        matches=_matches,
        read=_read,
    ),
)
