"""Requests generated from the OpenAPI document, raw malformed ones, and hostile clients.

Each kind of hostile client (``_serving_hostile.py``) attacks for a while next to an honest one with a key, whose p99 is
compared with that of an undisturbed run; the memory that the server gained is read before and after.
"""

import random
import socket
import subprocess
import sys
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.config import SchemathesisConfig

from benchmarks._serving_hostile import ATTACKS
from benchmarks._serving_lengths import Lengths
from benchmarks._serving_load import RECOMMEND, Load, send
from benchmarks._serving_malformed import malformed
from benchmarks._serving_servers import DEADLINE_MS, Launcher, Running, is_ready, lanner
from lanner.serving.http.keys import create

_AT_ONCE = 8
_HONEST_PER_S = 50.0
_WAIT_S = 0.2
"""Timeout of a raw request's reply: many are never completed, and correctly get none."""


def measure(launcher: Launcher, lengths: Lengths) -> dict[str, Any]:
    """Both kinds against one server, which must be ready at the end."""
    with launcher.running(lanner()) as server:
        documented = _documented(server.port, lengths.examples)
        raw = _raw(server.port, lengths.malformed)
        ready = is_ready(server.contender, server.port)
        alive = server.process.is_running()
    found = {"documented": documented, "malformed": raw, "ready_afterwards": ready, "alive_afterwards": alive}
    return found | {"hostile": _hostile(launcher, lengths)}


def _hostile(launcher: Launcher, lengths: Lengths) -> dict[str, Any]:
    """An honest client's latencies, undisturbed and with each kind of hostile client; memory gained, in MiB."""
    with tempfile.TemporaryDirectory() as folder:
        keys = Path(folder) / "keys.toml"
        key = create(keys, "write", "honest")
        with launcher.running(lanner("--keys", str(keys))) as server:
            found: dict[str, Any] = {"calm": _honest(server, launcher, key, lengths.hostile_s)}
            for kind in ATTACKS:
                before = server.memory_mib()
                command = [sys.executable, "-m", "benchmarks._serving_hostile", kind, str(server.port)]
                attack = subprocess.Popen([*command, str(lengths.hostile_s + 2)])
                during = _honest(server, launcher, key, lengths.hostile_s)
                found[kind] = during | {"memory_gained_mib": server.memory_mib() - before}
                attack.wait(60)
                print("abuse", kind, found[kind]["p99_ms"], found[kind]["memory_gained_mib"], flush=True)
    return found


def _honest(server: Running, launcher: Launcher, key: str, seconds: float) -> dict[str, Any]:
    load = Load(server.port, [(_HONEST_PER_S, seconds)], str(launcher.work.requests), 1, connections=8, key=key)
    return send(load).of_kind(RECOMMEND).figures(seconds, DEADLINE_MS / 1e3)


def summary(found: dict[str, Any]) -> dict[str, float]:
    """Replies with a server error. A server that has exited counts as one more."""
    gone = 0 if found["ready_afterwards"] and found["alive_afterwards"] else 1
    return {
        "schema_server_errors": _failed(found["documented"]),
        "malformed_5xx": _failed(found["malformed"]) + gone,
        **_of_hostile(found["hostile"]),
    }


def _of_hostile(found: dict[str, Any]) -> dict[str, float]:
    attacked = [found[kind] for kind in ATTACKS]
    slowest = max(float("inf") if one["p99_ms"] is None else one["p99_ms"] for one in attacked)
    return {
        "abuse_p99_ratio": min(slowest / found["calm"]["p99_ms"], 1e9),
        "abuse_memory_mib": max(one["memory_gained_mib"] for one in attacked),
    }


def _failed(statuses: dict[str, int]) -> int:
    return sum(count for status, count in statuses.items() if status.isdigit() and int(status) >= 500)


def _documented(port: int, examples: int) -> dict[str, int]:
    """Status counts of the requests that schemathesis generates for each operation."""
    statuses: Counter[str] = Counter()
    config = SchemathesisConfig.from_dict({"generation": {"database": "none", "deterministic": True}})
    document = schemathesis.openapi.from_url(f"http://127.0.0.1:{port}/openapi.json", config=config)
    for found in document.get_all_operations():
        _ask(found.ok(), examples, statuses)
    return dict(statuses)


def _ask(operation: Any, examples: int, statuses: "Counter[str]") -> None:
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy())
    def asked(case: Any) -> None:
        statuses[str(case.call().status_code)] += 1

    asked()


def _raw(port: int, number: int) -> dict[str, int]:
    """Status counts; ``none`` if the server closed the connection or waits for more."""
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return dict(Counter(pool.map(lambda seed: _status(port, malformed(random.Random(seed))), range(number))))


def _status(port: int, content: bytes) -> str:
    reply = b""
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.sendall(content)
        connection.settimeout(_WAIT_S)
        reply = connection.recv(65536)
    return reply[9:12].decode("ascii", "replace") if reply.startswith(b"HTTP/1.") else "none"
