"""What was seen during a timing, in the records of a run."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

from nas.cost import Conditions, Measurement
from nas.search.loop import costs
from nas.search.record import TrialRecord

SEEN = Conditions(clock_mhz=1980.0, foreign_load=0.125, turns=5, note="measured on a busy machine", absent="no power")


def test_a_record_has_clock_load_and_note() -> None:
    time = Measurement(3.0, "ms", 0.1, 5, "cpu", SEEN)
    found = costs({"step_time_ms": time, "ref_step_time_ms": time})
    assert (found["step_time_clock_mhz"], found["step_time_foreign_load"]) == (1980, 0.125)
    assert found["step_time_note"] == "measured on a busy machine; no power"
    record = replace(TrialRecord(0, "trained", "a", "b"), **found)  # type: ignore[arg-type]
    assert record.attributes()["step_time_note"] == record.step_time_note
    assert TrialRecord(**json.loads(json.dumps(asdict(record)))) == record


def test_a_record_of_an_undisturbed_or_older_timing_has_none() -> None:
    for conditions in (None, Conditions(turns=5)):
        found = costs({"step_time_ms": Measurement(3.0, "ms", 0.1, 5, "cpu", conditions)})
        assert set(found) == {"step_time_ms", "step_time_mad_ms", "step_time_n"}
    older = {name: value for name, value in asdict(TrialRecord(0, "trained", "a", "b")).items() if "note" not in name}
    assert TrialRecord(**older).step_time_note == ""
