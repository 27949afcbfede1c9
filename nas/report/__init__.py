"""What a run shows: read back from its folder, as a page and a picture. Nothing here trains."""

from nas.report.read import RunView, load_run
from nas.report.text import page, write_report

__all__ = ["RunView", "load_run", "page", "write_report"]
