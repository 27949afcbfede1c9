"""A winner handed over: readable source, weights and models that do not need `nas`, each checked against its source.

One file per format; a file registers its exporter, and importing this package imports them all.
"""

from nas.export._base import EXPORTERS, CannotExpress, Exporter, Images, Subject
from nas.export._check import Check
from nas.export.handover import ALL, Exported, Watcher, export
from nas.export.trained import Trained
from nas.registry import import_folder

import_folder(__name__)

__all__ = [
    "ALL",
    "EXPORTERS",
    "CannotExpress",
    "Check",
    "Exported",
    "Exporter",
    "Images",
    "Subject",
    "Trained",
    "Watcher",
    "export",
]
