"""A throwaway Redis where the program is installed."""

import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest


class RedisServer:
    """One on a free port, without persistence."""

    def __init__(self, program: str, folder: Path) -> None:
        self.program, self.folder = program, folder
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
            self.port = one.getsockname()[1]
        self.start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        settings = ["--bind", "127.0.0.1", "--port", str(self.port), "--save", "", "--appendonly", "no"]
        self.process = subprocess.Popen([self.program, *settings], cwd=self.folder, stdout=subprocess.DEVNULL)
        for _ in range(500):
            with socket.socket() as one:
                if one.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.01)
        raise OSError("it does not listen")

    def stop(self) -> None:
        self.hang(False)
        self.process.kill()
        self.process.wait()

    def hang(self, hangs: bool) -> None:
        """Take connections and answer nothing; what is held stays."""
        self.process.send_signal(signal.SIGSTOP if hangs else signal.SIGCONT)


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    pytest.importorskip("redis", reason="the extra 'redis' is not installed")
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("Redis is not installed (no redis-server)")
    try:
        server = RedisServer(program, tmp_path)
    except OSError as error:
        pytest.skip(f"Redis cannot be started here: {error}")
    yield server
    server.stop()
