"""The built-in subset is what its documented recipe makes, and is small."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from nas.data import BUILTIN, fashion_mnist, load
from nas.errors import DataError

DEBIAN = Path("/usr/share/datasets/fashion-mnist")


def test_the_built_in_data(cache: Path) -> None:
    data = load(BUILTIN, resolution=28)
    assert data.name == BUILTIN == fashion_mnist.NAME
    assert data.train.images.shape == (12_000, 28, 28, 1)
    assert data.val.images.shape == (2_000, 28, 28, 1)
    assert np.bincount(data.train.labels).tolist() == [1_200] * 10
    assert np.bincount(data.val.labels).tolist() == [200] * 10
    assert data.class_names[9] == "Ankle boot"
    # The whole way from file to arrays, pinned: pixels, order, labels, split and class names.
    assert data.fingerprint == "fe7645a7e1caf2e4"
    assert not cache.exists()


def test_the_file_is_small_and_licensed() -> None:
    assert fashion_mnist.FILE.stat().st_size <= 8_000_000
    licence = (fashion_mnist.FILE.parent / "LICENSE").read_text()
    assert "Copyright (c) 2017 Zalando SE, https://tech.zalando.com" in licence
    assert "MIT License" in licence


def test_the_recipe_makes_the_file() -> None:
    if not DEBIAN.is_dir():
        pytest.skip("needs the Debian package dataset-fashion-mnist")
    made = fashion_mnist.make_subset(DEBIAN)
    with np.load(fashion_mnist.FILE) as stored:
        assert sorted(stored) == sorted(made)
        for name, array in made.items():
            assert stored[name].dtype == array.dtype
            assert np.array_equal(stored[name], array)


def test_a_damaged_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "subset.npz"
    broken.write_bytes(fashion_mnist.FILE.read_bytes()[:1000])
    monkeypatch.setattr(fashion_mnist, "FILE", broken)
    with pytest.raises(DataError, match=r"subset\.npz: the built-in images cannot be read .*Install the package"):
        load(BUILTIN, resolution=28)
