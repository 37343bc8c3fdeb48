"""The quick start and the tutorials work as written, block by block in an empty folder; see ``page_reader``."""

import shutil
from pathlib import Path

import pytest

from lanner.errors import MissingExtraError
from tests.page_reader import Reader, blocks_of

DOCS = Path(__file__).parents[1] / "docs"
PAGES = [DOCS / "quickstart.md", *sorted((DOCS / "tutorials").glob("*.md"))]
pytestmark = [pytest.mark.slow, pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")]


@pytest.mark.parametrize("page", PAGES, ids=[page.stem for page in PAGES])
def test_a_page_does_what_it_says(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    blocks = blocks_of(page)
    assert any(language in ("sh", "python") and not title for language, title, _ in blocks)
    reader = Reader(tmp_path)
    try:
        for block in blocks:
            reader.follow(*block)
    except MissingExtraError as missing:
        pytest.skip(str(missing))
    finally:
        reader.leave()
