"""Where phases run. An engine takes phases of trials and brings back their results; it never sees the study."""

from nas.engine._base import Engine, Job, PhaseBug
from nas.engine.inline import InlineEngine

__all__ = ["Engine", "InlineEngine", "Job", "PhaseBug"]
