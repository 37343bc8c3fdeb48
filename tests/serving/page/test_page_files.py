"""Forbidden content in the page's files, checked without a browser."""

import re
from pathlib import Path

import pytest

from lanner.serving.http.page import KINDS, read_page

PAGE = Path(__file__).parents[3] / "src" / "lanner" / "serving" / "page"
FILES = sorted(one for one in PAGE.rglob("*") if one.is_file())
FORBIDDEN_NAMES = {"utils", "util", "common", "core", "helpers", "helper", "misc"}
FILE_LINES, FUNCTION_LINES = 400, 60


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PAGE).as_posix())
def test_each_file_is_served_and_small(path):
    assert path.suffix in KINDS
    assert f"/{path.relative_to(PAGE).as_posix()}".encode() in read_page()
    assert path.stem not in FORBIDDEN_NAMES
    assert len(path.read_text().splitlines()) <= FILE_LINES
    assert longest_function(path.read_text()) <= FUNCTION_LINES


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PAGE).as_posix())
def test_nothing_is_inline_and_nothing_comes_from_elsewhere(path):
    text = path.read_text().replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"https?://|innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|@import", text)
    if path.suffix == ".html":
        assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]* src=)", text)


def longest_function(text):
    """Lines from a line that opens a function to the line that closes it at the same depth."""
    lines, longest = text.splitlines(), 0
    for number, line in enumerate(lines):
        if re.match(r"\s*(export )?(async )?(function|\w+\([^()]*\) \{$|const \w+ = (async )?\(.*=> \{$)", line):
            depth = len(line) - len(line.lstrip())
            ends = (n for n in range(number, len(lines)) if re.match(rf" {{{depth}}}\}}", lines[n]))
            longest = max(longest, next(ends, number) - number + 1)
    return longest


def test_a_long_function_is_seen():
    assert longest_function("function f() {\n" + "  a();\n" * 80 + "}\n") == 82


def test_every_import_names_a_file_and_what_it_gives():
    for path in FILES:
        for names, target in re.findall(r"import \{([^}]+)\} from \"(.+)\";", path.read_text()):
            given = (path.parent / target).read_text()
            for name in (one.split(" as ")[0].strip() for one in names.split(",")):
                assert re.search(rf"export (async )?(function|class|const) {name}\b", given), (path.name, name)
