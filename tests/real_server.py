"""A server in a process of its own."""

import subprocess
import time

from lanner.client import Client, Retries
from lanner.errors import ServerError


def wait_until_ready(port: int, server: subprocess.Popen) -> None:
    """Return once the server at a port of this machine is ready; fails where it ends, or is not within 20 s."""
    with Client(f"http://127.0.0.1:{port}", retries=Retries(attempts=1)) as client:
        for _ in range(400):
            assert server.poll() is None
            try:
                assert client.ready().ready
                return
            except ServerError:
                time.sleep(0.05)
    raise AssertionError("the server does not answer")
