"""The site as a reader sees it, in headless Chromium."""

import fcntl
import functools
import http.server
import json
import os
import re
import threading
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from peers import peer

from nbexport.resources import notebooks_path
from nbexport.runner import build_site, find_notebooks

pytestmark = [
    pytest.mark.interop,
    pytest.mark.timeout(400),  # the first test waits until every notebook has run
    # papermill's and Playwright's event loops leave sockets to the garbage collector.
    pytest.mark.filterwarnings("ignore"),
]

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"]
NOTEBOOKS = find_notebooks(notebooks_path())
PAGES = ["index", *(notebook.name for notebook in NOTEBOOKS)]
EACH_PAGE = pytest.mark.parametrize("name", PAGES)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the site; test processes that run beside each other make it once."""
    base = tmp_path_factory.getbasetemp()
    shared = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "nbexport-site"
    shared.mkdir(exist_ok=True)
    with (shared / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        folder = shared / "site"
        if not folder.is_dir():
            build_site(NOTEBOOKS, shared)
    return folder


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=peer("chromium"), args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture
def open_page(browser, site):
    """Opens a page in a fresh profile; at the end nothing may have gone wrong in any of them."""
    problems = []
    contexts = []

    def opened(name, width=1200, scheme="light", **options):
        context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, **options
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("console", lambda message: problems.append(message.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("requestfailed", lambda request: problems.append(request.url))
        page.on("request", lambda request: problems.extend(leaves_the_folder(request.url)))
        page.goto((site / f"{name}.html").as_uri())
        return page

    def leaves_the_folder(url):
        return [] if url.startswith((site.as_uri(), "data:")) else [url]

    yield opened
    for context in contexts:
        context.close()
    assert problems == []


def follow(page, link):
    """Click a link and wait until the page that it leads to is there."""
    with page.expect_navigation():
        link.click()


def test_a_reader_gets_from_the_index_to_the_figure(open_page):
    page = open_page("index")
    cards = page.locator(".cards > li")
    assert cards.count() == len(NOTEBOOKS)
    assert cards.first.get_by_role("img").evaluate("image => image.naturalWidth") > 1000
    follow(page, cards.first)  # anywhere on the card
    assert page.title() == "Several bitmaps, one export · nbexport"
    figure = page.get_by_role("img").first
    assert figure.evaluate("image => image.naturalWidth") > 1000
    assert "qemu:dirty-bitmap:daily: 2.035 MiB dirty" in figure.get_attribute("alt")
    for context in ("base:allocation", "qemu:allocation-depth", "qemu:dirty-bitmap:weekly"):
        assert page.get_by_role("cell", name=context, exact=True).count() == 1


def test_a_card_tells_title_sentence_duration_and_parameters(open_page):
    page = open_page("index")
    for notebook, card in zip(NOTEBOOKS, page.locator(".cards > li").all(), strict=True):
        assert card.get_by_role("heading").inner_text() == notebook.title
        assert len(card.locator("p").first.inner_text()) > 40
        meta = card.locator(".meta").inner_text()
        assert re.search(r"\d+\.\d s", meta)
        assert set(notebook.parameters) <= set(meta.split())


def test_the_pages_can_be_read_in_order_and_back(open_page):
    page = open_page(NOTEBOOKS[0].name)
    for notebook in NOTEBOOKS[1:]:
        follow(page, page.locator("a[rel=next]"))
        assert page.title().startswith(notebook.title)
    assert page.locator("a[rel=next]").count() == 0
    for notebook in reversed(NOTEBOOKS[:-1]):
        follow(page, page.locator("a[rel=prev]"))
        assert page.title().startswith(notebook.title)


@EACH_PAGE
def test_nothing_overflows(open_page, name):
    page = open_page(name)
    for width in (360, 1600):
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator("img:not([alt]), img[alt='']").count() == 0


@EACH_PAGE
@pytest.mark.parametrize(("scheme", "width"), [("dark", 360), ("light", 1200)])
def test_the_accessibility_checker_finds_nothing_serious(open_page, name, scheme, width):
    page = open_page(name, width, scheme)
    # without preload, which would read style sheets as no page opened from a file may
    options = {"resultTypes": ["violations"], "preload": False}
    found = Axe().run(page, options=options).response["violations"]
    grave = {
        rule["id"]: [node["html"][:200] for node in rule["nodes"]][:3]
        for rule in found
        if rule["impact"] in {"serious", "critical"}
    }
    assert grave == {}


def test_every_link_of_the_site_leads_somewhere(site, open_page):
    anchors, links = {}, []
    for name in PAGES:
        page = open_page(name)
        ids = page.eval_on_selector_all("[id]", "all => all.map(one => one.id)")
        assert len(set(ids)) == len(ids), name
        anchors[f"{name}.html"] = set(ids)
        links += page.eval_on_selector_all("a[href]", "all => all.map(one => one.href)")
    assert len(links) > 5 * len(PAGES)
    for href in links:
        if href.startswith("https:"):
            continue  # a source, for a reader who is online
        assert href.startswith(site.as_uri()), href
        target, _, anchor = href.removeprefix(f"{site.as_uri()}/").partition("#")
        assert (site / target).is_file(), href
        assert not anchor or anchor in anchors[target], href


def test_the_search_finds_sections_and_leads_there(open_page):
    page = open_page("index")
    page.keyboard.press("/")
    page.keyboard.type("granularity")
    assert re.match(r"\d+ sections?", page.get_by_role("status").inner_text())
    hits = page.locator(".found li")
    assert hits.count() >= 2
    assert all("granularity" in hit.inner_text().lower() for hit in hits.all())
    assert page.locator(".found mark").first.inner_text().lower() == "granularity"
    page.keyboard.press("ArrowDown")
    with page.expect_navigation():
        page.keyboard.press("Enter")
    anchor = page.evaluate("decodeURIComponent(location.hash.slice(1))")
    place = page.locator(f"[id='{anchor}']")
    assert place.is_visible()
    top = place.bounding_box()["y"]
    # not under the bar, and on the screen
    assert page.locator(".bar").bounding_box()["height"] <= top < 900


def test_the_search_takes_any_text_and_says_when_there_is_nothing(open_page):
    page = open_page("02_the_interface", 360)
    query = page.get_by_label("Search these pages")
    query.fill("[(*\\ nothing-has-this")
    assert page.get_by_role("status").inner_text() == "No sections"
    query.fill("BLOCK-EXPORT-ADD bitmaps")
    assert page.locator(".found li").count() >= 1
    box = page.locator(".found").bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= 360
    query.press("Escape")
    assert page.locator(".found").is_hidden()


def background(page):
    shade = page.evaluate("getComputedStyle(document.body).backgroundColor")
    return sum(map(int, re.findall(r"\d+", shade)[:3])) / 3


def test_the_theme_is_the_systems_until_the_reader_chooses(open_page):
    assert background(open_page("index", scheme="light")) > 200
    page = open_page("index", scheme="dark")
    assert background(page) < 50
    page.get_by_role("button", name="Light theme").click()
    assert background(page) > 200
    follow(page, page.locator(".cards a").first)
    assert background(page) > 200
    assert page.get_by_role("button", name="Dark theme").is_visible()
    figure = page.locator("figure").first
    page.get_by_role("button", name="Dark theme").click()
    shade = figure.evaluate("one => getComputedStyle(one).backgroundColor")
    assert shade == "rgb(255, 255, 255)"  # ink on paper, in the dark too


def test_code_can_be_hidden_and_stays_hidden(open_page):
    page = open_page("01_multiple_bitmaps")
    cell = page.locator("details.code").nth(2)
    assert cell.locator("pre").is_visible()
    cell.locator("summary").click()
    assert cell.locator("pre").is_hidden()
    page.get_by_role("button", name="Hide code").click()
    follow(page, page.locator("a[rel=next]"))
    assert page.locator("details.code pre >> visible=true").count() == 0
    page.get_by_role("button", name="Show code").click()
    assert page.locator("details.code pre").first.is_visible()


def test_a_page_says_how_it_was_made(open_page):
    page = open_page("01_multiple_bitmaps")
    made = page.get_by_role("region", name="How this page was made")
    assert "nbexport run 01_multiple_bitmaps" in made.inner_text()
    assert made.get_by_role("cell", name="['weekly', 'daily']").is_visible()
    rows = dict(row.locator("td").all_inner_texts() for row in made.locator("tbody tr").all())
    assert rows["nbdkit"]
    assert re.fullmatch(r"\d+\.\d+.*", rows["Python"])


@pytest.fixture
def served(site):
    """The site behind a web server: a browser shows a file that it would else download."""
    handler = functools.partial(QuietHandler, directory=site)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


def test_the_notebook_and_its_results_can_be_taken_home(browser, served):
    page = browser.new_page()
    page.goto(f"{served}/01_multiple_bitmaps.html")
    for link, suffix in (("notebook", ".ipynb"), ("results", ".results.json")):
        with page.expect_download(timeout=20_000) as download:
            page.get_by_role("link", name=link, exact=True).first.click()
        assert download.value.suggested_filename == f"01_multiple_bitmaps{suffix}"
        told = json.loads(Path(download.value.path()).read_text())
        assert "cells" in told or told["notebook"] == "01_multiple_bitmaps"
    page.close()


def test_without_scripts_everything_can_be_read(open_page):
    page = open_page("01_multiple_bitmaps", java_script_enabled=False)
    assert page.locator(".sections a").first.is_visible()
    assert page.locator("details.code pre").first.is_visible()
    assert page.locator(".search").is_hidden()
    assert page.locator("button:visible").count() == 0
