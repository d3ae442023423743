"""The site as a reader sees it, in headless Chromium."""

import pytest
from peers import peer

from nbexport.resources import notebooks_path
from nbexport.runner import build_site, find_notebooks

# papermill's and Playwright's event loops leave sockets to the garbage collector.
pytestmark = [pytest.mark.interop, pytest.mark.filterwarnings("ignore")]

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    notebooks = find_notebooks(notebooks_path())
    return build_site(notebooks, tmp_path_factory.mktemp("site"))


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=peer("chromium"), args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser):
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    page.set_default_timeout(20_000)
    page.problems = []
    page.on("console", lambda message: page.problems.append(message.text))
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    page.on("requestfailed", lambda request: page.problems.append(request.url))
    page.on(
        "request",
        lambda request: (
            None
            if request.url.startswith(("file:", "data:"))
            else page.problems.append(request.url)
        ),
    )
    yield page
    page.close()


def test_a_reader_gets_from_the_index_to_the_figure(site, page):
    page.goto(site.as_uri())
    card = page.get_by_role("link", name="Several bitmaps, one export")
    assert card.get_by_role("img").evaluate("image => image.naturalWidth") > 1000
    card.click()
    assert page.title() == "Several bitmaps, one export · nbexport"
    figure = page.get_by_role("img").first
    assert figure.evaluate("image => image.naturalWidth") > 1000
    assert "qemu:dirty-bitmap:daily: 2.035 MiB dirty" in figure.get_attribute("alt")
    for context in ("base:allocation", "qemu:allocation-depth", "qemu:dirty-bitmap:weekly"):
        assert page.get_by_role("cell", name=context, exact=True).count() == 1
    assert page.problems == []


@pytest.mark.parametrize("width", [360, 1600])
def test_nothing_overflows(site, page, width):
    page.set_viewport_size({"width": width, "height": 900})
    for path in sorted(site.parent.glob("*.html")):
        page.goto(path.as_uri())
        wide = page.evaluate("document.documentElement.scrollWidth")
        assert wide <= width, (path.name, wide)


def test_every_link_of_the_site_leads_somewhere(site, page):
    for path in sorted(site.parent.glob("*.html")):
        page.goto(path.as_uri())
        hrefs = page.eval_on_selector_all("a[href]", "links => links.map(a => a.href)")
        for href in hrefs:
            assert href.startswith("file:"), href
            target, _, anchor = href.removeprefix("file://").partition("#")
            assert (site.parent / target).is_file(), href
            if anchor and target.endswith(path.name):
                assert page.evaluate("id => !!document.getElementById(id)", anchor), href
