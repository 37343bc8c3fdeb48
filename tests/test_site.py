"""The site builds strictly; in a browser it loads nothing external and scrolls in one direction."""

import functools
import http.server
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.serving.page.browser import CHROMIUM, OPTIONS

pytest.importorskip("mkdocs", reason="the extra 'docs' is not installed")
pytest.importorskip("mkdocstrings", reason="the extra 'docs' is not installed")

ROOT = Path(__file__).parents[1]
LOADED = re.compile(r"<(?:script|img|iframe|source)[^>]+src=[\"']?(?:https?:)?//|<link[^>]+href=[\"']?(?:https?:)?//")
IN_STYLES = re.compile(r"url\([\"']?(?:https?:)?//|@import")
LOOKED_AT = ("index.html", "quickstart.html", "settings.html", "commands.html", "reference.html", "comparison.html")
"""Pages whose screenshots are left in ``artefacts/``."""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    build(ROOT / "mkdocs.yml", folder)
    return folder


def build(config, folder):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", config, "-d", folder]
    built = subprocess.run(command, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr


@pytest.mark.slow
def test_no_page_names_anything_to_load_from_elsewhere(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) > 30
    assert [page.name for page in pages if LOADED.search(page.read_text())] == []
    assert [style.name for style in site.rglob("*.css") if IN_STYLES.search(style.read_text())] == []


def test_sources_that_pages_name_are_pages(site):
    assert "class Trainer" in re.sub("<[^>]+>", "", (site / "source/src/lanner/training/loop.py.html").read_text())
    assert 'href="source/src/lanner/training/loop.py.html"' in (site / "tour.html").read_text()


def test_everything_public_is_in_the_reference(site):
    import lanner

    found = set(re.findall(r'id="lanner\.(?:errors\.)?(\w+)"', (site / "reference.html").read_text()))
    assert set(lanner.__all__) <= found


def test_a_broken_link_is_an_error(tmp_path):
    for name in ("mkdocs.yml", ".ci/pages.py", "src/lanner/types.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text((ROOT / name).read_text())
    config, page = tmp_path / "mkdocs.yml", tmp_path / "docs" / "index.md"
    config.write_text(config.read_text().partition("\nnav:\n")[0])
    page.parent.mkdir()
    page.write_text("[sound](../src/lanner/types.py)")
    build(config, tmp_path / "site")
    page.write_text("[broken](../src/lanner/no_such_module.py)")
    with pytest.raises(AssertionError, match="no_such_module"):
        build(config, tmp_path / "site")


@pytest.fixture(scope="module")
def origin(site):
    handler = functools.partial(Silent, directory=site)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


class Silent(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("there is no chromium on this machine")
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        yield chromium
        chromium.close()


@pytest.mark.slow
def test_a_telephone_shows_every_page_whole_and_quietly(browser, origin, site):
    page = browser.new_page(viewport={"width": 375, "height": 800})
    complaints = []
    page.on("console", lambda line: line.type in ("error", "warning") and complaints.append(line.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda one: one.url.startswith((origin, "data:", "blob:")) or complaints.append(one.url))
    (ROOT / "artefacts").mkdir(exist_ok=True)
    found, names = {}, sorted(path.relative_to(site).as_posix() for path in site.rglob("*.html"))
    for name in names:
        complaints.clear()
        page.goto(f"{origin}/{name}", wait_until="networkidle" if name in LOOKED_AT else "load")
        if not page.locator("h1").first.is_visible():
            complaints.append("no heading is visible")
        if (width := page.evaluate("document.scrollingElement.scrollWidth")) > 375:
            complaints.append(f"{width} pixels wide")
        if name in LOOKED_AT:
            page.screenshot(path=ROOT / "artefacts" / f"site-{name.removesuffix('.html')}.png")
        if complaints:
            found[name] = list(complaints)
    page.close()
    assert found == {}
    assert set(LOOKED_AT) < set(names)


def test_the_search_finds_a_setting(browser, origin):
    page = browser.new_page(viewport={"width": 1200, "height": 800})
    page.goto(f"{origin}/index.html", wait_until="networkidle")
    page.click(".md-search__input")
    page.keyboard.type("retention")
    page.wait_for_selector(".md-search-result__link[href*='settings.html']")
    page.close()
