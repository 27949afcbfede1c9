"""Where phases run. An engine takes phases of trainings and brings back their results; it never sees the study."""

from nas.engine._base import Engine, Job, PhaseBug
from nas.engine._choice import Place, engine_for, place_of
from nas.engine._worker import PhaseRunner
from nas.engine.inline import InlineEngine
from nas.engine.local import WORKER, LocalEngine

__all__ = [
    "WORKER",
    "Engine",
    "InlineEngine",
    "Job",
    "LocalEngine",
    "PhaseBug",
    "PhaseRunner",
    "Place",
    "engine_for",
    "place_of",
]
