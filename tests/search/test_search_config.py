from __future__ import annotations

import json
from pathlib import Path

import pytest

import nas
from nas.errors import UnknownNameError, UsageError
from nas.search.config import SearchConfig, from_document
from nas.space import Limit


def test_a_manifest_gives_the_settings_back() -> None:
    config = SearchConfig(space="v2_tiny", budget=7, max_params="5M", out=Path("x"), w=-0.03)
    assert from_document(json.loads(json.dumps(config.document()))) == config


def test_paths_are_taken_for_names_and_names_for_paths(tmp_path: Path) -> None:
    config = SearchConfig(space=tmp_path / "a.yaml", data=tmp_path, out=str(tmp_path))  # type: ignore[arg-type]
    assert (config.space, config.data, config.out) == (str(tmp_path / "a.yaml"), str(tmp_path), tmp_path)
    json.dumps(config.document())


@pytest.mark.parametrize("name", ["budget", "latency_batch_size", "top_k", "top_k_seeds", "patience"])
def test_counts_are_positive(name: str) -> None:
    with pytest.raises(UsageError, match=f"--{name.replace('_', '-')}: found 0; allowed: 1 or more"):
        SearchConfig(**{name: 0})  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "value"), [("w", 0.07), ("v", 1), ("w", -11), ("v", float("nan"))])
def test_exponents_do_not_reward_costs(name: str, value: float) -> None:
    with pytest.raises(UsageError, match=f"--{name}: found .*; allowed: -10 to 0"):
        SearchConfig(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("seconds", [0, -5.0, float("nan"), float("inf")])
def test_a_time_that_a_phase_may_take_is_above_zero(seconds: float) -> None:
    with pytest.raises(UsageError, match=f"--trial-timeout: found {seconds:g}; allowed: seconds above 0"):
        SearchConfig(trial_timeout_s=seconds)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"bugdet": 3}, r"search: bugdet: unknown setting\. Known: .* Did you mean budget\?"),
        ({"space": SearchConfig()}, "--space: found a SearchConfig; allowed: a name, or the path of a file"),
        ({"enqueue": [3]}, "--enqueue: found 3; allowed: a name, or the path"),
        ({"budget": "12"}, "--budget: found '12'; allowed: a whole number"),
        ({"w": "x"}, "--w: found 'x'; allowed: a number"),
        ({"max_params": 5_000_000}, "--max-params: found 5000000; allowed: text with a unit, such as '5M'"),
        ({"devices": 1}, "--devices: found 1; allowed: text"),
    ],
)
def test_a_natural_mistake_is_told_in_words(settings: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        nas.search(**settings)


def test_one_network_needs_no_list() -> None:
    assert SearchConfig(enqueue="efficientnet_b0").enqueue == ("efficientnet_b0",)  # type: ignore[arg-type]


def test_limits_have_units() -> None:
    config = SearchConfig(max_params="5M", max_macs="600M", max_step_time="12ms", max_latency="5ms", max_memory="2GiB")
    assert config.limits() == (
        Limit("num_params", max=5e6), Limit("macs", max=6e8), Limit("step_time_ms", max=12),
        Limit("latency_ms", max=5), Limit("peak_memory_mib", max=2048),
    )  # fmt: skip
    assert SearchConfig().limits() == ()


@pytest.mark.parametrize(
    ("name", "value"), [("max_step_time", "12"), ("max_latency", "5"), ("max_params", "many"), ("max_memory", "-1GiB")]
)
def test_a_limit_that_cannot_be_read_is_named(name: str, value: str) -> None:
    with pytest.raises(UsageError, match=f"--{name.replace('_', '-')}: found '{value}'; allowed: a positive number"):
        SearchConfig(**{name: value}).limits()  # type: ignore[arg-type]


@pytest.mark.parametrize(("setting", "near"), [({"sampler": "tpee"}, "tpe"), ({"pruner": "medain"}, "median")])
def test_an_unknown_name_is_refused_before_any_work(tmp_path: Path, setting: dict[str, str], near: str) -> None:
    with pytest.raises(UnknownNameError, match=f"Did you mean {near}"):
        nas.search(space="absent.yaml", out=tmp_path / "run", **setting)
    assert not (tmp_path / "run").exists()


def test_settings_are_given_once() -> None:
    with pytest.raises(UsageError, match="found config and budget; give one or the other"):
        nas.search(SearchConfig(), budget=3)


def test_the_gaussian_process_says_what_it_needs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from nas.search import samplers

    monkeypatch.setattr(samplers, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match="--sampler gp: needs SciPy, which is not installed"):
        nas.search(space="v2_tiny", sampler="gp", out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
