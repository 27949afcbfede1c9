"""What stopping networks early has cost and saved in a run, from its records alone. Nothing is trained.

A few of the networks that the pruner wants to stop are trained to the end all the same (`nas.search.stopping`). How these
end is all that a run can know of what it has lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import comb

import pandas as pd

from nas.objective import Candidate, Reward, score_of
from nas.report.ranking import kendall_tau
from nas.report.read import RunView


@dataclass(frozen=True)
class Rung:
    """The end of a phase that is not the last.

    Args:
        reached: Networks of this run that were trained up to it. stopped: Those of them that the pruner wanted to stop here.
        audited: Those of the stopped that were trained on all the same.
        tau: Kendall's tau of the reward here and the final reward, over the networks trained to the end; None below two.
            The stopped are missing in it, and they are the lowest here: over all networks it would be higher.
        trained: The networks that it is over.
    """

    phase: int
    reached: int
    stopped: int
    audited: int
    tau: float | None
    trained: int


@dataclass(frozen=True)
class Audit:
    """A network that was to be stopped and was trained on.

    Args:
        number: Of the trial. phase: At whose end it was to be stopped. rung_reward: Its reward there.
        kind: `trained`, or how it failed later. reward: At the end.
        rank: By reward among all trained to the end, from 1. finalist: Whether it is among the best `top_k` of them.
    """

    number: int
    arch_hash: str
    phase: int
    rung_reward: float
    kind: str
    reward: float | None = None
    rank: int | None = None
    finalist: bool = False


@dataclass(frozen=True)
class Stopping:
    """What is known of stopping in a run.

    Args:
        rungs: One for each phase but the last. audits: By trial. top_k: How many are finalists.
        trained: Networks trained to the end, those taken over from another run included: ranks are among them.
        bar: Reward of the network at place `top_k` of those that were not audited; None where there are fewer.
        lost: By how much the best audited network ended above the best of the others; 0 where it did not, None without
            an audit that ended.
        saved_seconds: Estimate of the phase seconds not spent: what a stopped network took for the phase it was stopped
            after, times the ratio of later phases to that phase over the networks trained to the end. None where phase
            seconds were not kept (the first runs), or nothing was trained to the end.
        spent_seconds: All seconds of this run's trials, timing included.
    """

    rungs: tuple[Rung, ...]
    audits: tuple[Audit, ...]
    top_k: int
    trained: int
    bar: float | None
    lost: float | None
    saved_seconds: float | None
    spent_seconds: float

    @property
    def stopped(self) -> int:
        """The networks that the pruner wanted to stop, audited ones included."""
        return sum(rung.stopped for rung in self.rungs)

    def highest_chance(self) -> float:
        """Return the chance of one stopped network to end above `bar` that the audits leave possible at most, at 95 %.

        It is no share of finalists among the stopped: at most `top_k` of these can be finalists, be they ever so good.
        Source: Clopper & Pearson 1934, Biometrika 26(4): the chance at which as few as were seen come in 5 % of all cases.
        """
        ended = [audit.reward for audit in self.audits if audit.reward is not None]
        seen, low, high = sum(self.bar is None or reward > self.bar for reward in ended), 0.0, 1.0
        if seen == len(ended):
            return 1.0
        for _ in range(50):
            share = (low + high) / 2
            terms = (comb(len(ended), k) * share**k * (1 - share) ** (len(ended) - k) for k in range(seen + 1))
            low, high = (share, high) if sum(terms) > 0.05 else (low, share)
        return low

    def said(self) -> list[str]:
        """Return in sentences what stopping cost and saved; none where nothing was stopped."""
        if not self.stopped:
            return []
        said = [self._cost()]
        if self.saved_seconds is not None:
            share = self.saved_seconds / (self.saved_seconds + self.spent_seconds)
            said.append(
                f"Stopping saved about {self.saved_seconds / 60:.1f} minutes, {share:.0%} of what the same networks would have "
                "taken without it: an estimate from the phase seconds of those trained to the end."
            )
        return said

    def _cost(self) -> str:
        many = f"{self.stopped} network{'s' * (self.stopped != 1)}"
        ended = [audit for audit in self.audits if audit.kind == "trained"]
        if not ended:
            tried = f" ({len(self.audits)} that went on failed)" if self.audits else ""
            return f"The pruner stopped {many}; none was trained to the end{tried}, so what that cost is not known."
        hits = sum(audit.finalist for audit in ended)
        best = f"the best {self.top_k}" if self.top_k > 1 else "the best"
        seen = f"{hits} of them came among {best}" if hits else f"none of them came among {best}"
        if len(ended) == 1:
            seen = f"it {'came' if hits else 'did not come'} among {best}"
        lost = f" and would have cost {self.lost:.4f} of reward" if self.lost else ""
        few = "; one network says little" if len(ended) == 1 else ""
        return (
            f"The pruner would have stopped {many}; {len(ended)} went on to the end to see what that costs: {seen}{lost}. The "
            f"chance of one stopped network to come there is at most {self.highest_chance():.0%} (95 %){few}."
        )


def stopping_of(view: RunView) -> Stopping:
    """Return what is known of stopping in a run on the disk."""
    manifest = view.run.manifest
    phases, top_k = manifest["recipe"]["progressive"]["phases"], manifest["config"]["top_k"]
    return stopping(view.trials, view.reward, phases=phases, top_k=top_k)


def stopping(trials: pd.DataFrame, reward: Reward, *, phases: int, top_k: int) -> Stopping:
    """Return what is known of stopping in a run.

    Args:
        trials: `RunView.trials`, or `nas.search.record.table` of records. Duplicates are no networks, and networks taken
            over from another run were not judged by this one; tables of the first runs lack some columns.
        reward: The run's score. phases: Of its recipe. top_k: How many are finalists.
    """
    rows = trials[trials["kind"] != "duplicate"]
    best = rows[rows["kind"] == "trained"].sort_values("reward", ascending=False, kind="stable")
    ranks = {int(number): rank for rank, number in enumerate(best["number"], 1)}
    own = rows[rows["origin"].isna() | (rows["origin"] == "")] if "origin" in rows else rows
    networks = [_network({str(name): cell for name, cell in row.items()}, reward) for row in own.to_dict("records")]
    audits = tuple(
        Audit(
            number=item.number,
            arch_hash=item.arch_hash,
            phase=item.audited,
            rung_reward=item.rewards[item.audited - 1],
            kind=item.kind,
            reward=item.rewards[-1] if item.kind == "trained" else None,
            rank=ranks.get(item.number),
            finalist=ranks.get(item.number, top_k + 1) <= top_k,
        )
        for item in networks
        if item.audited
    )
    ended = [audit.reward for audit in audits if audit.reward is not None]
    others = set(ranks) - {audit.number for audit in audits}
    above = [float(value) for number, value in zip(best["number"], best["reward"], strict=True) if number in others]
    return Stopping(
        rungs=tuple(_rung(networks, phase) for phase in range(1, phases)),
        audits=audits,
        top_k=top_k,
        trained=len(ranks),
        bar=above[top_k - 1] if len(above) >= top_k else None,
        lost=max(0.0, max(ended) - max(above)) if ended and above else None,
        saved_seconds=_saved(networks, phases),
        spent_seconds=float(own["seconds"].sum()),
    )


@dataclass(frozen=True)
class _Network:
    """A row: rewards at the end of each phase trained; seconds of each phase, phase 0 first; `audited` is 0 for no."""

    number: int
    arch_hash: str
    kind: str
    rewards: tuple[float, ...]
    seconds: tuple[float, ...]
    audited: int

    def stopped_after(self) -> int:
        """Return the phase at whose end the pruner wanted to stop it; 0 for none."""
        return len(self.rewards) if self.kind == "pruned" else self.audited


def _network(row: dict[str, object], reward: Reward) -> _Network:
    accuracies = _numbers(row.get("phase_accuracy"))
    rewards: tuple[float, ...] = ()
    if accuracies:
        names = ("val_accuracy", "val_error", "step_time_ms", "ref_step_time_ms", "num_params")
        last = Candidate(str(row["arch_hash"]), *(float(str(row[name])) for name in names))
        rounded = [replace(last, val_accuracy=accuracy) for accuracy in accuracies[:-1]]
        rewards = tuple(score_of(item, reward) for item in (*rounded, last))
    audited = str(row.get("audited") or "")
    return _Network(
        number=int(str(row["number"])),
        arch_hash=str(row["arch_hash"]),
        kind=str(row["kind"]),
        rewards=rewards,
        seconds=_numbers(row.get("phase_seconds")),
        audited=int(audited.removeprefix("phase ")) if audited.startswith("phase ") else 0,
    )


def _numbers(cell: object) -> tuple[float, ...]:
    """Read `0.61 0.73`; a cell of a table that is empty is no text."""
    if cell is None or cell != cell:
        return ()
    return tuple(float(part) for part in str(cell).split())


def _rung(networks: Sequence[_Network], phase: int) -> Rung:
    reached = [item for item in networks if len(item.rewards) >= phase]
    stopped = [item for item in reached if item.stopped_after() == phase]
    trained = sorted((item for item in reached if item.kind == "trained"), key=lambda item: item.rewards[phase - 1])
    # Rewards hold measured times, so no two are equal and the order here is one order.
    tau = kendall_tau([item.rewards[-1] for item in trained]) if len(trained) > 1 else None
    audited = sum(item.audited == phase for item in stopped)
    return Rung(phase, len(reached), len(stopped), audited, tau, len(trained))


def _saved(networks: Sequence[_Network], phases: int) -> float | None:
    whole = [item.seconds for item in networks if item.kind == "trained" and len(item.seconds) == phases + 1]
    if not whole:
        return None
    totals = [sum(seconds[phase] for seconds in whole) for phase in range(phases + 1)]
    found = 0.0
    for item in networks:
        if item.kind == "pruned" and item.seconds:
            last = len(item.seconds) - 1
            found += item.seconds[last] * sum(totals[last + 1 :]) / totals[last]
    return found
