"""The probe of a CPU: what it chooses from rates, what it keeps, and that its processes answer."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nas.data import Dataset
from nas.errors import DeviceError, UsageError
from nas.search import machine
from nas.search.config import SearchConfig
from nas.spec import ArchSpec
from nas.train import loop, probe
from nas.train.probe import Probe, chosen, probed, settled, splits
from nas.train.recipes import RECIPES, from_document

WAYS = {"float32 channels_last": 100.0, "float32 contiguous": 70.0, "bfloat16 channels_last": 60.0}


def test_all_cores_in_one_process_are_tried_and_one_core_for_each_as_far_as_memory_goes() -> None:
    assert splits(2, 1e6) == [(1, 2), (2, 1)]
    assert splits(64, 1e6) == [(1, 64), (8, 8)]
    assert splits(4, 3500) == [(1, 4), (2, 2)]
    assert splits(1, 1e6) == [(1, 1)]
    assert splits(4, 500) == [(1, 4)]


@pytest.mark.parametrize(
    ("rates", "expected"),
    [
        ({"1x2": 100.0, "2x1": 109.0}, (1, 2)),  # less than a tenth is noise
        ({"1x2": 100.0, "2x1": 111.0}, (2, 1)),
    ],
)
def test_workers_are_chosen_only_where_they_gain_a_tenth(rates: dict[str, float], expected: tuple[int, int]) -> None:
    found = chosen({"ways": WAYS, "splits": rates})
    assert (found.workers, found.threads) == expected
    assert (found.precision, found.layout) == ("float32", "channels_last")


def test_low_precision_and_another_layout_are_chosen_where_they_pay() -> None:
    rates = {"ways": WAYS | {"bfloat16 channels_last": 150.0}, "splits": {"1x2": 100.0}}
    assert (chosen(rates).precision, chosen(rates).layout) == ("bfloat16", "channels_last")
    rates = {"ways": WAYS | {"float32 contiguous": 115.0}, "splits": {"1x2": 100.0}}
    assert (chosen(rates).precision, chosen(rates).layout) == ("float32", "contiguous")


def test_the_sentence_says_what_is_gained_over_one_worker() -> None:
    assert (
        "2 workers of 1 thread train 1.50 times"
        in chosen({"ways": WAYS, "splits": {"1x2": 100, "2x1": 150}}).sentence()
    )
    assert "one worker is best" in chosen({"ways": WAYS, "splits": {"1x2": 100, "2x1": 50}}).sentence()


def test_what_is_kept_is_not_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAS_CACHE", str(tmp_path))
    rates = {"ways": WAYS, "splits": {"1x2": 100.0, "2x1": 150.0}}
    asked: list[int] = []

    def measured() -> dict[str, dict[str, float]]:
        asked.append(1)
        return rates

    monkeypatch.setattr(probe, "measured", measured)
    said: list[str] = []
    first = probed(said.append)
    assert probed(said.append) == first and len(asked) == len(said) == 1
    assert probed(anew=True) == first and len(asked) == 2
    # Another quota of cores is another machine.
    monkeypatch.setattr(probe, "usable_cores", lambda: 77)
    probed()
    assert len(asked) == 3


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"workers": 1}'])
def test_what_is_kept_and_damaged_is_measured_again(
    content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NAS_CACHE", str(tmp_path))
    monkeypatch.setattr(probe, "measured", lambda: {"ways": WAYS, "splits": {"1x2": 100.0}})
    probe.file().write_text(content)
    assert probed().rates["1x2"] == 100.0
    assert Probe(**json.loads(probe.file().read_text())) == probed()


def test_a_process_that_dies_is_an_error_that_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "COMMAND", (sys.executable, "-c", "pass"))
    with pytest.raises(DeviceError, match=r"What pays on this CPU cannot be measured: its process ended"):
        probe.measured()


def test_a_process_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "COMMAND", (sys.executable, "-c", "import time; time.sleep(600)"))
    monkeypatch.setattr(probe, "LIMIT_S", 0.3)
    with pytest.raises(DeviceError, match="cannot be measured"):
        probe.measured()


def test_a_search_goes_on_where_nothing_can_be_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> Probe:
        raise DeviceError("What pays on this CPU cannot be measured.")

    monkeypatch.setattr(machine, "probed", fails)
    said: list[str] = []
    config, recipe = machine.on_this_cpu(SearchConfig(devices="cpu:auto"), RECIPES["quick"], said.append, lambda: None)
    assert (config.devices, recipe) == ("cpu", RECIPES["quick"])
    assert said == ["What pays on this CPU cannot be measured. Until then: one worker, float32, channels last."]


def test_as_many_workers_as_pay_are_started_where_that_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    found = Probe(3, 1, "channels_last", "bfloat16", {})
    monkeypatch.setattr(machine, "probed", lambda *_: found)
    for devices, expected in (("cpu:auto", "cpu:3"), ("cpu", "cpu"), ("cpu:2", "cpu:2")):
        config, recipe = machine.on_this_cpu(SearchConfig(devices=devices), RECIPES["quick"], print, lambda: None)
        assert (config.devices, recipe.precision, recipe.layout) == (expected, "bfloat16", "auto")


def test_a_recipe_keeps_what_it_says_itself() -> None:
    found = Probe(1, 1, "contiguous", "bfloat16", {})
    quick = RECIPES["quick"]
    assert (settled(quick, found).precision, settled(quick, found).layout) == ("bfloat16", "contiguous")
    # What is usual is not written down, so that runs from before compare.
    assert settled(quick, Probe(1, 1, "channels_last", "float32", {})) == quick
    own = replace(quick, precision="float32", layout="channels_last")
    assert settled(own, found) == own


def test_a_recipe_that_leaves_it_open_reads_and_writes_as_before() -> None:
    quick = RECIPES["quick"]
    assert not {"precision", "layout"} & set(quick.document())
    assert from_document(quick.document(), "manifest") == quick
    own = replace(quick, precision="bfloat16")
    assert from_document(own.document(), "manifest") == own
    with pytest.raises(UsageError, match=r"precision: found 'float16'; allowed: auto, float32 or bfloat16"):
        from_document({"precision": "float16"}, "r.yaml")


@pytest.mark.parametrize(
    ("precision", "device", "low"),
    [("auto", "cuda", True), ("auto", "cpu", False), ("float32", "cuda", False), ("bfloat16", "cpu", True)],
)
def test_the_forward_pass_is_low_where_the_recipe_says_so(precision: str, device: str, low: bool) -> None:
    assert replace(RECIPES["quick"], precision=precision).is_low(device) is low


def test_layout_changes_no_result_and_precision_a_little(tiny_spec: ArchSpec, tiny_data: Dataset) -> None:
    device = torch.device("cpu")
    losses = {}
    for name, changes in {
        "usual": {},
        "contiguous": {"layout": "contiguous"},
        "low": {"precision": "bfloat16"},
    }.items():
        recipe = replace(RECIPES["quick"], batch_size=16, **changes)
        data = loop.to_device(tiny_data, recipe, device)
        state = loop.start(tiny_spec, recipe, device, seed=0)
        last = name != "contiguous"
        weights = [p for p in state.network.parameters() if p.ndim == 4 and min(p.shape[1:3]) > 1]
        assert all(p.is_contiguous(memory_format=torch.channels_last) is last for p in weights)
        step = loop.timing_step(state, data, recipe, 16)
        torch.manual_seed(0)  # drop path
        losses[name] = float(step())
    assert losses["contiguous"] == pytest.approx(losses["usual"], rel=1e-4)
    assert losses["low"] != losses["usual"]
    assert losses["low"] == pytest.approx(losses["usual"], rel=0.05)


def test_a_process_of_the_probe_answers_each_task_with_a_rate() -> None:
    tasks = [
        {"precision": precision, "layout": layout, "threads": 1, "seconds": 0.01}
        for precision, layout in (("float32", "channels_last"), ("bfloat16", "channels_last"))
    ]
    threads = torch.get_num_threads()
    answers = io.StringIO()
    try:
        probe.serve(io.StringIO("".join(json.dumps(task) + "\n" for task in tasks)), answers)
    finally:
        torch.set_num_threads(threads)
    assert len(rates := [float(line) for line in answers.getvalue().split()]) == 2
    assert all(rate > 0 for rate in rates)


_FAULTS = """
import resource, sys, torch
from nas.host import keep_freed_memory
if sys.argv[1] == "keep" and not keep_freed_memory():
    print("absent")
    sys.exit()
def work():
    for _ in range(10):
        torch.empty(40 * 2**20 // 4).fill_(1.0)
work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def test_memory_that_is_kept_is_not_mapped_again() -> None:
    """Ten tensors of 40 MiB, which the C library always maps by themselves, are 100,000 pages, or 200 huge ones."""
    found = {}
    for how in ("keep", "plain"):
        run = subprocess.run([sys.executable, "-c", _FAULTS, how], capture_output=True, text=True, check=True)
        found[how] = run.stdout.strip()
    if found["keep"] == "absent":
        pytest.skip("this C library has no mallopt")
    assert int(found["keep"]) < 100 < int(found["plain"])
