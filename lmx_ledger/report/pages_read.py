"""The pages' templates and their style, from files beside this one."""

from functools import cache
from importlib import resources
from typing import Any, Final

import jinja2
from markupsafe import Markup

_STYLE: Final = "style.css"


@cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("lmx_ledger.report", "pages"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


@cache
def style() -> Markup:
    """The style of all pages."""
    return Markup(resources.files("lmx_ledger.report").joinpath("pages", _STYLE).read_text("utf-8"))  # noqa: S704


def filled(page: str, **values: Any) -> str:
    """The page with these values, each of them escaped; its style is in it."""
    return f"{_environment().get_template(page).render(style=style(), **values).strip()}\n"
