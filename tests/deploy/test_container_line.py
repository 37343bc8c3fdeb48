"""The container command line of docs/interop.md: its contents run here without the container."""

import json
import re
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from tests.real_server import free_port

ROOT = Path(__file__).parents[2]
LINE = re.search(r"^docker run (.*) lanner -c \"(.*)\"$", (ROOT / "docs" / "interop.md").read_text(), re.M)


def test_it_opens_the_port_of_the_image():
    (exposed,) = re.findall(r"^EXPOSE (\d+)$", (ROOT / "deploy" / "Dockerfile").read_text(), re.M)
    assert f"-p 127.0.0.1:{exposed}:{exposed}" in LINE[1]
    assert f"--port {exposed}" in LINE[2]


def test_what_runs_in_the_container_answers(tmp_path):
    pytest.importorskip("uvicorn", reason="the extra 'serving' is not installed")
    port = free_port()
    line = LINE[2].replace("/tmp/", f"{tmp_path}/").replace("lanner ", f"{sys.executable} -m lanner ")
    line = line.replace("--port 8080", f"--port {port}")
    train, serve = line.split(" && ")
    subprocess.run(["sh", "-c", train], check=True, cwd=tmp_path, capture_output=True)
    server = subprocess.Popen(
        ["sh", "-c", f"exec {serve}"], cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        assert len(answer(port, server)["items"]) == 3
    finally:
        server.terminate()
        server.wait(30)


def answer(port, server):
    body = json.dumps({"user_id": "42", "k": 3}).encode()
    headers = {"content-type": "application/json"}
    request = urllib.request.Request(f"http://127.0.0.1:{port}/v1/recommend", body, headers, method="POST")
    while True:
        try:
            with urllib.request.urlopen(request, timeout=5) as reply:
                return json.load(reply)
        except OSError:
            assert server.poll() is None, "the server ended"
            time.sleep(0.2)
