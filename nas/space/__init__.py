"""The space language: choices, ranges, rules and limits in a YAML file, decoded into one architecture.

A list is a choice, a scalar is fixed, `{min: 1, max: 6, step: 1}` is a range. An architecture is a space with no
choices left: spaces, reference networks and winners are one format, read by one loader.
"""

from nas.space.active import Read, active_choices
from nas.space.decode import choices, decode, decode_stage, forbidden, middle_choose, random_choose, stored_choose
from nas.space.encode import encode
from nas.space.load import load
from nas.space.model import Domain, ForbidRule, LayerSpace, Limit, SearchSpace, StageSpace
from nas.space.units import format_count, parse_quantity

__all__ = [
    "Domain",
    "ForbidRule",
    "LayerSpace",
    "Limit",
    "Read",
    "SearchSpace",
    "StageSpace",
    "active_choices",
    "choices",
    "decode",
    "decode_stage",
    "encode",
    "forbidden",
    "format_count",
    "load",
    "middle_choose",
    "parse_quantity",
    "random_choose",
    "stored_choose",
]
