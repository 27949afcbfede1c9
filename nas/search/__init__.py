"""The search: the only package that imports optuna. `nas.search` is the package and, called, the function."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

from nas.search.session import resume, search
from nas.search.watcher import SearchResult

__all__ = ["SearchResult", "resume", "search"]


class _CallablePackage(ModuleType):
    """Lets `nas.search(...)` mean `nas.search.search(...)`, whichever of the two was imported first."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return search(*args, **kwargs)


sys.modules[__name__].__class__ = _CallablePackage
