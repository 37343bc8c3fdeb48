"""``lanner serve --engine ray`` in a process of its own, and the processes of its replicas."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx


@contextmanager
def serving(
    bundle: Path, folder: Path, *words: str, ready_s: float = 60
) -> Iterator[tuple[subprocess.Popen, str, Path]]:
    """(the process, its address, the path of its store), once it is ready. words: further ones of the command.

    ready_s: how long it may take.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    store, log = folder / "events.db", (folder / "log").open("w")
    words = ("--engine", "ray", *words, "--port", str(port), "--store", str(store))
    settings = ["--set", "ray.cpus=0.5", "--set", "service.deadline_ms=5000"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "lanner", "serve", str(bundle), *words, *settings]
    process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    address = f"http://127.0.0.1:{port}"
    try:
        wait_for(lambda: ready(address), f"no answer; see {folder / 'log'}", ready_s)
        yield process, address, store
    finally:
        left = list(replicas_of(process.pid))
        process.terminate()
        code = process.wait(30)
        assert code == 0, f"it ended with {code}; see {folder / 'log'}"
        wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in left), "replicas outlive their server", 10)


def wait_for(holds: Callable[[], bool], otherwise: str, seconds: float) -> None:
    """Return once something holds; fails with a line where it does not in time."""
    ends = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < ends, otherwise
        time.sleep(0.1)


def ready(address: str) -> bool:
    """Whether a server answers and misses nothing."""
    try:
        return httpx.get(f"{address}/health/ready").json() == {"ready": True}
    except (httpx.TransportError, ValueError):
        return False


def replicas_of(server: int) -> Iterator[int]:
    """Processes of replicas below a server's own, which Ray names in their command line."""
    parents, names = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                names[int(entry.name)] = (entry / "cmdline").read_bytes()
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue  # it has ended meanwhile
    for pid, name in names.items():
        above = pid
        while above in parents and above != server:
            above = parents[above]
        if above == server and name.startswith(b"ray::ServeReplica"):
            yield pid
