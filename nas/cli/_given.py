"""Which settings a user gave, and which have their defaults."""

from __future__ import annotations

from typing import Any

import click


def given_by(context: click.Context, settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings that the user gave."""
    return {
        name: value
        for name, value in settings.items()
        if context.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT and value is not None
    }
