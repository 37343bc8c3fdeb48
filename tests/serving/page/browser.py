"""A server for the page, a Chromium that opens it, and the errors of both."""

import os
import shutil
import socket
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

from real_server import wait_until_ready

HERE = Path(__file__).parent
CHROMIUM = shutil.which("chromium")
OPTIONS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
WATCH_POLICY = """
window.violations = [];
document.addEventListener("securitypolicyviolation", (event) => window.violations.push(event.violatedDirective));
"""


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@contextmanager
def server(log_path, port, **environment):
    """The small cinema under uvicorn; yields the process."""
    paths = [str(HERE), str(HERE.parent / "http"), *sys.path]
    environment = {**os.environ, **environment, "PYTHONPATH": os.pathsep.join(paths)}
    serve = "import socket, small_cinema, lanner.serving.http.server as server"
    serve += f"; server.run_worker(small_cinema.served(), [socket.create_server(('127.0.0.1', {port}))])"
    with log_path.open("w") as log:
        process = subprocess.Popen([sys.executable, "-c", serve], env=environment, stdout=log, stderr=log)
        try:
            wait_until_ready(port, process)
            yield process
        finally:
            process.terminate()
            process.wait(20)
    assert "Traceback" not in log_path.read_text()


class Watched:
    """A tab and everything it did: lines of the console, and addresses asked for."""

    def __init__(self, browser, origin, **options):
        self.origin = origin
        self.context = browser.new_context(**({"viewport": {"width": 1440, "height": 1000}} | options))
        self.context.set_default_timeout(10_000)
        self.page = self.context.new_page()
        self.page.add_init_script(WATCH_POLICY)
        self.complaints, self.requests = [], []
        self.page.on("console", lambda line: line.type in ("error", "warning") and self.complaints.append(line.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request))
        self.page.goto(origin)
        self.page.wait_for_selector("#state:not([data-state=waiting])")

    def unwanted(self, allowed=""):
        """What must not happen on a page: broken policy, errors, requests to elsewhere. allowed: part of a line."""
        elsewhere = [one.url for one in self.requests if not one.url.startswith((self.origin, "data:"))]
        complaints = [line for line in self.complaints if not allowed or allowed not in line]
        return self.page.evaluate("window.violations") + complaints + elsewhere
