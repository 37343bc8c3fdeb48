"""Runs the steps of a documentation page, block by block."""

import contextlib
import io
import os
import re
import signal
import subprocess
import sys
import time
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.real_server import free_port

BLOCK = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```', re.M | re.S)
PORTS = re.compile(r"\b808\d\b")
PATIENT = "--set service.deadline_ms=10000 --set service.text_deadline_ms=30000"
"""Servers on a busy machine answer late rather than not."""


def blocks_of(page: Path) -> list[tuple[str, str, str]]:
    """Language, title and text of every fenced block."""
    return BLOCK.findall(page.read_text())


@dataclass
class Reader:
    """Does what a page says in ``folder``, with ``python`` and whatever ``lanner`` it finds.

    A block with a title is a file. ``sh`` and ``python`` run, ``pip install`` apart; ``text`` is what the block before
    printed, where … stands for anything. Other blocks are for people alone. Ports 8080 to 8089 become free ones.
    patient: whether servers get longer deadlines than the page gives them.
    """

    folder: Path
    python: Path = Path(sys.executable)
    environment: dict[str, str] = field(default_factory=lambda: dict(os.environ))
    said: str = ""
    """What the last block printed."""
    patient: bool = True
    names: dict[str, object] = field(default_factory=dict)
    ports: dict[str, str] = field(default_factory=dict)
    shells: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def __post_init__(self):
        programs = self.folder / ".bin"
        programs.mkdir()
        patience = f'[ "$1" != serve ] || set -- "$@" {PATIENT}\n' if self.patient else ""
        lanner = f'{patience}exec {self.python} -m lanner "$@"'
        for name, script in (("lanner", lanner), ("python", f'exec {self.python} "$@"')):
            (programs / name).write_text(f"#!/bin/sh\n{script}\n")
            (programs / name).chmod(0o755)
        self.environment = {**self.environment, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}

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
            where = {"cwd": self.folder, "env": self.environment, "stdout": stdout, "stderr": stderr}
            self.shells.append(subprocess.Popen(["bash", "-ec", block], start_new_session=True, **where))
        code = self.shells[-1].wait(180)
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
