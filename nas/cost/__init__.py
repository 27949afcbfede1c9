"""What a network costs: counted from formulas (parameters, multiply-adds) or measured here (step time, memory)."""

from nas.cost._base import COSTS, Cost, Measurement, Step, from_document
from nas.cost._conditions import Conditions
from nas.cost._count import Row, count, table
from nas.registry import import_folder

import_folder(__name__)

__all__ = ["COSTS", "Conditions", "Cost", "Measurement", "Row", "Step", "count", "from_document", "table"]
