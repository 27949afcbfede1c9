"""What a run says of stopping early, on tables made by hand."""

from __future__ import annotations

import io
from typing import Any

import pandas as pd
import pytest

from nas.objective import Reward
from nas.report import load_run, stopping, stopping_of
from nas.search.record import TrialRecord, table

REWARD = Reward(0, 0, 1e6)  # the reward is the accuracy


def trial(number: int, kind: str, *accuracies: float, seconds: str = "", **more: Any) -> TrialRecord:
    last = accuracies[-1] if accuracies else None
    total = sum(map(float, seconds.split()))
    return TrialRecord(
        number, kind, f"{number:016d}", "net", reward=last, val_accuracy=last, val_error=0.01, step_time_ms=10.0,
        ref_step_time_ms=10.0, num_params=1e6, phase_accuracy=" ".join(map(str, accuracies)), phase_seconds=seconds,
        seconds=total, **more,
    )  # fmt: skip


TRIALS = [
    trial(0, "trained", 0.50, 0.60, seconds="1 10 20"),
    trial(1, "trained", 0.55, 0.65, seconds="1 10 40"),
    trial(2, "trained", 0.45, 0.70, seconds="1 20 60"),
    trial(3, "pruned", 0.30, seconds="1 5"),
    trial(4, "pruned", 0.20, seconds="2 15"),
    trial(5, "trained", 0.40, 0.68, seconds="1 10 40", audited="phase 1"),
    trial(6, "diverged", 0.52, seconds="1 10 3"),
    trial(7, "infeasible", seconds="1"),
    trial(8, "duplicate", 0.30, duplicate_of=3),
    trial(9, "trained", 0.9, 0.95, origin="other trial 0"),
]


def both(trials: list[TrialRecord]) -> list[pd.DataFrame]:
    """The table of records, and the same from a file, as a published run has it."""
    frame = table(trials)
    again = io.StringIO(frame.to_csv(index=False))
    return [frame, pd.read_csv(again, dtype={"arch_hash": str, "phase_accuracy": str})]


@pytest.mark.parametrize("frame", both(TRIALS), ids=["records", "file"])
def test_the_values_of_a_made_table(frame: pd.DataFrame) -> None:
    found = stopping(frame, REWARD, phases=2, top_k=3)
    (rung,) = found.rungs
    assert (rung.phase, rung.reached, rung.stopped, rung.audited, rung.trained) == (1, 7, 3, 1, 4)
    # At the rung 5 < 2 < 0 < 1, at the end 0 < 1 < 5 < 2: of six pairs (5, 2) and (0, 1) keep their order.
    assert rung.tau == pytest.approx((2 - 4) / 6)
    (audit,) = found.audits
    assert (audit.number, audit.phase, audit.kind, audit.rung_reward, audit.reward) == (5, 1, "trained", 0.40, 0.68)
    assert (audit.rank, audit.finalist, found.trained) == (3, True, 5), "behind the one taken over, and trial 2"
    assert found.stopped == 3 and found.lost == 0
    # Networks trained to the end took 160 s for phase 2 and 50 s for phase 1: 3.2 times as long.
    assert found.saved_seconds == pytest.approx((5 + 15) * 3.2)
    assert found.spent_seconds == pytest.approx(31 + 51 + 81 + 6 + 17 + 51 + 14 + 1)
    cost, saved = found.said()
    assert "would have stopped 3 networks; 1 went on to the end" in cost
    assert "it came among the best 3. The chance of one stopped network to come there is at most 100% (95 %)" in cost
    assert "one network says little" in cost
    assert saved.startswith("Stopping saved about 1.1 minutes, 20% of") and "an estimate" in saved


def test_a_network_that_would_have_been_lost_is_told_with_its_price() -> None:
    trials = [*TRIALS[:5], trial(5, "trained", 0.40, 0.74, audited="phase 1")]
    found = stopping(table(trials), REWARD, phases=2, top_k=1)
    assert found.lost == pytest.approx(0.04) and found.audits[0].rank == 1
    assert "it came among the best and would have cost 0.0400 of reward" in found.said()[0]


@pytest.mark.parametrize(
    ("trials", "words"),
    [
        (TRIALS[:5], "stopped 2 networks; none was trained to the end, so what that cost is not known"),
        (
            [*TRIALS[:5], trial(5, "diverged", 0.4, audited="phase 1")],
            "stopped 3 networks; none .* (1 that went on failed)",
        ),
        ([*TRIALS[:4]], "stopped 1 network; none"),
    ],
)
def test_without_an_audit_that_ended_nothing_is_claimed(trials: list[TrialRecord], words: str) -> None:
    found = stopping(table(trials), REWARD, phases=2, top_k=3)
    assert found.lost is None
    for part in words.split(" .* "):
        assert part in found.said()[0]
    assert "%" not in found.said()[0]


def test_nothing_stopped_is_nothing_said() -> None:
    found = stopping(table(TRIALS[:3]), REWARD, phases=2, top_k=3)
    assert found.said() == [] and found.rungs[0].stopped == 0 and found.rungs[0].tau is not None
    assert stopping(table(TRIALS[:3]), REWARD, phases=1, top_k=3).rungs == ()


def test_phases_are_told_apart_and_their_time_adds_up() -> None:
    trials = [
        trial(0, "trained", 0.5, 0.6, 0.7, seconds="1 10 20 30"),
        trial(1, "pruned", 0.4, seconds="1 5"),
        trial(2, "pruned", 0.5, 0.4, seconds="1 10 10"),
        trial(3, "trained", 0.5, 0.4, 0.5, seconds="1 10 20 30", audited="phase 2"),
    ]
    found = stopping(table(trials), REWARD, phases=3, top_k=1)
    assert [(rung.reached, rung.stopped, rung.audited) for rung in found.rungs] == [(4, 1, 0), (3, 2, 1)]
    assert found.saved_seconds == pytest.approx(5 * 5 + 10 * 1.5)
    assert found.audits[0].rung_reward == 0.4 and not found.audits[0].finalist


@pytest.mark.parametrize(
    ("ended", "seen", "share"), [(1, 0, 0.95), (2, 0, 0.7764), (5, 0, 0.4507), (10, 1, 0.3942), (3, 3, 1)]
)
def test_the_bound_is_that_of_clopper_and_pearson(ended: int, seen: int, share: float) -> None:
    """Values of R's binom.test(seen, ended, alternative = "less")."""
    good = [trial(100 + n, "trained", 0.1, 0.9, audited="phase 1") for n in range(seen)]
    bad = [trial(200 + n, "trained", 0.1, 0.2, audited="phase 1") for n in range(ended - seen)]
    others = [trial(300 + n, "trained", 0.5, 0.5) for n in range(5)]
    found = stopping(table([*good, *bad, *others]), REWARD, phases=2, top_k=max(1, seen))
    assert found.highest_chance() == pytest.approx(share, abs=1e-3)


def test_networks_that_were_audited_do_not_push_each_other_from_the_finalists() -> None:
    """Each stopped network is held against those that were not: three of four beat the second best of these."""
    others = [trial(n, "trained", 0.5, reward) for n, reward in enumerate((0.6, 0.7, 0.8))]
    audits = [trial(10 + n, "trained", 0.1, r, audited="phase 1") for n, r in enumerate((0.9, 0.85, 0.75, 0.65))]
    found = stopping(table([*others, *audits]), REWARD, phases=2, top_k=2)
    assert found.bar == 0.7 and sum(audit.finalist for audit in found.audits) == 2
    assert found.highest_chance() == pytest.approx(0.9873, abs=1e-4), "where 1 - p ** 4 is 0.05"


def test_no_share_of_the_stopped_is_claimed_that_cannot_be() -> None:
    """Of 109 stopped, 5 went on and none was good: at most 3 of the 109 can be among the best 3, whatever the bound."""
    stopped = [trial(100 + n, "pruned", 0.1) for n in range(104)]
    audits = [trial(300 + n, "trained", 0.1, 0.2, audited="phase 1") for n in range(5)]
    found = stopping(table([*TRIALS[:3], *stopped, *audits]), REWARD, phases=2, top_k=3)
    (cost, *_) = found.said()
    assert found.stopped == 109 and "of the stopped" not in cost
    assert "none of them came among the best 3. The chance of one stopped network to come there is at most 45%" in cost


def test_a_published_run_of_before_audits_is_read(pytestconfig: pytest.Config) -> None:
    found = stopping_of(load_run(pytestconfig.rootpath / "results" / "published" / "v2_tiny-200"))
    (rung,) = found.rungs
    assert (rung.reached, rung.stopped, rung.audited, rung.trained) == (200, 96, 0, 104)
    assert found.saved_seconds is None and found.audits == () and rung.tau == pytest.approx(0.606, abs=1e-3)
