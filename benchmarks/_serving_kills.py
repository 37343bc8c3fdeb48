"""SIGKILL at random moments while events arrive, and what the store holds in the end.

Clients send batches under idempotency keys and repeat each until it is acknowledged, as ``lanner.client`` does. Every
event has its own user, so that the store can be compared with what was acknowledged, event by event. SIGKILL ends the
process, not the machine: data already handed to the operating system survives, so this does not cover power cuts.
"""

import http.client
import itertools
import json
import tempfile
import time
from collections import Counter
from pathlib import Path
from threading import Event, Thread
from typing import Any

import numpy as np

from benchmarks._serving_lengths import Lengths
from benchmarks._serving_servers import Launcher, free_port, lanner
from lanner.serving.store import open_store

_CLIENTS, _BATCH = 4, 5
_LONGEST_LIFE_S = 0.5
_PAUSE_S = 0.02
_SEED = 3


class _Client(Thread):
    """Sends batch after batch until stopped; ``acknowledged``: users whose event was acknowledged."""

    def __init__(self, number: int, port: int, stopped: Event) -> None:
        super().__init__(daemon=True)
        self._number, self._port, self._stopped = number, port, stopped
        self.acknowledged: list[str] = []
        self.repeated = 0

    def run(self) -> None:
        for batch in itertools.count():
            names = [f"kill-{self._number}-{batch}-{one}" for one in range(_BATCH)]
            body = json.dumps({"events": [{"user_id": name, "item_id": "0", "key": name} for name in names]})
            while not self._sent(body):
                self.repeated += 1
                time.sleep(_PAUSE_S)
            self.acknowledged += names
            if self._stopped.is_set():
                return

    def _sent(self, body: str) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=5)
        try:
            connection.request("POST", "/v1/events", body, {"content-type": "application/json"})
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()


def measure(launcher: Launcher, lengths: Lengths) -> dict[str, Any]:
    """Kill and restart on the same store repeatedly; then compare."""
    random, port, stopped = np.random.default_rng(_SEED), free_port(), Event()
    clients = [_Client(number, port, stopped) for number in range(_CLIENTS)]
    ready_s = []
    with tempfile.TemporaryDirectory() as folder:
        store, log = str(Path(folder) / "events.db"), Path(folder) / "log"
        server = launcher.start(lanner(), store, log, port)
        for client in clients:
            client.start()
        for _ in range(lengths.kills):
            time.sleep(random.uniform(0, _LONGEST_LIFE_S))
            server.kill()
            server = launcher.start(lanner(), store, log, port)
            ready_s.append(server.ready_s)
        stopped.set()
        for client in clients:
            client.join()
        server.kill()
        stored = _stored(store)
    acknowledged = Counter(name for client in clients for name in client.acknowledged)
    return {
        "kills": lengths.kills,
        "acknowledged": len(acknowledged),
        "repeated_batches": sum(client.repeated for client in clients),
        "lost": sum(stored[name] == 0 for name in acknowledged),
        "duplicated": sum(count > 1 for count in stored.values()),
        "ready_s_median": float(np.median(ready_s)),
        "ready_s_max": max(ready_s),
    }


def summary(found: dict[str, Any]) -> dict[str, float]:
    """Number of kills, events lost, and the longest time until the server was ready again."""
    return {"kills": found["kills"], "acknowledged_events_lost": found["lost"], "restart_s": found["ready_s_max"]}


def _stored(path: str) -> Counter[str]:
    """How many events each user has in a store that no other process has open."""
    store = open_store(path)
    try:
        return Counter(row.user_id for rows in store.events() for row in rows)
    finally:
        store.close()
