"""The block table: what a network's training step will take, from the step times that were measured of other networks.

A step time is taken as a sum over blocks (Wu et al. 2019, FBNet, arXiv:1812.03443, section 3; Cai et al. 2019, ProxylessNAS,
arXiv:1812.00332, section 3.3). Each block adds so much for itself, for each multiply-add and for each element of its widest
input: rates of all blocks, of its type, of its type and kernel, and of the very block with its channels and image size.
A block that was never met is so predicted by its kin. All rates are fitted by one ridge regression of relative errors.

It is a prediction: it may say that a network is far too slow, and scores none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nas.blocks import BLOCKS
from nas.cost._count import count
from nas.errors import MeasurementError
from nas.models import places
from nas.spec import ArchSpec

LEAST = 20
"""With fewer networks a table says nothing: its own error is not known yet."""

FAR = 3.0
"""Standard errors from a prediction to its lower bound. Of 200 networks measured on a CPU 0.2 to 1.6 in 100 of those held out lay
below it, with tables of 20 to 150 others; of two standard errors it was 1.8 to 3.9 (`benchmarks.block_table`)."""

STRENGTHS = tuple(float(value) for value in np.logspace(-5, 2, 29))
"""Ridge strengths to choose from: the variance of a relative error over that of a rate, all in units of the mean network."""

WORK = ("blocks", "macs", "elements")

Floats = npt.NDArray[np.float64]
Key = tuple[tuple[object, ...], str]
"""One column: which blocks (none named: all), and what of their work."""


@dataclass(frozen=True)
class Accuracy:
    """How well networks are predicted that were left out, each by all others.

    Args:
        networks: Their number. spearman: Rank correlation of predicted and measured times.
        median_error: Median of |predicted / measured - 1|.
    """

    networks: int
    spearman: float
    median_error: float


@dataclass(frozen=True)
class Prediction:
    """A step time that was not measured.

    Args:
        ms: At the reference's median speed. error: Standard error as a share of it; larger for unfamiliar blocks.
        low_ms: Lower bound: `FAR` standard errors faster, with the machine at the fastest that the reference was seen.
    """

    ms: float
    error: float
    low_ms: float


@dataclass(frozen=True, eq=False)
class Table:
    """A fitted block table.

    Args:
        error: How well it predicts, left out in turn. macs_error: The same of a line on MACs alone, for contrast.
        strength: The ridge strength that was chosen.
    """

    error: Accuracy
    macs_error: Accuracy
    strength: float
    _columns: Mapping[Key, int]
    _units: Mapping[str, float]
    _ridge: _Ridge
    _sigma: float
    _median_ms: float
    _fastest: float

    def predict(self, spec: ArchSpec) -> Prediction:
        """Predict the step time of a network, with its error.

        Source of the variance: Rasmussen & Williams 2006, equation 2.26; its scale is that of the errors left out.
        """
        row = features(spec)
        known = _design([row], self._columns, self._units)[0]
        unknown = sum((row[key] / self._units[key[1]]) ** 2 for key in row if key not in self._columns)
        # A sum of rates can end below 0 for a network far smaller than all measured; its error is enormous then.
        time = max(float(known @ self._ridge.rates), 0.01)
        error = self._sigma * self._ridge.deviation(known / time, unknown / time**2)
        return Prediction(
            ms=time * self._median_ms,
            error=error,
            low_ms=time * self._median_ms * self._fastest / (1 + FAR * error),
        )


def features(spec: ArchSpec) -> dict[Key, float]:
    """Return the work of a network by column.

    `elements` are those of a block's input for one image, times its expansion where it has one: what it reads and writes most.
    """
    found: dict[Key, float] = {}
    for place in places(spec):
        args, block = place.args, place.layer.block
        elements = args.in_channels * place.size**2 * float(args.options.get("expand_ratio", 1))
        work = (1.0, float(BLOCKS[block].count(args, place.size).macs), elements)
        shape = (args.in_channels, args.out_channels, args.stride, args.activation, args.skip, place.size, place.pooled)
        levels: tuple[tuple[object, ...], ...] = (
            (),
            (block,),
            (block, args.options.get("kernel_size")),
            (block, *sorted(args.options.items()), *shape),
        )
        for level in levels:
            for name, amount in zip(WORK, work, strict=True):
                found[level, name] = found.get((level, name), 0.0) + amount
    return found


def fit(specs: Sequence[ArchSpec], times_ms: Sequence[float], references_ms: Sequence[float] | None = None) -> Table:
    """Learn a table from measured step times of different networks.

    Args:
        times_ms: One for each network. references_ms: The reference's step times in the same measurements, with which a drift
            of the machine's speed cancels.

    Raises:
        MeasurementError: fewer than `LEAST` networks.
    """
    if len(specs) < LEAST:
        raise MeasurementError(
            f"block table: found the step times of {len(specs)} networks; allowed: {LEAST} or more. Measure more networks."
        )
    references = np.ones(len(specs)) if references_ms is None else np.asarray(references_ms, float)
    times = np.asarray(times_ms, float) / references
    middle = float(np.median(times))
    times = times / middle
    rows = [features(spec) for spec in specs]
    units = {name: float(np.mean([row[(), name] for row in rows])) for name in WORK}
    columns = {key: number for number, key in enumerate(dict.fromkeys(key for row in rows for key in row), 1)}
    ridge = _best_ridge(_design(rows, columns, units), times, STRENGTHS)
    macs = np.array([count(spec).macs for spec in specs]) / units["macs"]
    line = _best_ridge(np.stack([np.ones(len(specs)), macs], axis=1), times, (1e-6,))
    return Table(
        error=_accuracy(times, ridge),
        macs_error=_accuracy(times, line),
        strength=ridge.strength,
        _columns=columns,
        _units=units,
        _ridge=ridge,
        # Each error left out, over what the model expects it to be.
        _sigma=float(np.sqrt(np.mean(ridge.left_out**2 * ridge.precision))),
        _median_ms=middle * float(np.median(references)),
        _fastest=float(references.min() / np.median(references)),
    )


def _design(rows: Sequence[Mapping[Key, float]], columns: Mapping[Key, int], units: Mapping[str, float]) -> Floats:
    """Return work in units of the mean network, (networks, 1 + columns): a constant first, unknown columns left out."""
    found = np.zeros((len(rows), 1 + len(columns)))
    found[:, 0] = 1.0
    for number, row in enumerate(rows):
        for key, amount in row.items():
            if key in columns:
                found[number, columns[key]] = amount / units[key[1]]
    return found


@dataclass(frozen=True, eq=False)
class _Ridge:
    """A ridge regression of relative errors: rows are divided by their times, so that each is to be 1.

    Args:
        rows: (networks, columns). vectors, shrink: Of (rows @ rows.T + strength)^-1: its eigenvectors and eigenvalues.
        rates: (columns,). left_out: 1 - predicted / measured of each network, predicted from all others.
        precision: 1 over the variance that the model expects of it.
    """

    strength: float
    rows: Floats
    vectors: Floats
    shrink: Floats
    rates: Floats
    left_out: Floats
    precision: Floats

    def deviation(self, row: Floats, unknown: float) -> float:
        """Return the expected standard deviation of a new row's error; `unknown`: what columns not fitted add to its square."""
        shared = self.vectors.T @ (self.rows @ row)
        return float(np.sqrt(row @ row + unknown + self.strength - shared @ (self.shrink * shared)))


def _best_ridge(design: Floats, times: Floats, strengths: Sequence[float]) -> _Ridge:
    """Fit by each strength, and return the fit with the least squared error of networks left out.

    With K = rows @ rows.T + strength: rates = rows.T @ K^-1 @ 1 (Hoerl & Kennard 1970, in its dual form), and a network left
    out is wrong by (K^-1 @ 1)_i / (K^-1)_ii, with variance 1 / (K^-1)_ii. Sources: Rasmussen & Williams 2006, equations 2.25
    and 5.12; the sum of squares is Allen's PRESS (Technometrics 16(1), 1974).
    """
    rows = design / times[:, None]
    values, vectors = np.linalg.eigh(rows @ rows.T)
    found = []
    for strength in strengths:
        shrink = 1 / (np.maximum(values, 0) + strength)
        weights = vectors @ (shrink * vectors.sum(axis=0))
        precision = (vectors * vectors) @ shrink
        found.append(_Ridge(strength, rows, vectors, shrink, rows.T @ weights, weights / precision, precision))
    return min(found, key=lambda fitted: float(np.sum(fitted.left_out**2)))


def _accuracy(times: Floats, fitted: _Ridge) -> Accuracy:
    predicted = times * (1 - fitted.left_out)
    first, second = (np.argsort(np.argsort(values)) for values in (predicted, times))
    return Accuracy(
        networks=len(times),
        spearman=float(np.corrcoef(first, second)[0, 1]),
        median_error=float(np.median(np.abs(fitted.left_out))),
    )
