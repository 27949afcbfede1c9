"""`latency_ms`: the time of one inference: a batch of images on the device, through the network in evaluation mode, to scores.

Each inference is waited for, as a request is that has to be answered, so the samples are single inferences and their
tail can be told (p95). In a search it is torch's own, eager inference under a short protocol, taken only where a limit
asks for it. `nas latency` measures by the full protocol, eager, compiled and in onnxruntime, several networks in
alternating blocks.

Weights are fresh (a time does not depend on them), float32 on a CPU and bfloat16 on CUDA.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from nas.cost._base import COSTS, Cost, Measurement, Step
from nas.cost._onnx import INPUT, need_onnx, onnx_bytes
from nas.cost.step_time import Protocol, elapsed, measurement, samples
from nas.devices import lane_name, out_of_memory
from nas.errors import MeasurementError, NasError
from nas.lane import lane
from nas.models import Network, build
from nas.spec import ArchSpec

LIMIT = Protocol(
    warmup_steps=3, settle=0.0, min_blocks=5, max_blocks=100, at_cap=3, block_s=0.02, target=0.02, cap_s=2.0
)
"""For a limit, in a search."""

TABLE = Protocol(
    warmup_steps=5, settle=0.02, min_blocks=20, max_blocks=100, at_cap=5, block_s=0.05, target=0.01, cap_s=8.0
)
"""For `nas latency`: twenty blocks at least, so that a p95 is no maximum."""

TOLERANCE = 1e-3
"""How far outputs may be from eager's in float32, as a relative error; sums in another order make about 1e-6."""

CPU = torch.device("cpu")
_WAITING = "waiting: another run times or trains on this device ..."

Inference = Callable[[], Tensor]
Runner = Callable[[Tensor], Inference]
"""Makes the inference of a batch of images: float32, (B, C, R, R), on the CPU."""


def latency_ms(step: Step, device: torch.device, protocol: Protocol = LIMIT) -> Measurement:
    """Time one inference. The caller holds the device's lane alone."""
    taken = samples([step], device, protocol, _single)
    return measurement(taken.times[0], taken.counts[0], device, taken.conditions)


def inference(spec: ArchSpec, device: torch.device, batch_size: int) -> Inference:
    """Return the eager inference of a batch of noise by a network with fresh weights."""
    return _eager(spec, device, _dtype(device))(_images(spec, batch_size))


@dataclass(frozen=True)
class Latency:
    """The latency of one network under one backend at one batch size, or why there is none.

    Args:
        name: What the caller calls the network. backend: One of `BACKENDS`.
        device: Where it runs; onnxruntime always on the CPU. threads: Of this process, on the CPU.
        batch_size, resolution: Images, and pixels of each.
        measured: Median, median absolute deviation and number of single inferences (ms). p95_ms: Their 95th percentile.
        difference: Relative error of the scores against eager's in float32; None for those themselves.
        problem: Why nothing was measured, and what to do.
    """

    name: str
    arch_hash: str
    backend: str
    device: str
    dtype: str
    threads: int
    batch_size: int
    resolution: int
    measured: Measurement | None = None
    p95_ms: float | None = None
    difference: float | None = None
    problem: str = ""

    def document(self) -> dict[str, Any]:
        """Return plain data, flat, with units in the names."""
        own = {name: value for name, value in vars(self).items() if name != "measured"}
        found = self.measured
        times = (None,) * 3 if found is None else (found.value, found.spread, found.n)
        return own | dict(zip(("latency_ms", "mad_ms", "n"), times, strict=True))


def latencies(
    networks: Mapping[str, ArchSpec],
    device: torch.device,
    *,
    backends: Sequence[str],
    batch_sizes: Sequence[int] = (1,),
    threads: int | None = None,
    protocol: Protocol = TABLE,
    say: Callable[[str], None] = lambda sentence: None,
) -> list[Latency]:
    """Measure networks side by side: for each backend and batch size their blocks alternate, alone in the lane.

    What cannot be measured is a row with its reason, and the others go on.

    Args:
        networks: By the names that the rows are to have. backends: Of `BACKENDS`.
        threads: Of torch and onnxruntime on the CPU; this process's unless given.
        say: Called with a sentence before each long step.
    """
    rows = []
    with _threads(threads):
        for backend in backends:
            place = CPU if backend == "onnxruntime" else device
            say(f"{backend}: preparing {len(networks)} network{'s' * (len(networks) > 1)} for {place} ...")
            with lane(lane_name(place), alone=False, waiting=lambda: say(_WAITING)):
                runners = {name: _prepared(backend, spec, place) for name, spec in networks.items()}
            for batch_size in batch_sizes:
                empty = [
                    Latency(
                        name,
                        spec.arch_hash,
                        backend,
                        str(place),
                        str(_dtype(place)).removeprefix("torch."),
                        torch.get_num_threads(),
                        batch_size,
                        spec.resolved().resolution,
                    )
                    for name, spec in networks.items()
                ]
                rows += _measured(empty, networks, runners, place, protocol, say)
    return rows


def _measured(
    rows: Sequence[Latency],
    networks: Mapping[str, ArchSpec],
    runners: Mapping[str, Runner | str],
    place: torch.device,
    protocol: Protocol,
    say: Callable[[str], None],
) -> list[Latency]:
    """Fill the rows of one backend and batch size."""
    steps: dict[str, Inference] = {}
    found = {row.name: row for row in rows}
    with lane(lane_name(place), alone=False, waiting=lambda: say(_WAITING)):
        for row in rows:
            runner = runners[row.name]
            if isinstance(runner, str):
                found[row.name] = replace(row, problem=runner)
                continue
            say(f"{row.backend}: first run of {row.name} at batch {row.batch_size} ...")
            try:
                steps[row.name], difference = _checked(networks[row.name], runner, place, row)
                found[row.name] = replace(row, difference=difference)
            except NasError as error:
                found[row.name] = replace(row, problem=str(error))
            except RuntimeError as error:
                if not out_of_memory(error):
                    raise
                problem = f"out of memory at batch {row.batch_size} and {row.resolution} pixels on {place}"
                found[row.name] = replace(row, problem=f"{problem}. Lower --batch-size or --resolution.")
    if steps:
        say(f"{rows[0].backend}: timing at batch {rows[0].batch_size} ...")
        with lane(lane_name(place), alone=True, waiting=lambda: say(_WAITING)):
            taken = samples(list(steps.values()), place, protocol, _single)
        for name, times, n in zip(steps, taken.times, taken.counts, strict=True):
            p95 = sorted(times)[math.ceil(0.95 * len(times)) - 1]
            found[name] = replace(found[name], measured=measurement(times, n, place, taken.conditions), p95_ms=p95)
    return list(found.values())


def _single(step: Step, count: int, device: torch.device) -> list[float]:
    """Take a block of inferences, each waited for."""
    return [elapsed(step, 1, device) for _ in range(count)]


def _checked(spec: ArchSpec, runner: Runner, place: torch.device, row: Latency) -> tuple[Inference, float | None]:
    """Return an inference that was run once, and how far its scores are from eager's in float32.

    Raises:
        MeasurementError: further than rounding explains.
    """
    images = _images(spec, row.batch_size)
    step = runner(images)
    scores = step().float()
    exact = _eager(spec, place, torch.float32)(images)()
    if row.backend == "eager" and _dtype(place) == torch.float32:
        return step, None
    # In bfloat16 a deep network with fresh weights is off by a tenth and more, eager as well: that much is rounding.
    rounding = _error(_eager(spec, place, _dtype(place))(images)().float(), exact)
    allowed, found = max(TOLERANCE, 2 * rounding), _error(scores, exact)
    if not found <= allowed:
        raise MeasurementError(
            f"its scores differ from eager's by {found:.2g} (relative error; allowed: {allowed:.2g}), so it computes something "
            "else, and its time says nothing. Please report this architecture."
        )
    return step, found


def _error(scores: Tensor, exact: Tensor) -> float:
    return float((scores - exact).norm() / exact.norm())


def _images(spec: ArchSpec, batch_size: int) -> Tensor:
    """Return noise, not zeros: a device draws less power on zeros, and runs faster than it will on images."""
    size = spec.resolved().resolution
    return torch.randn(batch_size, spec.in_channels, size, size, generator=torch.Generator().manual_seed(0))


def _dtype(device: torch.device) -> torch.dtype:
    return torch.bfloat16 if device.type == "cuda" else torch.float32


def _network(spec: ArchSpec, place: torch.device, dtype: torch.dtype) -> Network:
    network = build(spec, seed=0).eval().to(device=place, dtype=dtype)
    return network.to(memory_format=torch.channels_last)  # type: ignore[no-any-return, call-overload]


def _runner(network: Callable[[Tensor], Tensor], place: torch.device, dtype: torch.dtype) -> Runner:
    def bind(images: Tensor) -> Inference:
        placed = images.to(device=place, dtype=dtype, memory_format=torch.channels_last)

        def step() -> Tensor:
            with torch.inference_mode():
                return network(placed)

        return step

    return bind


# --- backends ---------------------------------------------------------------------------------------------


def _eager(spec: ArchSpec, place: torch.device, dtype: torch.dtype) -> Runner:
    return _runner(_network(spec, place, dtype), place, dtype)


def _compile(spec: ArchSpec, place: torch.device, dtype: torch.dtype) -> Runner:
    """Compile for each batch size anew, and in one piece: a part that runs eagerly would go unseen."""
    compiler = os.environ.get("CXX", "g++")
    if place.type == "cpu" and shutil.which(compiler) is None:
        raise MeasurementError(
            f"torch.compile needs a C++ compiler, and {compiler} is not installed. Install g++, or name another in CXX."
        )
    from torch import _dynamo
    from torch._dynamo.exc import FailOnRecompileLimitHit, TorchDynamoException

    bind = _runner(torch.compile(_network(spec, place, dtype), fullgraph=True, dynamic=False), place, dtype)

    def compiled(images: Tensor) -> Inference:
        step = bind(images)
        try:
            # All networks share the code of `forward`, and each counts as another compilation of it.
            with _dynamo.config.patch(recompile_limit=10_000, accumulated_recompile_limit=10_000):
                step()
        except (TorchDynamoException, FailOnRecompileLimitHit) as error:
            if out_of_memory(error):
                raise
            reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
            raise MeasurementError(
                f"torch.compile failed: {reason} (On CUDA it needs Triton and a C compiler, on a CPU a C++ compiler.)"
            ) from error
        return step

    return compiled


def _onnxruntime(spec: ArchSpec, place: torch.device, dtype: torch.dtype) -> Runner:
    need_onnx("onnx", "onnxscript", "onnxruntime")
    import onnxruntime

    size = spec.resolved().resolution
    try:
        content = onnx_bytes(build(spec, seed=0).eval(), (spec.in_channels, size, size))
    except torch.onnx.OnnxExporterError as error:
        reason = str(error).splitlines()[0]
        raise MeasurementError(f"torch.onnx.export failed: {reason}. Please report this architecture.") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    # Threads that spin after a run would slow down whatever is timed next.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])

    def bind(images: Tensor) -> Inference:
        given = {INPUT: images.numpy()}

        def step() -> Tensor:
            return torch.from_numpy(session.run(None, given)[0])

        return step

    return bind


BACKENDS: dict[str, Callable[[ArchSpec, torch.device, torch.dtype], Runner]] = {
    "eager": _eager,
    "compile": _compile,
    "onnxruntime": _onnxruntime,
}
"""What runs a network; onnxruntime on the CPU only."""


def _prepared(backend: str, spec: ArchSpec, place: torch.device) -> Runner | str:
    """Return what runs a network, or why nothing can."""
    try:
        return BACKENDS[backend](spec, place, _dtype(place))
    except NasError as error:
        return str(error)


@contextmanager
def _threads(number: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


COSTS.register("latency_ms", Cost("ms", of_step=latency_ms))
