"""From a wheel to a served recommendation on one's own CSV, by the quick start alone, in an empty folder.

With LANNER_FRESH_INSTALL the wheel and its dependencies are installed from the package index, as a new user would, and
that time counts (``.ci/run`` does it); the server has the deadlines that the page gives it. Without it, dependencies
come from the environment the tests run in, the server gets longer ones, and only the wheel and the page are tested.
"""

import json
import os
import random
import re
import subprocess
import sys
import time
import venv
from pathlib import Path

import pytest

from tests.page_reader import Reader, blocks_of

ROOT = Path(__file__).parents[1]
PATIENCE_S = 300
FRESH = bool(os.environ.get("LANNER_FRESH_INSTALL"))
OURS = "ada"
"""Whom the page asks for."""


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Python of an environment with the wheel, and the seconds that a newcomer waits for it."""
    folder = tmp_path_factory.mktemp("quickstart")
    pip = ["-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([sys.executable, *pip, "wheel", "--no-deps", "--no-build-isolation", "-w", folder, ROOT], check=True)
    (wheel,) = folder.glob("lanner-*.whl")
    began = time.monotonic()
    venv.create(folder / "venv", with_pip=FRESH)
    python = folder / "venv" / "bin" / "python"
    if FRESH:
        command = [python, *pip, "install", "-c", ROOT / "constraints.txt", f"{wheel}[serving]"]
        subprocess.run(command, env=outside(), check=True)
    else:
        (packages,) = (folder / "venv").glob("lib/python*/site-packages")
        subprocess.run([sys.executable, *pip, "install", "--no-deps", "--target", packages, wheel], check=True)
        others = [path for path in sys.path if path.endswith("site-packages")]
        (packages / "others.pth").write_text("\n".join(others) + "\n")
    return python, time.monotonic() - began


def outside():
    """The environment of somebody who has no checkout."""
    return {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "LANNER_DATA")}


def somebody_elses_csv():
    """Events of a library abroad, with the columns that the page asks for in another order; and a reader's id."""
    draw = random.Random(5)
    rows = ["title,timestamp,item_id,user_id,shelf"]
    for reader in range(150):
        for book in draw.sample(range(60), 8):
            day = f"2026-{draw.randint(1, 9):02}-{draw.randint(1, 28):02}"
            rows.append(f'"Übungsbuch, Band {book}",{day},{9000 + book},leser-{reader},{book % 4}')
    return "\n".join(rows) + "\n", "leser-7"


def test_before_the_first_release_the_pages_install_from_a_checkout():
    released = "not released" not in (ROOT / "CHANGELOG.md").read_text().split("## ", 2)[1].splitlines()[0]
    source = "lanner" if released else "."
    for page in ("docs/quickstart.md", "docs/index.md", "README.md"):
        first = re.search(r"^pip install .*$", (ROOT / page).read_text(), re.M)
        assert first, page
        assert first[0].startswith(f"pip install '{source}[serving]'"), page


@pytest.mark.slow
def test_a_newcomer_gets_recommendations_for_their_own_csv(installed, tmp_path):
    python, seconds = installed
    began = time.monotonic()
    reader = Reader(tmp_path, python, outside(), patient=not FRESH)
    where = reader.shell("python -c 'import lanner; print(lanner.__file__)'")
    assert where.startswith(str(python.parents[1])), "the wheel is used, not the source"
    table, theirs = somebody_elses_csv()
    try:
        for language, title, block in blocks_of(ROOT / "docs" / "quickstart.md"):
            if language != "text":
                reader.follow(language, title, table if language == "csv" else re.sub(rf"\b{OURS}\b", theirs, block))
            if "curl" in block:
                break
    finally:
        reader.leave()
    (best,) = json.loads(reader.said.splitlines()[-1])["items"]
    assert best["title"].startswith("Übungsbuch")
    assert best["because"]
    assert seconds + time.monotonic() - began < PATIENCE_S
