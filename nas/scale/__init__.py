"""Compound scaling of your own network: coefficients found by a grid search on your images and device."""

from nas.scale.compound import Coefficients, Rules, scale
from nas.scale.config import ScaleConfig
from nas.scale.result import ScaleResult, Watcher
from nas.scale.session import derive, resume

__all__ = ["Coefficients", "Rules", "ScaleConfig", "ScaleResult", "Watcher", "derive", "resume", "scale"]
