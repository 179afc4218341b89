"""Jinja for the report and the store's pages: everything escaped, with the filters, style and script they share."""

import base64
import functools
import hashlib
from importlib.resources import files
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from pipeline.report.wording import FILTERS


@functools.cache
def environment() -> Environment:
    """Jinja with everything escaped, undefined names refused, and the report's filters and assets.

    One for the process: compiling the templates takes a tenth of a report.
    """
    environment = Environment(
        loader=PackageLoader("pipeline.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(FILTERS, segment=lambda text: quote(text, safe="/"))
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "ensure_ascii": False}
    for name in ("style.css", "script.js"):
        # S704: our own files; `</` cannot occur in them, which a test checks
        environment.globals[name.partition(".")[0]] = Markup(_asset(name))  # noqa: S704
    digest = base64.b64encode(hashlib.sha256(_asset("script.js").encode()).digest()).decode()
    environment.globals["script_hash"] = f"sha256-{digest}"
    return environment


def _asset(name: str) -> str:
    return files("pipeline.report.templates").joinpath(name).read_text(encoding="utf-8")
