"""The templates' environment: the script that may run, and style and script that cannot end their element."""

import base64
import hashlib
from pathlib import Path

from pipeline.report import wording
from tests.support.html_page import HtmlPage


def test_the_policy_lets_the_reports_own_script_run_and_nothing_else(page: HtmlPage) -> None:
    policy = next(a["content"] for tag, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    digest = base64.b64encode(hashlib.sha256(page.scripts[1].encode()).digest()).decode()
    assert policy is not None
    assert f"script-src 'sha256-{digest}';" in policy
    assert "default-src 'none'" in policy
    assert len(page.scripts) == 2


def test_the_reports_own_style_and_script_cannot_end_their_element() -> None:
    folder = Path(wording.__file__).parent / "templates"
    assert "</" not in (folder / "script.js").read_text(encoding="utf-8")
    assert "</" not in (folder / "style.css").read_text(encoding="utf-8")
