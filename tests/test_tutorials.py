"""The quick start and the tutorials do what they say: their blocks run in order, in an empty folder, and print what follows.

A block with a title is a file. ``sh`` and ``python`` run, ``pip install`` apart; ``text`` is what the block before printed,
where … stands for anything. Other blocks are for the reader alone.
"""

import contextlib
import io
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from lanner.errors import MissingExtraError
from tests.real_server import free_port

DOCS = Path(__file__).parents[1] / "docs"
PAGES = [DOCS / "quickstart.md", *sorted((DOCS / "tutorials").glob("*.md"))]
BLOCK = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```', re.M | re.S)
PORTS = re.compile(r"\b80(?=8\d\b)8\d\b")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")]


@dataclass
class Reader:
    """Somebody who does what a page says. said: what the last block printed."""

    folder: Path
    said: str = ""
    names: dict[str, object] = field(default_factory=dict)
    ports: dict[str, str] = field(default_factory=dict)
    shells: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def __post_init__(self):
        programs = self.folder / ".bin"
        programs.mkdir()
        (programs / "lanner").write_text(f'#!/bin/sh\nexec {sys.executable} -m lanner "$@"\n')
        (programs / "lanner").chmod(0o755)
        (programs / "python").symlink_to(sys.executable)
        self.environment = {**os.environ, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}

    def follow(self, language, title, block):
        block = PORTS.sub(lambda port: self.ports.setdefault(port[0], str(free_port())), block)
        if title:
            path = self.folder / title
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block)
        elif language == "sh":
            self.said = self.shell(re.sub(r"^pip install .*\n", "", block, flags=re.M))
        elif language == "python":
            with contextlib.redirect_stdout(io.StringIO()) as said, warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)
                exec(compile(block, "page", "exec"), self.names)
            self.said = said.getvalue()
        elif language == "text":
            expected = ".*".join(map(re.escape, block.strip().split("…")))
            assert re.search(expected, self.said, re.S), f"expected:\n{block}\nreceived:\n{self.said}"

    def shell(self, block):
        """What the commands print; those in the background go on."""
        out = self.folder / f".out-{len(self.shells)}"
        with out.open("wb") as stdout, out.with_suffix(".err").open("wb") as stderr:
            started = subprocess.Popen(
                ["bash", "-ec", block], cwd=self.folder, env=self.environment, stdout=stdout, stderr=stderr,
                start_new_session=True,
            )  # fmt: skip
        self.shells.append(started)
        code = started.wait(180)
        complaint = out.with_suffix(".err").read_text()
        if code and "pip install 'lanner[" in complaint:
            pytest.skip(complaint)
        assert code == 0, f"{block}\n{complaint}\n{out.read_text()}"
        return out.read_text()

    def leave(self):
        """End what was left in the background."""
        for shell in self.shells:
            for number in (signal.SIGTERM, signal.SIGKILL):
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(shell.pid, number)
                    until = time.monotonic() + 20
                    while time.monotonic() < until:
                        os.killpg(shell.pid, 0)
                        time.sleep(0.1)


@pytest.mark.parametrize("page", PAGES, ids=[page.stem for page in PAGES])
def test_a_page_does_what_it_says(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    blocks = BLOCK.findall(page.read_text())
    assert any(language in ("sh", "python") and not title for language, title, _ in blocks)
    reader = Reader(tmp_path)
    try:
        for block in blocks:
            reader.follow(*block)
    except MissingExtraError as missing:
        pytest.skip(str(missing))
    finally:
        reader.leave()
