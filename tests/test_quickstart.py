"""From a wheel to recommendations on one's own CSV, by the README alone, in an empty folder.

The wheel is installed into an environment that finds the other packages in the one the tests run in: what is tested is
the wheel and the README, not the package index.
"""

import json
import os
import re
import shlex
import subprocess
import sys
import time
import urllib.request
import venv
from pathlib import Path

import pytest

from tests.real_server import free_port

ROOT = Path(__file__).parents[1]
PATIENCE_S = 300


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The ``bin`` folder of an environment with the wheel."""
    folder = tmp_path_factory.mktemp("quickstart")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", folder, ROOT], check=True)
    (wheel,) = folder.glob("lanner-*.whl")
    venv.create(folder / "venv")
    (packages,) = (folder / "venv").glob("lib/python*/site-packages")
    subprocess.run([*pip, "install", "--no-deps", "--target", packages, wheel], check=True)
    others = [path for path in sys.path if path.endswith("site-packages")]
    (packages / "others.pth").write_text("\n".join(others) + "\n")
    return folder / "venv" / "bin"


def commands():
    """The table and the commands of the README's section on one's own data."""
    section = re.search(r"^## Your own data\n(.*?)^## ", (ROOT / "README.md").read_text(), re.M | re.S)[1]
    (table,) = re.findall(r"^```csv\n(.*?)^```", section, re.M | re.S)
    (shell,) = re.findall(r"^```sh\n(.*?)^```", section, re.M | re.S)
    return table, [shlex.split(line, comments=True)[1:] for line in shell.splitlines() if line.startswith("lanner ")]


def test_a_newcomer_gets_recommendations_for_their_own_csv(installed, tmp_path):
    began = time.monotonic()
    table, lines = commands()
    (tmp_path / "events.csv").write_text(table)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def lanner(*arguments, start=subprocess.run, **named):
        command = [installed / "python", "-m", "lanner", *arguments]
        return start(command, cwd=tmp_path, env=environment, text=True, **named)

    where = [installed / "python", "-c", "import lanner; print(lanner.__file__)"]
    found = subprocess.run(where, cwd=tmp_path, env=environment, text=True, capture_output=True, check=True).stdout
    assert found.startswith(str(installed.parent)), "the wheel is used, not the source"
    *before, serve = lines
    assert serve[0] == "serve"
    for line in before:
        done = lanner(*line, capture_output=True)
        assert done.returncode == 0, (line, done.stderr)
    assert (tmp_path / "recommendations.parquet").is_file()
    port = free_port()
    serve[serve.index("--port") + 1] = str(port)
    server = lanner(*serve, start=subprocess.Popen, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        answer = ask(port, server)
    finally:
        server.terminate()
        server.wait(30)
    assert [item["item_id"] for item in answer["items"]]
    assert time.monotonic() - began < PATIENCE_S


def ask(port, server):
    body = json.dumps({"user_id": "ada", "k": 1}).encode()
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/recommend", body, {"content-type": "application/json"}, method="POST"
    )
    while True:
        try:
            with urllib.request.urlopen(request, timeout=5) as reply:
                return json.load(reply)
        except OSError:
            assert server.poll() is None, "the server ended"
            time.sleep(0.2)
