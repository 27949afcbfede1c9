"""`nas scale` at the command line: what it prints, what it says last, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_cli import run
from tiny import TINY_NETWORK, write_images

from nas import catalog
from nas.cost.step_time import Protocol

QUICK = Protocol(warmup_steps=1, settle=0.0, min_blocks=2, max_blocks=2, at_cap=2, block_s=0.0, target=1.0, cap_s=0.1)


@pytest.fixture(autouse=True)
def short_timings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nas.scale.measure.FULL", QUICK)


def test_a_search_is_scaled_and_the_next_command_is_named(capsys: pytest.CaptureFixture[str], run_copy: Path) -> None:
    words = ["--budget", "4", "--target", "4", "--within", "0.5", "--resolution-multiple", "2", "--device", "cpu"]
    code, out, err = run(capsys, "scale", "--from", str(run_copy), "--phi", "1,2", *words)
    assert code == 0, err
    plan, first = out.index("min for one training of each"), out.index("base                      0")
    assert plan < first  # the time is told before it is spent
    for said in ("against depth alone", "chosen", "phi", "built / predicted"):
        assert said in out
    lines = out.strip().splitlines()
    assert lines[-1].split(None, 1)[0] == "next" and f"nas train {run_copy / 'scale'} --phi 2 --data" in lines[-1]
    assert catalog.load_arch(run_copy / "scale" / "phi-2.yaml").arch_hash
    code, again, err = run(capsys, "scale", "--from", str(run_copy / "scale"), "--phi", "3", "--device", "cpu")
    assert code == 0 and "seconds\n\n" in again, err  # no training between the head of the table and its end
    assert (run_copy / "scale" / "phi-3.yaml").is_file()
    code, _, err = run(capsys, "scale", "--from", str(run_copy / "scale"), "--target", "3")
    assert code == 2 and "--target: a scaling that is continued keeps its own settings" in err
    code, shown, err = run(capsys, "show", str(run_copy / "scale" / "phi-3.yaml"))
    assert code == 0 and "phi3" in shown, err


def test_given_coefficients_are_built_at_once(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "net.yaml").write_text(TINY_NETWORK)
    images = str(write_images(tmp_path / "images", 10))
    words = ["--data", images, "--coefficients", "1.2,1.1,1.5", "--recipe", "quick", "--out", str(tmp_path / "scale")]
    code, out, err = run(capsys, "scale", "--from", str(tmp_path / "net.yaml"), *words, "--device", "cpu")
    assert code == 0, err
    assert "1.2 / 1.1 / 1.5 (theory 3.27)" in out and "more than the images have (16, the median)" in out


def test_the_published_family_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "scale", "--reproduce", "efficientnet")
    assert code == 0, err
    b7 = next(line for line in out.splitlines() if line.startswith("efficientnet_b7"))
    assert "66,347,960" in b7 and "37,745,884,192" in b7
    code, _, err = run(capsys, "scale", "--reproduce", "efficientnets")
    assert code == 2 and "Did you mean efficientnet?" in err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--phi", "two"], "numbers with commas between them"),
        (["--phi", "0"], "--phi: found 0"),
        (["--budget", "2"], "--budget: found 2"),
        (["--coefficients", "1.2,1.1"], "alpha,beta,gamma"),
        (["--from", "v2_tiny"], "a search space with"),
        (["--from", "efficientnet_b0", "--data", "nowhere"], "nowhere"),
    ],
)
def test_mistakes_are_named(capsys: pytest.CaptureFixture[str], words: list[str], said: str) -> None:
    code, _, err = run(capsys, "scale", *words)
    assert code in (1, 2) and said in err and "Traceback" not in err
