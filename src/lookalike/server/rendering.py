"""The environment of the templates in ``templates/``: everything is escaped, nothing undefined."""

from __future__ import annotations

import jinja2


def new_environment() -> jinja2.Environment:
    """Return an environment, to which a module adds its own functions."""
    return jinja2.Environment(
        loader=jinja2.PackageLoader("lookalike.server"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
