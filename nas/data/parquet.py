"""Parquet files in the layout of Hugging Face: an image column of encoded bytes, and a label column."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from nas.data._types import SOURCES, Labels, RawDataset, RawImage, Source
from nas.errors import DataError

IMAGE_COLUMNS = ("image", "img")
LABEL_COLUMNS = ("label", "labels", "fine_label")
ROWS_AT_ONCE = 256


@dataclass(frozen=True)
class _Table:
    """One parquet file: where it is, and which of its columns hold what.

    `names` are the class names of the Hugging Face metadata, or None.
    """

    path: Path
    image: str
    label: str
    names: tuple[str, ...] | None


def _matches(value: str) -> bool:
    path = Path(value).expanduser()
    if path.is_file():
        return path.suffix.lower() == ".parquet"
    return _folder(path) is not None


def _folder(path: Path) -> Path | None:
    """Return the folder that holds the parquet files: the one given, or its `data` (as on the Hub)."""
    return next((place for place in (path, path / "data") if next(place.glob("*.parquet"), None)), None)


def _read(value: str) -> RawDataset:
    path = Path(value).expanduser()
    one_file: tuple[list[Path], list[Path], list[str]] = [path], [], []
    train_paths, val_paths, notes = one_file if path.is_file() else _splits(value, _folder(path) or path)
    train = [_table(file) for file in train_paths]
    val = [_table(file) for file in val_paths]
    columns = [_label_column(table) for table in (*train, *val)]
    class_names, labels = _labels(value, train[0].names, (*train, *val), columns, notes)
    num_train = sum(len(column) for column in columns[: len(train)])

    def iterate() -> Iterator[RawImage]:
        for table in (*train, *val):
            yield from _images(table)

    return RawDataset(
        name=path.stem if path.is_file() else path.resolve().name,
        class_names=class_names,
        labels=labels,
        in_val=np.arange(len(labels)) >= num_train if val else None,
        images=iterate,
        files=tuple(
            (table.path.name, table.path.stat().st_size, table.path.stat().st_mtime_ns) for table in (*train, *val)
        ),
        notes=tuple(notes),
    )


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
        _check_shards(value, split)
    notes = []
    for file in files:
        if file.name.lower().startswith("test"):
            notes.append(f"The test split ({file.name}) was left untouched: nothing in it was read.")
        elif file not in (*train, *val):
            notes.append(f"{file.name} is neither train*.parquet nor val*.parquet and was not read.")
    return train, val, notes


def _check_shards(value: str, files: Sequence[Path]) -> None:
    """Refuse a split of which a part is missing, as the names `train-00000-of-00002.parquet` tell."""
    parts = [re.search(r"-(\d+)-of-(\d+)", file.name) for file in files]
    present = {int(part.group(1)) for part in parts if part}
    total = max((int(part.group(2)) for part in parts if part), default=0)
    missing = sorted(set(range(total)) - present)
    if missing:
        raise DataError(
            f"{value}: part {missing[0]} of {total} is missing beside {files[0].name}; all parts are needed. "
            f"Download it, or give one file instead of the folder."
        )


def _open(path: Path) -> Any:
    import pyarrow.parquet

    try:
        return pyarrow.parquet.ParquetFile(path)
    except (OSError, pyarrow.ArrowException) as error:
        raise DataError(
            f"{path}: cannot be read as parquet ({_one_line(error)}); a parquet file of images is expected. "
            f"Download or write it again."
        ) from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".")


def _table(path: Path) -> _Table:
    """Find the columns of a file by name and type."""
    import pyarrow as pa

    with _open(path) as file:
        schema = file.schema_arrow
    found = ", ".join(f"{field.name} ({field.type})" for field in schema) or "no column"
    columns = []
    for what, names in (("image", IMAGE_COLUMNS), ("label", LABEL_COLUMNS)):
        present = [name for name in names if name in schema.names]
        if not present:
            raise DataError(
                f"{path}: found no {what} column among {found}; it may be called {' or '.join(names)}. "
                f"Rename the column."
            )
        columns.append(present[0])
    image, label = columns
    kind = schema.field(image).type
    if not (pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0):
        raise DataError(
            f"{path}: column {image!r} is {kind}; a struct with a field 'bytes' (an encoded image) is "
            f"expected. Save the data set with the Hugging Face `datasets` library, column type Image."
        )
    return _Table(path, image, label, _class_names(schema.metadata, label))


def _class_names(metadata: dict[bytes, bytes] | None, label: str) -> tuple[str, ...] | None:
    """Return the class names that Hugging Face stores in the schema, or None where there are none."""
    try:
        stored = json.loads((metadata or {})[b"huggingface"])
        return tuple(str(name) for name in stored["info"]["features"][label]["names"])
    except (KeyError, TypeError, ValueError):
        return None


def _label_column(table: _Table) -> list[Any]:
    """Read the labels of a file: whole numbers, or text."""
    import pyarrow as pa

    with _open(table.path) as file:
        column = file.read(columns=[table.label]).column(table.label)
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if not (pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise DataError(
            f"{table.path}: column {table.label!r} is {kind}; whole numbers or text are allowed. Convert the column."
        )
    values: list[Any] = column.to_pylist()
    if None in values:
        raise DataError(
            f"{table.path}: row {values.index(None)} has no label; every row needs one. Remove the row or label it."
        )
    return values


def _labels(
    value: str,
    names: tuple[str, ...] | None,
    tables: Sequence[_Table],
    columns: Sequence[list[Any]],
    notes: list[str],
) -> tuple[tuple[str, ...], Labels]:
    """Turn the label columns of all files into class names and indices, without the unused classes."""
    kinds = {type(label) for column in columns for label in column}
    if len(kinds) > 1:
        raise DataError(
            f"{value}: some files have labels in numbers, others in text; one kind is allowed. Convert one."
        )
    by_number = kinds == {int} and names is not None
    if by_number and names is not None:
        for table, column in zip(tables, columns, strict=True):
            for row, label in enumerate(column):
                if not 0 <= label < len(names):
                    raise DataError(
                        f"{table.path}: row {row} has label {label}; 0 to {len(names) - 1} are allowed "
                        f"({len(names)} class names in the file). Remove the row or correct its label."
                    )
    used = sorted({label for column in columns for label in column})
    index = {label: position for position, label in enumerate(used)}
    labels = np.array([index[label] for column in columns for label in column], dtype=np.int64)
    if not by_number or names is None:
        return tuple(str(label) for label in used), labels
    absent = [name for number, name in enumerate(names) if number not in index]
    if absent:
        notes.append(f"{len(absent)} class names of the file have no image and were left out ({absent[0]}, ...).")
    return tuple(names[label] for label in used), labels


def _images(table: _Table) -> Iterator[RawImage]:
    """Yield the images of a file in the order of its rows; a few hundred rows are in memory at a time."""
    import pyarrow

    row = 0
    with _open(table.path) as file:
        try:
            for batch in file.iter_batches(batch_size=ROWS_AT_ONCE, columns=[table.image]):
                for cell in batch.column(0).to_pylist():
                    yield RawImage(f"{table.path}: row {row}", partial(_open_cell, cell))
                    row += 1
        except (OSError, pyarrow.ArrowException) as error:
            raise DataError(
                f"{table.path}: cannot be read after row {row} ({_one_line(error)}); a whole file is "
                f"expected. Download or write it again."
            ) from error


def _open_cell(cell: dict[str, Any] | None) -> Image.Image:
    encoded = (cell or {}).get("bytes")
    if not encoded:
        raise ValueError("the row has no image bytes")
    return Image.open(io.BytesIO(encoded))


SOURCES.register(
    "parquet",
    Source(
        name="parquet",
        understands="a .parquet file, or a folder with train*.parquet (Hugging Face layout)",
        matches=_matches,
        read=_read,
    ),
)
