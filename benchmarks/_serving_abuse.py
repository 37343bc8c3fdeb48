"""Figure 7: requests made up from the OpenAPI document, and raw ones that no document allows."""

import random
import socket
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.config import SchemathesisConfig

from benchmarks._serving_lengths import Lengths
from benchmarks._serving_malformed import malformed
from benchmarks._serving_servers import Launcher, is_ready, lanner

_AT_ONCE = 8
_WAIT_S = 0.2
"""For a reply to a raw request: many are never finished, and rightly have none."""


def measure(launcher: Launcher, lengths: Lengths) -> dict[str, Any]:
    """Both kinds against one server, which must be ready in the end."""
    with launcher.running(lanner()) as server:
        documented = _documented(server.port, lengths.examples)
        raw = _raw(server.port, lengths.malformed)
        ready = is_ready(server.contender, server.port)
        alive = server.process.is_running()
    return {"documented": documented, "malformed": raw, "ready_afterwards": ready, "alive_afterwards": alive}


def summary(found: dict[str, Any]) -> dict[str, int]:
    """Replies that say that the server failed. A server that is gone counts as one more."""
    gone = 0 if found["ready_afterwards"] and found["alive_afterwards"] else 1
    return {
        "schema_server_errors": _failed(found["documented"]),
        "malformed_5xx": _failed(found["malformed"]) + gone,
    }


def _failed(statuses: dict[str, int]) -> int:
    return sum(count for status, count in statuses.items() if status.isdigit() and int(status) >= 500)


def _documented(port: int, examples: int) -> dict[str, int]:
    """Statuses, counted, of what schemathesis makes up for each operation."""
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
    """Statuses, counted; ``none`` where the server closed or waits for more."""
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return dict(Counter(pool.map(lambda seed: _status(port, malformed(random.Random(seed))), range(number))))


def _status(port: int, content: bytes) -> str:
    reply = b""
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.sendall(content)
        connection.settimeout(_WAIT_S)
        reply = connection.recv(65536)
    return reply[9:12].decode("ascii", "replace") if reply.startswith(b"HTTP/1.") else "none"
