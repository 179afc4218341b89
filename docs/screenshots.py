"""Screenshots of a report for the documentation: `python docs/screenshots.py REPORT.html docs/images` (Chromium)."""

import io
import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

ARGUMENTS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync", "--hide-scrollbars")


def main(report: Path, folder: Path) -> None:
    """Write the report's sections at desktop size, the gallery in dark colours, and two views at phone size."""
    folder.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=list(ARGUMENTS))
        page = _open(browser, report, 1280, 860, "light")
        _shoot(page, folder / "report-summary.webp")
        _section(page, "items", folder / "report-gallery.webp")
        _point_at_the_map(page)
        _shoot(page, folder / "report-map.webp")
        for name in ("captions", "graph", "metrics", "users", "quality", "training"):
            _section(page, name, folder / f"report-{name}.webp")
        _section(_open(browser, report, 1280, 860, "dark"), "items", folder / "report-gallery-dark.webp")
        _section(_open(browser, report, 360, 740, "light"), "items", folder / "report-phone.webp")
        _section(_open(browser, report, 360, 740, "dark"), "users", folder / "report-phone-dark.webp")
        browser.close()


def _open(browser: Browser, report: Path, width: int, height: int, scheme: str) -> Page:
    page = browser.new_page(
        viewport={"width": width, "height": height},
        color_scheme="dark" if scheme == "dark" else "light",
        reduced_motion="reduce",
    )
    page.goto(report.absolute().as_uri())
    return page


def _section(page: Page, name: str, target: Path) -> None:
    page.evaluate("name => document.getElementById(name).scrollIntoView()", name)
    page.mouse.move(1, 1)
    page.wait_for_timeout(150)  # the navigation bar follows the scrolling
    _shoot(page, target)


def _shoot(page: Page, target: Path) -> None:
    """Save as WebP; PNG would be four times as large."""
    Image.open(io.BytesIO(page.screenshot())).convert("RGB").save(target, quality=88, method=6)


def _point_at_the_map(page: Page) -> None:
    page.evaluate("document.getElementById('map').scrollIntoView()")
    box = page.locator("#plane path").nth(3).bounding_box()
    if box is not None:
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.wait_for_timeout(150)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
