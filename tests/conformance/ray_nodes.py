"""A real Ray cluster on this machine, for the tests of its engine. Each worker is a process that imports torch: seconds."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from engine_stub import Stub

from nas.data import Dataset
from nas.engine import checkpoints

if TYPE_CHECKING:
    from nas.engine.ray_engine import RayEngine

MEMORY = 100 * 2**20


@contextmanager
def nodes(*resources: dict[str, float]) -> Iterator[Any]:
    """Start a cluster with these nodes; `nodes` of what is yielded lists them."""
    pytest.importorskip("ray", reason="Ray is not installed (pip install 'phinas[ray]')")
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:  # workers have the environment of their node, and need the stub
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]))
        yield from started(Cluster, resources)


def started(kind: Any, resources: tuple[dict[str, float], ...]) -> Iterator[Any]:
    quick = {"health_check_period_ms": 500, "health_check_timeout_ms": 1000, "health_check_failure_threshold": 3}
    head = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": MEMORY, "_system_config": quick}
    found = kind(initialize_head=True, head_node_args=head)
    try:
        found.workers = [found.add_node(object_store_memory=MEMORY, **each) for each in resources]
        yield found
    finally:
        found.shutdown()


@dataclass(frozen=True)
class StartRayStub:
    """What a worker of the cluster makes its stub with."""

    log: Path
    lives: Path | None = None

    def __call__(self, device: torch.device, data: Dataset | None, waiting: Callable[[], None]) -> Stub:
        return Stub(self.log, self.lives)


def engine_on(
    address: str, folder: Path, *, lives: bool = True, say: Callable[[str], None] = print, data: Dataset | None = None
) -> RayEngine:
    """Return an engine with stubs on all nodes."""
    from nas.engine.ray_cluster import Cluster
    from nas.engine.ray_engine import RayEngine

    start = StartRayStub(folder / "log", folder if lives else None)
    place = folder / checkpoints.FOLDER
    return RayEngine(Cluster(address, "cpu", 1.0, say), start, data, kind=None, folder=place, say=say)
