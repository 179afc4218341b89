"""The report in a real browser: Debian's Chromium, opened from disk."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.pipeline.report.conftest import Run
from tests.support.service import serving

INSTALL = "apt-get install -y chromium"
ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@dataclass
class Visit:
    """A page, its console messages and errors, and the URLs that it asked for."""

    page: Page
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = shutil.which("chromium")
    if path is None:
        reason = f"no chromium on this machine; install it with: {INSTALL}"
        if os.environ.get("CM3_REQUIRE_SYSTEM") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield browser
        browser.close()


@contextmanager
def visiting(
    browser: Browser, report_file: Path, *, width: int = 1280, scheme: str = "light", fragment: str = ""
) -> Iterator[Visit]:
    """The report on a page of its own, closed when the block ends."""
    context = browser.new_context(
        viewport={"width": width, "height": 800},
        color_scheme="dark" if scheme == "dark" else "light",
        reduced_motion="reduce",
    )
    visit = Visit(context.new_page())
    visit.page.on("console", lambda message: visit.complaints.append(message.text))
    visit.page.on("pageerror", lambda error: visit.complaints.append(str(error)))
    visit.page.on("request", lambda request: visit.requests.append(request.url))
    visit.page.goto(report_file.as_uri() + fragment)
    yield visit
    context.close()


@pytest.fixture
def visit(browser: Browser, report_file: Path) -> Iterator[Visit]:
    with visiting(browser, report_file) as visit:
        yield visit


def test_it_opens_without_an_error_or_a_request_that_leaves_the_file(visit: Visit, report_file: Path) -> None:
    page = visit.page
    for target in page.locator(".contents a").all():
        target.click()
    page.locator("summary").first.click()
    assert visit.complaints == []
    assert [url for url in visit.requests if not url.startswith("data:")] == [report_file.as_uri()]


def test_every_picture_loads_and_has_a_text(visit: Visit) -> None:
    page = visit.page
    page.locator("#more").click()
    pictures = page.evaluate(
        """async () => Promise.all([...document.images].map(async (image) => {
            await image.decode();
            return [image.naturalWidth, image.alt];
        }))"""
    )
    assert len(pictures) > 60
    assert all(width >= 48 for width, _ in pictures)
    assert all(text for _, text in pictures)


def test_search_finds_items_by_their_words_in_any_order_and_says_when_there_are_none(visit: Visit) -> None:
    page = visit.page
    expect(page.locator("#matches")).to_have_text("60 items")
    page.get_by_label("Search items").fill("mug KITCHEN")
    matches = page.locator("#grid button").all()
    assert 0 < len(matches) < 20
    expect(page.locator("#matches")).to_have_text(f"{len(matches)} of 60 items")
    page.get_by_label("Search items").fill("zzzz")
    expect(page.locator("#matches")).to_contain_text("No item matches")
    expect(page.locator("#grid button")).to_have_count(0)


def test_choosing_an_item_shows_it_beside_its_neighbours_in_every_space(visit: Visit) -> None:
    page = visit.page
    page.get_by_label("Search items").fill("D0030")
    page.locator("#grid button").click()
    expect(page.locator("#detail .facts")).to_contain_text("D0030")
    assert page.evaluate("location.hash") == "#item=D0030"
    rows = page.locator("#detail .space h4").all_inner_texts()
    names = ("Sentence", "CLIP", "Caption", "Fused similarity", "CM3")
    assert [row.startswith(name) for row, name in zip(rows, names, strict=True)] == [True] * 5
    expect(page.locator("#detail .space").last.locator(".card")).to_have_count(6)
    neighbour = page.locator("#detail .space").last.locator(".card").first
    title = neighbour.locator(".name").inner_text()
    neighbour.click()
    expect(page.locator("#detail h3")).to_have_text(title)
    page.go_back()
    expect(page.locator("#detail .facts")).to_contain_text("D0030")


def test_an_items_address_opens_it(browser: Browser, report_file: Path) -> None:
    with visiting(browser, report_file, fragment="#item=D0012") as visit:
        expect(visit.page.locator("#detail .facts")).to_contain_text("D0012")


def test_pointing_at_a_neighbour_marks_it_in_the_other_rows(visit: Visit) -> None:
    page = visit.page
    card = page.locator("#detail .card").first
    card.hover()
    item = card.get_attribute("data-item")
    twins = page.locator(f'#detail .card[data-item="{item}"]')
    expect(page.locator("#detail .card.same")).to_have_count(twins.count())


def test_the_map_shows_a_picture_under_the_pointer_and_follows_the_keyboard(visit: Visit) -> None:
    page = visit.page
    expect(page.locator("#plane path")).to_have_count(60)
    page.locator("#plane").scroll_into_view_if_needed()
    box = page.locator("#plane path").nth(5).bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    expect(page.locator("#tip")).to_be_visible()
    expect(page.locator("#tip .name")).not_to_be_empty()
    page.locator("#plane").focus()
    page.keyboard.press("Escape")
    expect(page.locator("#tip")).to_be_hidden()
    page.keyboard.press("ArrowRight")
    first = page.locator("#map-status").inner_text()
    page.keyboard.press("ArrowRight")
    assert page.locator("#map-status").inner_text() != first
    title = page.locator("#tip .name").inner_text()
    page.keyboard.press("Enter")
    expect(page.locator("#detail h3")).to_have_text(title)


def test_the_map_can_show_another_space_and_single_out_a_category(visit: Visit) -> None:
    page = visit.page
    before = page.locator("#plane path").first.get_attribute("d")
    page.locator("#space").select_option(index=0)
    assert page.locator("#plane path").first.get_attribute("d") != before
    page.locator("#legend button").first.click()
    expect(page.locator("#legend button").first).to_have_attribute("aria-pressed", "true")
    assert 0 < page.locator("#plane path.dim").count() < page.locator("#plane path").count()


def test_hostile_titles_run_nothing_and_show_as_text(visit: Visit) -> None:
    page = visit.page
    for words in ("window.hacked", "onerror", "7 * 7", "isolated"):
        page.get_by_label("Search items").fill(words)
        page.locator("#grid button").first.click()
        expect(page.locator("#detail .subject")).to_contain_text(words)
    page.locator("#plane").focus()
    for _ in range(20):
        page.keyboard.press("ArrowLeft")
    assert page.evaluate("window.hacked") is None
    assert visit.complaints == []


@pytest.mark.parametrize("width", [360, 768, 1280])
def test_nothing_is_wider_than_the_screen(browser: Browser, report_file: Path, width: int) -> None:
    with visiting(browser, report_file, width=width) as visit:
        assert visit.page.evaluate("document.documentElement.scrollWidth") <= width


def test_the_keyboard_reaches_the_report_first_and_then_the_gallery(visit: Visit) -> None:
    page = visit.page
    page.keyboard.press("Tab")
    expect(page.locator(".skip")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#main")).to_be_focused()
    page.get_by_label("Search items").focus()
    page.keyboard.type("lamp")
    page.keyboard.press("Enter")
    expect(page.locator("#detail")).to_be_focused()


@pytest.mark.parametrize(("width", "scheme"), [(360, "light"), (1280, "dark")])
def test_axe_finds_no_accessibility_fault(browser: Browser, report_file: Path, scheme: str, width: int) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="pip install axe-playwright-python")
    with visiting(browser, report_file, width=width, scheme=scheme) as visit:
        results = axe.Axe().run(visit.page)
    assert [(v["id"], [n["target"] for n in v["nodes"]][:3]) for v in results.response["violations"]] == []


def test_the_pages_of_a_store_lead_to_its_report_without_a_complaint(
    browser: Browser, hostile_run: Run, report_file: Path
) -> None:
    store, _ = hostile_run
    store.put("demo/_reports/0123456789abcdef.html", report_file.read_bytes())
    complaints: list[str] = []
    with serving(store) as service:
        page = browser.new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.goto(f"{service.client.base_url}")
        page.get_by_role("link", name="demo").click()
        page.get_by_role("link", name="items").click()
        expect(page.get_by_role("heading", level=1)).to_have_text("items")
        page.go_back()
        page.locator(".coverage a").first.click()
        expect(page.locator("#grid button")).to_have_count(48)
        page.context.close()
    assert complaints == []
