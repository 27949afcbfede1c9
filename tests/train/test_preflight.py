"""The check before a run, on a CPU: what it sees of steps that differ, and how the process that does it is asked."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from io import StringIO

import pytest
import torch

from nas.errors import DeviceError
from nas.spec import ArchSpec
from nas.train import preflight
from nas.train.graphs import WARMUP, Work
from nas.train.preflight import STEPS, Trace, difference, disagreement, serve, trace
from nas.train.recipes import RECIPES, Recipe

CPU = torch.device("cpu")
RECIPE = replace(RECIPES["quick"], batch_size=16)


class Replayed:
    """Stands where `Graphs` does, does the work itself, and from the first replay on does it wrongly, if asked to."""

    def __init__(self, wrong: str = "") -> None:
        self.wrong = wrong

    @contextmanager
    def stepping(self, work: Work) -> Iterator[Callable[[], object]]:
        places, groups = work.places, work.optimizer.param_groups
        assert places is not None and groups[0]["lr"] is places.rate
        index, rate = places.index.clone(), places.rate.clone()

        def step() -> None:
            if work.warm < WARMUP or not self.wrong:
                index.copy_(places.index)
                work()
                rate.copy_(places.rate)
                return
            if self.wrong == "index":
                places.index.copy_(index)
            for group in groups:
                group["lr"] = rate if self.wrong == "rate" else places.rate
            work()
            for group in groups:
                group["lr"] = places.rate
            if self.wrong == "random":
                torch.rand(1)
            if self.wrong == "order":
                torch.rand(1, generator=work.generators[0])
            if self.wrong == "count":
                places.done.sub_(1)

        yield step


def test_steps_in_places_do_what_plain_ones_do(tiny_spec: ArchSpec) -> None:
    plain = trace(CPU, tiny_spec, RECIPE, None)
    assert len(plain.losses) == STEPS > WARMUP and len(set(plain.losses)) == STEPS
    assert plain.counts == [[number + 1] for number in range(STEPS)]
    assert len(set(plain.random)) == STEPS, "dropout and drop path draw in every step"
    assert len(plain.images) == STEPS + 1 and len(set(map(tuple, plain.images))) == STEPS + 1
    assert difference(plain, plain, trace(CPU, tiny_spec, RECIPE, Replayed())) == ""
    bare = replace(tiny_spec, dropout=0.0, drop_path=0.0)
    assert len(set(trace(CPU, bare, RECIPE, None).random)) == STEPS


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("rate", r"move of the weights \d is .* with them and .* without"),
        ("index", "the images of step 4 differ with them"),
        ("order", "the images of step 5 differ with them"),
        ("random", "torch's generator of step 4 differs with them"),
        ("count", "the count of step 4 differs with them"),
    ],
)
def test_what_a_graph_froze_is_seen(tiny_spec: ArchSpec, wrong: str, said: str) -> None:
    plain = trace(CPU, tiny_spec, RECIPE, None)
    found = difference(plain, plain, trace(CPU, tiny_spec, RECIPE, Replayed(wrong)))
    assert re.fullmatch(said, found)


@pytest.mark.parametrize(
    ("graphed", "said"),
    [
        ([2.0, 1.9, 1.8], ""),
        ([2.0, 1.95, 1.85], ""),
        ([2.0, 1.9, 1.95], "loss 3 is 1.95 with them and 1.8 without"),
        ([2.0, float("nan"), 1.8], "loss 2 is nan with them and 1.9 without"),
    ],
)
def test_losses_may_differ_by_rounding_only(graphed: list[float], said: str) -> None:
    def of(losses: list[float], rate: float = 0.1) -> Trace:
        return Trace(losses, [1.0] * 3, [rate] * 3, [[0]] * 4, [[1]] * 3, [b""] * 3)

    plain = of([2.0, 1.9, 1.8])
    assert difference(plain, plain, of(graphed)) == said
    scattered = difference(plain, of([2.0, 1.9, 1.78]), of(graphed))
    assert scattered == ("" if said.startswith("loss 3") else said), "eager steps that scatter allow for more"
    assert difference(plain, plain, of([2.0, 1.9, 1.8], 0.1 + 1e-9)) == ""
    assert difference(plain, plain, of([2.0, 1.9, 1.8], 0.2)) == "rate 1 is 0.2 with them and 0.1 without"


def asked(monkeypatch: pytest.MonkeyPatch, spec: ArchSpec, code: str) -> str:
    """Return the reason where some code stands for the process of the check."""
    monkeypatch.setattr(preflight, "COMMAND", (sys.executable, "-c", code))
    return disagreement(CPU, spec, RECIPE)


def test_a_process_that_dies_hangs_or_talks_nonsense_is_a_reason(
    tiny_spec: ArchSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    died = asked(monkeypatch, tiny_spec, "import sys; sys.exit('first\\nno kernel\\nimage is available')")
    assert died == "the process that tried them failed with 1 (first / no kernel / image is available)"
    killed = asked(monkeypatch, tiny_spec, "import os; os.kill(os.getpid(), 9)")
    assert killed == "the process that tried them was ended by signal 9 (it said nothing)"
    agreed = 'print(\'{"why": "", "full": false}\')'
    assert "failed with 7" in asked(monkeypatch, tiny_spec, f"import os; {agreed}; os.sys.stdout.flush(); os._exit(7)")
    for nonsense in ("hello", "", "[]", '"why"', '{"why": ""}'):
        assert "gave no answer that can be read" in asked(monkeypatch, tiny_spec, f"print({nonsense!r})")
    monkeypatch.setattr(preflight, "SECONDS", 0.5)
    slow = asked(monkeypatch, tiny_spec, "import time; time.sleep(60)")
    assert slow == "the process that tried them did not answer within 0.5 s"
    monkeypatch.setattr(preflight, "COMMAND", ("/no/such/python",))
    assert "cannot be started (No such file or directory)" in disagreement(CPU, tiny_spec, RECIPE)


def test_its_answer_is_taken_and_a_full_memory_is_no_disagreement(
    tiny_spec: ArchSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answered(why: str, full: bool) -> str:
        return asked(monkeypatch, tiny_spec, f"print({json.dumps({'why': why, 'full': full})!r})")

    assert answered("", False) == "" and answered("loss 4 is 2", False) == "loss 4 is 2"
    with pytest.raises(
        DeviceError, match=r"cpu: the device's memory is full: .* at batch 16 and 16 pixels .*\(no room\)"
    ) as full:
        answered("no room", True)
    assert "same command again" in str(full.value) and "start a new one" not in str(full.value)


def test_the_process_is_started_without_the_callers_script(tiny_spec: ArchSpec) -> None:
    """It finds the package by this process's path, and reads the question."""
    assert disagreement(torch.device("meta"), tiny_spec, RECIPE).startswith("--devices: found 'meta'; ")


def test_a_question_is_answered(tiny_spec: ArchSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[torch.device, ArchSpec, Recipe]] = []
    question = {"device": "cpu", "spec": tiny_spec.document(), "recipe": RECIPES["standard"].document()}

    def answered(outcome: str | Exception) -> dict[str, object]:
        def compared(*what: object) -> str:
            seen.append(what)  # type: ignore[arg-type]
            if isinstance(outcome, Exception):
                raise outcome
            return outcome

        monkeypatch.setattr(preflight, "compared", compared)
        answers = StringIO()
        serve(StringIO(json.dumps(question)), answers)
        return json.loads(answers.getvalue())  # type: ignore[no-any-return]

    assert answered("") == {"why": "", "full": False}
    assert seen[0][0] == CPU and seen[0][1] == tiny_spec and seen[0][2] == RECIPES["standard"]
    assert answered("loss 4 is 2") == {"why": "loss 4 is 2", "full": False}
    broken = RuntimeError("operation not permitted when stream is capturing\nmore")
    assert answered(broken) == {"why": "operation not permitted when stream is capturing", "full": False}
    assert answered(RuntimeError()) == {"why": "RuntimeError", "full": False}
    assert answered(torch.OutOfMemoryError("CUDA out of memory.\nmore")) == {"why": "CUDA out of memory.", "full": True}


def test_both_ways_are_compared(tiny_spec: ArchSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight.Graphs, "on", lambda device: Replayed())
    assert preflight.compared(CPU, tiny_spec, RECIPE) == ""
    monkeypatch.setattr(preflight.Graphs, "on", lambda device: Replayed("rate"))
    assert "move of the weights" in preflight.compared(CPU, tiny_spec, RECIPE)
