"""A dataset that is sent to another machine arrives whole, once, and is known again."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny import write_images

from nas.data import Dataset, load, parcel
from nas.data.parcel import Parcel, Part, opened, parts, received
from nas.errors import DataError


@pytest.fixture
def sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Dataset, Parcel]:
    """A packed folder of images, and what another machine is told of it: there neither its folder nor its cache exist."""
    write_images(tmp_path / "photos")
    data = load(str(tmp_path / "photos"), resolution=16)
    told = pickle.loads(pickle.dumps(parcel.parcel(data)))
    assert told.folder is not None and len(pickle.dumps(told)) < data.train.images.nbytes
    monkeypatch.setenv("NAS_CACHE", str(tmp_path / "there"))
    return data, told


def same(first: Dataset, second: Dataset) -> bool:
    pixels = zip((first.train, first.val), (second.train, second.val), strict=True)
    fields = (replace(item, train=None, val=None) for item in (first, second))
    return len(set(map(repr, fields))) == 1 and all(
        np.array_equal(a.images, b.images) and np.array_equal(a.labels, b.labels) for a, b in pixels
    )


def test_the_senders_pack_is_opened_where_the_folder_is_shared(sent: tuple[Dataset, Parcel]) -> None:
    data, told = sent
    found = opened(told)
    assert found is not None and same(found, data)


def test_pixels_are_fetched_once_and_then_found_in_the_cache(
    sent: tuple[Dataset, Parcel], monkeypatch: pytest.MonkeyPatch
) -> None:
    data, told = sent
    monkeypatch.setattr(parcel, "PART_BYTES", 1000)  # a few images each
    told = replace(told, folder=None)
    assert opened(told) is None
    fetched: list[int] = []

    def fetch() -> Iterator[Part]:
        for part in parts(data):
            fetched.append(len(part[0]))
            yield part

    assert same(received(told, fetch), data)
    assert len(fetched) > 1 and sum(fetched) == len(data.train)
    assert same(received(told, lambda: pytest.fail("fetched again")), data)
    found = opened(told)
    assert found is not None and same(found, data)


def test_other_pixels_than_were_sent_are_refused_and_not_kept(sent: tuple[Dataset, Parcel]) -> None:
    data, told = sent
    told = replace(told, folder=None)
    with pytest.raises(DataError, match=f"arrived; {data.fingerprint} were sent"):
        received(told, lambda: ((255 - train, val) for train, val in parts(data)))
    assert opened(told) is None


def test_a_pack_of_other_images_in_the_senders_place_is_not_taken(sent: tuple[Dataset, Parcel]) -> None:
    _, told = sent
    assert opened(replace(told, shell=replace(told.shell, fingerprint="0" * 16))) is None
