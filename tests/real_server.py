"""A server in its own processes."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def wait_for(holds: Callable[[], bool], otherwise: str, seconds: float = 20) -> None:
    """Return once something holds; fails with a line where it does not in time."""
    ends = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < ends, otherwise
        time.sleep(0.05)


def health(port: int) -> dict:
    """What the server says of itself; empty where nobody answers."""
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health/ready", timeout=5).json()
    except (httpx.TransportError, ValueError):
        return {}


def wait_until_ready(port: int, server: subprocess.Popen, seconds: float = 20) -> None:
    """Return once every worker of the server is ready; fails where it ends, or is not in time."""

    def ready() -> bool:
        assert server.poll() is None, "the server ended"
        return health(port) == {"ready": True}

    wait_for(ready, "the server does not answer", seconds)


@contextmanager
def lanner_serve(
    bundle: Path, folder: Path, *words: str, ready_s: float = 20
) -> Iterator[tuple[subprocess.Popen, int, Path]]:
    """(the process, its port, its log) of ``lanner serve``, ready; it must end in peace. words: of its command."""
    port, log = free_port(), folder / "log"
    command = [sys.executable, "-m", "lanner", "serve", str(bundle), *words, "--port", str(port)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with log.open("w") as opened:
        process = subprocess.Popen(command, env=environment, stdout=opened, stderr=opened)
    try:
        wait_until_ready(port, process, ready_s)
        yield process, port, log
    finally:
        process.terminate()
        try:
            code = process.wait(40)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        assert code == 0, f"it ended with {code}:\n{log.read_text()[-2000:]}"


def children(pid: int) -> set[int]:
    """Processes that a process has started."""
    return {int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}
