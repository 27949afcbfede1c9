"""Which choices of a space mattered in a run: main effects with intervals, from its trained networks alone."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.figure import Figure

from nas import catalog
from nas.errors import RunError
from nas.report.read import RunView
from nas.runs import write_bytes
from nas.space import Domain, choices

PER_PARAMETER = 3
"""Networks for each number that is fitted; with fewer, intervals are as wide as what they are to bound."""

SHOWN = 24
"""Effects in the picture, the largest first."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Span:
    """An effect with the half width of its 95 % interval."""

    value: float
    half: float

    @property
    def seen(self) -> bool:
        """Whether the interval leaves 0 out."""
        return abs(self.value) > self.half


@dataclass(frozen=True)
class Effect:
    """What one choice rather than another brings, the others as they are.

    Args:
        name: Of the choice, as `s2.expand_ratio`; without a stage where it is over all of them. words: `4 rather than 1`.
        reward, accuracy: Differences. log_time: Of the natural logarithm of the step time over the baseline's.
        share: Of the variance of the reward that the choice explains beside the others, luck taken off (omega squared).
    """

    name: str
    words: str
    reward: Span
    accuracy: Span
    log_time: Span
    share: float


@dataclass(frozen=True)
class Effects:
    """The main effects of a run.

    Args:
        networks: Trained to the end. effects: By falling size of what they do to the reward.
        fitted: Share of the variance of the reward that all explain together, luck taken off (adjusted R squared).
        pooled: Whether a choice is taken together over all stages, for want of networks: the effect is then that in one stage,
            on average. needed: Networks that effects by stage take.
    """

    networks: int
    effects: tuple[Effect, ...]
    fitted: float
    pooled: bool
    needed: int

    def seen(self) -> list[Effect]:
        """Return the effects on the reward whose intervals leave 0 out."""
        return [effect for effect in self.effects if effect.reward.seen]


def effects(view: RunView) -> Effects | None:
    """Return the main effects of a run's choices; None where too few networks were trained to the end to see any.

    Least squares of an additive model. An ordered choice has one number, from its lowest value to its highest, which misses
    what is best in the middle; a category has one for each value beyond the first. Intervals hold under unequal scatter
    (HC3: MacKinnon & White 1985, Journal of Econometrics 29(3)). Where there are fewer than three networks a number, choices
    of the same kind are taken together over all stages. Choices that a network masks count as they were made.
    """
    file = view.run.path("space.yaml")
    rows = view.trained().drop_duplicates("arch_hash", keep="last")
    if not file.is_file() or len(rows) < PER_PARAMETER * 2:
        return None
    single = _columns(rows, choices(catalog.load_space(file)))
    needed = PER_PARAMETER * (len(single) + 1)
    possible = [
        (pooled, columns)
        for pooled, columns in ((False, single), (True, _over_stages(single)))
        if _fits(columns, len(rows))
    ]
    if not possible:
        return None
    pooled, columns = possible[0]
    design = _design(columns, len(rows))
    accuracy, reward = (rows[name].to_numpy(dtype=float) for name in ("val_accuracy", "reward"))
    log_time = np.log((rows["step_time_ms"] / rows["ref_step_time_ms"]).to_numpy(dtype=float))
    spans = [_fit(design, target) for target in (reward, accuracy, log_time)]
    rest = _rest(design, reward)
    total = float(((reward - reward.mean()) ** 2).sum())
    mean_rest = rest / (len(rows) - design.shape[1])
    found = []
    for place, (name, words) in enumerate(columns, 1):
        same = [index for index, (other, _) in enumerate(columns, 1) if other == name]
        without = _rest(np.delete(design, same, axis=1), reward)
        share = (without - rest - len(same) * mean_rest) / (total + mean_rest) if total else 0.0
        found.append(Effect(name, words, spans[0][place], spans[1][place], spans[2][place], max(0.0, share)))
    found.sort(key=lambda effect: -abs(effect.reward.value))
    fitted = 1 - mean_rest * (len(rows) - 1) / total if total else 0.0
    return Effects(len(rows), tuple(found), max(0.0, fitted), pooled, needed)


def _design(columns: Mapping[tuple[str, str], Floats], networks: int) -> Floats:
    return np.column_stack([np.ones(networks), *columns.values()])


def _fits(columns: Mapping[tuple[str, str], Floats], networks: int) -> bool:
    """Return whether there are networks enough, and no two choices that always went together."""
    design = _design(columns, networks)
    width = design.shape[1]
    return 1 < width <= networks / PER_PARAMETER and bool(np.linalg.matrix_rank(design) == width)


def parameters(view: RunView) -> int:
    """Return how many networks the coarsest effects would take, for the sentence that there are too few."""
    rows = view.trained()
    file = view.run.path("space.yaml")
    if not file.is_file():
        return 0
    return PER_PARAMETER * (len(_over_stages(_columns(rows, choices(catalog.load_space(file))))) + 1)


def _columns(rows: pd.DataFrame, asked: Mapping[str, Domain]) -> dict[tuple[str, str], Floats]:
    """Return a column for each number that is fitted, by the name of its choice and what it compares; constant ones left out."""
    found: dict[tuple[str, str], Floats] = {}
    for name, domain in asked.items():
        if f"param:{name}" not in rows:
            continue
        cells = rows[f"param:{name}"]
        first = domain.values[0]
        if domain.ordered:
            last = domain.values[-1]
            places = pd.to_numeric(cells, errors="coerce").to_numpy(dtype=float)
            if not ((places >= 0) & (places < len(domain.values))).all():
                raise RunError(
                    f"trials.csv: param:{name}: found a value that is no place among the {len(domain.values)} of this choice. "
                    "Have the table written again: continue the run."
                )
            found[name, f"{_text(last)} rather than {_text(first)}"] = places / (len(domain.values) - 1)
            continue
        texts = cells.astype(str)
        for value in domain.values[1:]:
            found[name, f"{value} rather than {first}"] = np.asarray(texts == str(value), dtype=float)
    return {key: column for key, column in found.items() if len(column) and np.ptp(column) > 0}


def _over_stages(columns: Mapping[tuple[str, str], Floats]) -> dict[tuple[str, str], Floats]:
    """Return the sums of columns of the same kind of choice: their effect is that of the choice in one stage, on average."""
    kinds: dict[str, list[tuple[str, Floats]]] = {}
    words: dict[str, set[str]] = {}
    for (name, text), column in columns.items():
        kind = name.rpartition(".")[2]
        key = f"{kind}={text.split(' ')[0]}" if not _is_number(text) else kind
        kinds.setdefault(key, []).append((text, column))
        words.setdefault(key, set()).add(text)
    return {
        (key.partition("=")[0], words[key].pop() if len(words[key]) == 1 else "highest rather than lowest"): np.sum(
            [column for _, column in parts], axis=0
        )
        for key, parts in kinds.items()
    }


def _is_number(text: str) -> bool:
    return text[:1].isdigit()


def _text(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _fit(design: Floats, target: Floats) -> list[Span]:
    """Return the fitted numbers with the half widths of their 95 % intervals."""
    inverse = np.linalg.inv(design.T @ design)
    fitted = inverse @ design.T @ target
    leverage = np.clip(np.einsum("ij,jk,ik->i", design, inverse, design), 0, 1 - 1e-6)
    weights = ((target - design @ fitted) / (1 - leverage)) ** 2
    variance = np.diag(inverse @ (design.T * weights) @ design @ inverse)
    return [Span(float(value), 1.96 * math.sqrt(max(0.0, own))) for value, own in zip(fitted, variance, strict=True)]


def _rest(design: Floats, target: Floats) -> float:
    fitted = np.linalg.lstsq(design, target, rcond=None)[0]
    return float(((target - design @ fitted) ** 2).sum())


def write_effects(found: Effects, path: Path) -> None:
    """Draw the largest effects on reward, accuracy and step time with their intervals, as a PNG.

    Raises:
        RunError: the file cannot be written.
    """
    shown = found.effects[:SHOWN][::-1]
    figure = Figure(figsize=(9.5, 1.2 + 0.26 * len(shown)), dpi=130, layout="constrained")
    panels = figure.subplots(1, 3, sharey=True)
    labels = [f"{effect.name}  {effect.words}" for effect in shown]
    columns: Sequence[tuple[str, list[Span]]] = (
        ("reward", [effect.reward for effect in shown]),
        ("accuracy", [effect.accuracy for effect in shown]),
        ("step time, %", [percent(effect.log_time) for effect in shown]),
    )
    for axes, (title, spans) in zip(panels, columns, strict=True):
        axes.axvline(0, color="0.6", lw=0.8)
        for place, span in enumerate(spans):
            axes.errorbar(
                [span.value],
                [place],
                xerr=[span.half],
                fmt="o",
                ms=4,
                lw=1.2,
                color="#4878a8" if span.seen else "0.7",
            )
        axes.set_title(title, fontsize=10)
        axes.grid(axis="x", alpha=0.3)
        axes.tick_params(labelsize=8)
    panels[0].set_yticks(range(len(labels)), labels)
    figure.suptitle(f"main effects with 95 % intervals, {found.networks} networks; grey: not told from 0", fontsize=9)
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    write_bytes(path, picture.getvalue())


def percent(span: Span) -> Span:
    """Return an effect on a logarithm as a percentage, with the half width of the upper side, which is the wider one."""
    value = math.exp(span.value) - 1
    return Span(100 * value, 100 * (1 + value) * math.expm1(span.half))
