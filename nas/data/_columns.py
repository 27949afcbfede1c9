"""Tables in the layout of Hugging Face: an image column of encoded bytes, and a label column."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from nas.data._types import Labels, RawDataset, RawImage, identity, reason
from nas.data.decode import open_image
from nas.errors import DataError

IMAGE_COLUMNS = ("image", "img")
LABEL_COLUMNS = ("label", "labels", "fine_label")
ROWS_AT_ONCE = 256


@dataclass(frozen=True)
class Table:
    """One file of rows.

    Args:
        path: The file.
        kind: What it should be, for messages ("parquet").
        schema: Its `pyarrow.Schema`.
        batches: Yields the `pyarrow.Array`s of one column, by its name, in the order of the rows. May raise what
            pyarrow raises on a damaged file.
        names: Class names in label order where something beside the file tells them, or None.
    """

    path: Path
    kind: str
    schema: Any
    batches: Callable[[str], Iterator[Any]]
    names: tuple[str, ...] | None = None


@dataclass(frozen=True)
class _Columns:
    """A table, and which of its columns hold what."""

    table: Table
    image: str
    label: str
    names: tuple[str, ...] | None


def read_tables(
    value: str, name: str, train: Sequence[Table], val: Sequence[Table], notes: Sequence[str]
) -> RawDataset:
    """Return the rows of some files as a data set: the training files first, then those of validation, if any.

    Raises:
        DataError: a column is missing or of another type, or a label is missing or out of range.
    """
    found = [_columns(table) for table in (*train, *val)]
    columns = [_label_column(each) for each in found]
    class_names, labels, absent = _labels(value, found, columns)
    num_train = sum(len(column) for column in columns[: len(train)])

    def iterate() -> Iterator[RawImage]:
        for each in found:
            yield from _images(each)

    return RawDataset(
        name=name,
        class_names=class_names,
        labels=labels,
        in_val=np.arange(len(labels)) >= num_train if val else None,
        images=iterate,
        files=tuple(identity(each.table.path, each.table.path.name) for each in found),
        notes=(*notes, *absent),
    )


def unreadable(path: Path, kind: str, error: Exception) -> DataError:
    """Return the error for a file that is damaged or of another kind."""
    return DataError(
        f"{path}: cannot be read as {kind} ({reason(error)}); a whole file in that format is expected. "
        f"Download or write it again."
    )


def check_shards(value: str, names: Sequence[str]) -> None:
    """Refuse a split of which a part is missing, as names like `train-00000-of-00002.parquet` tell."""
    parts = [re.search(r"-(\d+)-of-(\d+)", name) for name in names]
    present = {int(part.group(1)) for part in parts if part}
    total = max((int(part.group(2)) for part in parts if part), default=0)
    missing = next((number for number in range(total) if number not in present), None)
    if missing is not None:
        raise DataError(
            f"{value}: part {missing} of {total} is missing beside {names[0]}; all parts are needed. "
            f"Download it, or give one file instead of the folder."
        )


def class_names_in(features: Any, label: str) -> tuple[str, ...] | None:
    """Return the names of a `ClassLabel` in the features that Hugging Face stores, or None where there is none."""
    try:
        return tuple(str(name) for name in features[label]["names"])
    except (KeyError, TypeError):
        return None


def _columns(table: Table) -> _Columns:
    """Find the columns of a file by name and type."""
    import pyarrow as pa

    schema = table.schema
    found = ", ".join(f"{field.name} ({field.type})" for field in schema) or "no column"
    columns = []
    for what, names in (("image", IMAGE_COLUMNS), ("label", LABEL_COLUMNS)):
        present = [name for name in names if name in schema.names]
        if not present:
            raise DataError(
                f"{table.path}: found no {what} column among {found}; it may be called {' or '.join(names)}. "
                f"Rename the column."
            )
        columns.append(present[0])
    image, label = columns
    kind = schema.field(image).type
    if not (pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0):
        raise DataError(
            f"{table.path}: column {image!r} is {kind}; a struct with a field 'bytes' (an encoded image) is "
            f"expected. Save the data set with the Hugging Face `datasets` library, column type Image."
        )
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, TypeError, ValueError):
        features = None
    return _Columns(table, image, label, class_names_in(features, label) or table.names)


def _label_column(columns: _Columns) -> list[Any]:
    """Read the labels of a file: whole numbers, or text."""
    import pyarrow as pa

    path, label = columns.table.path, columns.label
    kind = columns.table.schema.field(label).type
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    if not (pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise DataError(f"{path}: column {label!r} is {kind}; whole numbers or text are allowed. Convert the column.")
    try:
        values = [value for batch in columns.table.batches(label) for value in batch.to_pylist()]
    except (OSError, pa.ArrowException) as error:
        raise unreadable(path, columns.table.kind, error) from error
    if None in values:
        raise DataError(
            f"{path}: row {values.index(None)} has no label; every row needs one. Remove the row or label it."
        )
    return values


def _labels(
    value: str, found: Sequence[_Columns], columns: Sequence[list[Any]]
) -> tuple[tuple[str, ...], Labels, tuple[str, ...]]:
    """Turn the label columns of all files into class names, indices, and notes on classes that nobody uses."""
    kinds = {type(label) for column in columns for label in column}
    if len(kinds) > 1:
        raise DataError(
            f"{value}: some files have labels in numbers, others in text; one kind is allowed. Convert one."
        )
    names = found[0].names if kinds == {int} else None
    if names is not None:
        for each, column in zip(found, columns, strict=True):
            _check_range(each.table.path, column, names)
    used = sorted({label for column in columns for label in column})
    index = {label: position for position, label in enumerate(used)}
    labels = np.array([index[label] for column in columns for label in column], dtype=np.int64)
    if names is None:
        return tuple(str(label) for label in used), labels, ()
    absent = [name for number, name in enumerate(names) if number not in index]
    note = f"{len(absent)} class names of the file have no image and were left out ({', '.join(absent[:1])}, ...)."
    return tuple(names[label] for label in used), labels, (note,) if absent else ()


def _check_range(path: Path, column: Sequence[int], names: Sequence[str]) -> None:
    for row, label in enumerate(column):
        if not 0 <= label < len(names):
            raise DataError(
                f"{path}: row {row} has label {label}; 0 to {len(names) - 1} are allowed "
                f"({len(names)} class names in the file). Remove the row or correct its label."
            )


def _images(columns: _Columns) -> Iterator[RawImage]:
    """Yield the images of a file in the order of its rows; a few hundred rows are in memory at a time."""
    import pyarrow as pa

    row, path = 0, columns.table.path
    try:
        for batch in columns.table.batches(columns.image):
            for start in range(0, len(batch), ROWS_AT_ONCE):
                for cell in batch.slice(start, ROWS_AT_ONCE).to_pylist():
                    yield RawImage(f"{path}: row {row}", partial(_open_cell, cell))
                    row += 1
    except (OSError, pa.ArrowException) as error:
        raise DataError(
            f"{path}: cannot be read after row {row} ({reason(error)}); a whole file is "
            f"expected. Download or write it again."
        ) from error


def _open_cell(cell: dict[str, Any] | None) -> Image.Image:
    encoded = (cell or {}).get("bytes")
    if not encoded:
        raise ValueError("the row has no image bytes")
    return open_image(encoded)
