"""The generated references match the code."""

from pathlib import Path

import pytest


@pytest.fixture
def readme(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2])
    from benchmarks import readme

    return readme


def test_the_settings_page_is_that_of_the_settings(readme):
    assert readme.SETTINGS.read_text() == readme.settings_reference(), "run: make docs"
