"""The block types, one file each. A file registers its block; importing this package imports them all."""

from nas.blocks._base import BLOCKS, BlockArgs, BlockType, Call, Count, call
from nas.registry import import_folder
from nas.spec import Rules

import_folder(__name__)


def rules() -> Rules:
    """Return what the space language must know of every registered block."""
    return {name: BLOCKS[name].rule for name in BLOCKS}


__all__ = ["BLOCKS", "BlockArgs", "BlockType", "Call", "Count", "call", "rules"]
