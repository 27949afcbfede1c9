"""Networks whose step time is foreseen to be far beyond the limit, so that it need not be measured.

Where a search limits `step_time_ms`, a block table is learnt from the step times that it has measured (`nas.cost.block_table`).
A new network is foreseen to be infeasible where even the lower bound of its prediction is beyond the limit. It ends so without
being timed; but the first of them and every tenth after it is timed all the same, so that the run can say how often the table was
right. A prediction is never a measurement: it fills in no `step_time_ms` and scores nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace

from nas.cost import count
from nas.cost.block_table import FAR, LEAST, Table, fit
from nas.objective import slacks
from nas.report.read import FORESEEN
from nas.runs import Run, write_json
from nas.search.record import TrialRecord
from nas.search.study import values
from nas.space import Limit, SearchSpace, choices, decode, stored_choose
from nas.spec import ArchSpec

COST = "step_time_ms"
CHECKED = 10
"""One in so many of the foreseen is timed all the same."""

MOST = 200
"""A table is fitted to so many networks at most, the last ones: its error hardly falls from 100 on, and what comes next
resembles them most."""


class Foresight:
    """The block table of one search; fitted again whenever a tenth more networks have been timed.

    Args:
        limits: Those of the search. Without an upper one on the step time nothing is foreseen.
    """

    def __init__(self, space: SearchSpace, num_classes: int, in_channels: int, limits: Sequence[Limit]) -> None:
        self._space = space
        self._classes = {"num_classes": num_classes, "in_channels": in_channels}
        self._limits = limits
        self._limit = next((limit.max for limit in limits if limit.cost == COST), None)
        self._table: Table | None = None
        self._next = LEAST

    def judged(self, record: TrialRecord, spec: ArchSpec, seen: Sequence[TrialRecord]) -> TrialRecord:
        """Return the record of a new network with what is foreseen of it: `infeasible` where it ends here.

        Args:
            seen: Records of the run so far, those in flight included.
        """
        table = None if self._limit is None else self._fitted(seen)
        if self._limit is None or table is None:
            return record
        prediction, counted = table.predict(spec), count(spec)
        broken = slacks({"num_params": counted.params, "macs": counted.macs}, self._limits)
        if prediction.low_ms <= self._limit or any(slack > 0 for slack in broken.values()):
            return record  # what breaks another limit ends in phase 0 for that, without being timed
        record = replace(record, foreseen_ms=prediction.ms)
        before = [item for item in seen if item.foreseen_ms is not None and item.duplicate_of is None]
        if len(before) % CHECKED == 0:
            return record
        return replace(
            record,
            kind="infeasible",
            num_params=float(counted.params),
            macs=float(counted.macs),
            reason=f"step_time_ms predicted {prediction.ms:.4g} ms ± {prediction.error:.0%} from {table.error.networks} "
            f"networks, at least {prediction.low_ms:.4g} ms ({FAR:g} standard errors less, and the machine at its fastest); "
            f"the limit is {self._limit:.4g} ms; not measured",
        )

    def slacks(self, record: TrialRecord) -> dict[str, float]:
        """Return how far a network that was not timed is beyond its limits, for the sampler; of any other nothing."""
        if record.kind != "infeasible" or record.foreseen_ms is None or record.step_time_ms is not None:
            return {}
        known = {"num_params": record.num_params, "macs": record.macs, COST: record.foreseen_ms}
        return slacks({name: value for name, value in known.items() if value is not None}, self._limits)

    def write(self, run: Run, found: Sequence[TrialRecord]) -> None:
        """Write down what a table of all networks timed is worth, where there is a limit and enough of them."""
        timed = _timed(found)
        if self._limit is not None and len(timed) >= LEAST:
            table = self._fit(timed)
            write_json(run.path(FORESEEN), {"table": asdict(table.error), "macs": asdict(table.macs_error)})

    def _fitted(self, seen: Sequence[TrialRecord]) -> Table | None:
        timed = _timed(seen)
        if len(timed) >= self._next:
            self._table, self._next = self._fit(timed), len(timed) + len(timed) // 10
        return self._table

    def _fit(self, timed: Sequence[TrialRecord]) -> Table:
        asked = choices(self._space)
        last = timed[-MOST:]
        return fit(
            [decode(self._space, stored_choose(values(asked, record.params)), **self._classes) for record in last],
            [record.step_time_ms or 0.0 for record in last],
            [record.ref_step_time_ms or 0.0 for record in last],
        )


def _timed(found: Sequence[TrialRecord]) -> list[TrialRecord]:
    return [
        record for record in found if record.duplicate_of is None and record.step_time_ms and record.ref_step_time_ms
    ]
