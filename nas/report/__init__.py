"""What a run shows: read back from its folder, as a page and a picture. Nothing here trains."""

from nas.report.calibration import Calibration, calibrate
from nas.report.compare import write_comparison
from nas.report.ranking import Reranking, rerank
from nas.report.read import RunView, load_run
from nas.report.regret import Stopping, stopping, stopping_of
from nas.report.text import page, write_report

__all__ = [
    "Calibration",
    "Reranking",
    "RunView",
    "Stopping",
    "calibrate",
    "load_run",
    "page",
    "rerank",
    "stopping",
    "stopping_of",
    "write_comparison",
    "write_report",
]
