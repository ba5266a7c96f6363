"""The site opens in a browser without network, from the disk, on a phone too."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from rules import ROOT

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
WIDTHS = (390, 1440)  # pixels: a phone, a desktop
PAGES = [
    "index.html",
    "data/README.html",
    "ch02_neural_networks/README.html",
    "ch02_neural_networks/04_backpropagation_xor.html",
    "ch04_cnn/02_convolution_layers.html",
    "ch06_generative/01_vae.html",
    "ch08_rl/03_temporal_difference.html",
]
# Whatever the pages ask for is on the disk; the browser's own requests go nowhere.
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
FLAGS += ["--host-resolver-rules=MAP * ~NOTFOUND"]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site over the saved outputs; a warning, as of a broken link, fails it."""
    target = tmp_path_factory.mktemp("site")
    arguments = ["-q", "-W", "--keep-going", "-c", "site", "-d", target / "doctrees"]
    command = [sys.executable, "-m", "sphinx", *arguments, ".", target / "html"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return target / "html"


class Visit:
    """A page of a browser that notes what goes wrong."""

    def __init__(self, page) -> None:
        self.page, self.wrong = page, []
        page.on("requestfailed", lambda r: self.wrong.append(f"failed: {r.url}"))
        page.on("pageerror", lambda e: self.wrong.append(f"error: {e}"))
        page.on("request", self.asked)
        page.on("console", self.said)

    def asked(self, request) -> None:
        """Note whatever would need a network."""
        if not request.url.startswith(("file:", "data:", "blob:")):
            self.wrong.append(f"from the network: {request.url}")

    def said(self, message) -> None:
        """Note errors on the console."""
        if message.type == "error":
            self.wrong.append(f"console: {message.text}")


@pytest.fixture(scope="module")
def browser() -> Iterator:
    """Chromium without a window."""
    if not CHROMIUM:
        pytest.skip("there is no Chromium: install the package chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


def open_page(browser, site: Path, name: str, width: int = 1440) -> Visit:
    """Load a page from the disk and wait until its formulas are set."""
    visit = Visit(browser.new_page(viewport={"width": width, "height": 900}))
    visit.page.goto((site / name).as_uri())
    visit.page.evaluate("window.MathJax?.startup?.promise")
    return visit


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", PAGES)
def test_page(site: Path, browser, name: str, width: int) -> None:
    """All is there, nothing is wider than the window, formulas are typeset."""
    visit = open_page(browser, site, name, width)
    page = visit.page
    page.evaluate("document.fonts.ready")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    formulas = page.locator(".math").count()
    assert page.locator(".math mjx-container").count() == formulas
    assert page.locator("mjx-merror").count() == 0
    if name.endswith("01_vae.html"):
        assert formulas > 10
        page.wait_for_function(
            "[...document.fonts].some(f => /^MJX/.test(f.family)"
            " && f.status === 'loaded')"
        )
    # Every picture, below the fold too, has been drawn.
    broken = page.evaluate("""() => {
        const images = [...document.images];
        images.forEach(image => image.loading = 'eager');
        return Promise.all(images.map(image => image.decode()
            .then(() => null, () => image.src))).then(x => x.filter(Boolean));
    }""")
    assert not broken
    assert not visit.wrong
    page.close()


def test_search(site: Path, browser) -> None:
    """The search field works without a server."""
    visit = open_page(browser, site, "index.html")
    visit.page.goto((site / "search.html").as_uri() + "?q=backpropagation")
    found = visit.page.locator("#search-results li a")
    found.first.wait_for(timeout=30_000)
    links = found.evaluate_all("links => links.map(link => link.href)")
    assert any("04_backpropagation_xor.html" in link for link in links)
    assert not visit.wrong
    visit.page.close()


def test_previous_and_next(site: Path, browser) -> None:
    """They lead through the chapters in the book's order, and back."""
    visit = open_page(browser, site, "index.html")
    titles = []
    for _ in range(9):
        visit.page.locator("a.right-next").click()
        titles.append(visit.page.locator("article h1").inner_text())
    assert titles[0].startswith("Chapter 1") and titles[1].startswith("1.1 ")
    assert titles[7].startswith("Chapter 2") and titles[8].startswith("2.1 ")
    visit.page.locator("a.left-prev").click()
    assert visit.page.locator("article h1").inner_text().startswith("Chapter 2")
    assert not visit.wrong
    visit.page.close()


def test_download_and_cards(site: Path, browser) -> None:
    """A notebook's page offers it; the first page has a card for each."""
    name = "ch02_neural_networks/04_backpropagation_xor"
    visit = open_page(browser, site, f"{name}.html")
    href = visit.page.locator("a.btn-download-source-button").get_attribute("href")
    offered = (site / f"{name}.html").parent / href
    assert offered.read_bytes() == (ROOT / f"{name}.ipynb").read_bytes()
    assert "colab" not in visit.page.content()  # no address, no launch button
    visit.page.close()

    visit = open_page(browser, site, "index.html")
    cards = visit.page.locator(".sd-card")
    assert cards.count() == len(list(ROOT.glob("ch*/*.ipynb")))
    assert visit.page.locator(".sd-card img").count() == cards.count()
    cards.first.click()
    assert visit.page.locator("article h1").inner_text().startswith("1.1 ")
    visit.page.close()


def test_launch_buttons_come_from_one_setting(tmp_path: Path) -> None:
    """With the repository's address the pages offer Colab and Binder."""
    source = (ROOT / "site" / "conf.py").read_text()
    address = 'REPOSITORY = "https://github.com/someone/notebooks"'
    changed = source.replace('REPOSITORY = ""', address)
    assert changed != source
    settings = {"__file__": str(ROOT / "site" / "conf.py")}
    exec(changed, settings)
    options = settings["html_theme_options"]
    assert options["repository_url"] == address.split('"')[1]
    assert {"colab_url", "binderhub_url"} <= options["launch_buttons"].keys()
