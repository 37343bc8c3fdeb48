"""Watchdog: names a hanging rank and ends the run, since the other ranks would wait for it forever.

Each rank has a watchdog thread. When a step times out, the first rank to notice raises an alarm, and every rank reports
where its main thread is. A rank that is outside torch's communication, or does not answer, is the one that the others
wait for.
"""

import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

EXIT_CODE = 2
_COMMUNICATION = (Path(dist.__file__).parent, Path(__file__).parent)
_WAITING = Path(threading.__file__)
_POLL_SECONDS = 0.5
"""Seconds between two checks."""


class Watch:
    """Ends this process when a step of any rank takes too long; one line on standard error names the ranks."""

    def __init__(self, timeout: float, answer_seconds: float = 5.0) -> None:
        """timeout: seconds that a step may take, including the wait for other ranks.

        answer_seconds: how long a rank may take to report. Must be constructed on every rank.
        """
        self._timeout, self._patience = timeout, answer_seconds
        self._rank, self._ranks = dist.get_rank(), dist.get_world_size()
        # A separate connection, since the main thread may be blocked in the other one; a unique prefix, since a store
        # may outlive a restart.
        torch_distributed: Any = dist  # implicit re-exports
        default = torch_distributed.distributed_c10d._get_default_store()
        once = torch.randint(2**62, (1,))
        dist.broadcast(once, 0)
        self._store: Any = torch_distributed.PrefixStore(f"watch-{int(once)}", default.clone())
        self._main = threading.main_thread().ident
        self._step: tuple[int, float] | None = None
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._monitor, name="watch", daemon=True)
        self._thread.start()

    @contextmanager
    def step(self, number: int) -> Iterator[None]:
        """Wraps a step."""
        self._step = (number, time.monotonic() + self._timeout)
        try:
            yield
        finally:
            self._step = None

    def close(self) -> None:
        """Stop the watchdog."""
        self._closed.set()
        self._thread.join()

    def _monitor(self) -> None:
        while not self._closed.wait(_POLL_SECONDS) and dist.is_initialized():
            step = self._step
            late = step is not None and time.monotonic() > step[1]
            try:
                if step is not None and late:
                    self._store.set("rung", str(step[0]))
                if late or self._store.check(["rung"]):
                    self._report_hang()
            except (RuntimeError, ValueError) as lost:
                # The rank that hosted the store is gone; the main thread will notice, unless it hangs itself.
                if late:
                    _abort(f"step took longer than {self._timeout:g} s, and the other ranks cannot be reached ({lost})")
                return

    def _report_hang(self) -> None:
        """Report where this rank is; the first waiting rank names those that are not waiting."""
        waits, place = _locate_thread(self._main)
        self._store.set(f"rank-{self._rank}", json.dumps([waits, place]))
        reports = self._collect_reports()
        able = [rank for rank, (waiting, _) in sorted(reports.items()) if waiting] or sorted(reports)
        if self._rank == able[0]:
            number = int(self._store.get("rung"))
            _write_line(f"step {number} took longer than {self._timeout:g} s: {self._describe(reports)}")
            self._store.set("said", "")
        self._store.wait(["said"], timedelta(seconds=self._patience))
        os._exit(EXIT_CODE)

    def _collect_reports(self) -> dict[int, tuple[bool, str]]:
        """Reports of the ranks that answer in time."""
        until, keys = time.monotonic() + self._patience, {rank: f"rank-{rank}" for rank in range(self._ranks)}
        while time.monotonic() < until and not self._store.check(list(keys.values())):
            time.sleep(0.05)
        return {rank: tuple(json.loads(self._store.get(key))) for rank, key in keys.items() if self._store.check([key])}

    def _describe(self, reports: dict[int, tuple[bool, str]]) -> str:
        silent = [f"rank {rank} does not answer" for rank in range(self._ranks) if rank not in reports]
        busy = [f"rank {rank} is still at {place}" for rank, (waits, place) in sorted(reports.items()) if not waits]
        if silent or busy:
            return ", ".join([*silent, *busy]) + "; the others are waiting"
        return "every rank is waiting for another; " + ", ".join(
            f"rank {rank} at {reports[rank][1]}" for rank in reports
        )


def _locate_thread(thread: int | None) -> tuple[bool, str]:
    """Whether a thread is waiting for other ranks, and its innermost line of code outside torch."""
    frame = sys._current_frames().get(thread or 0)
    files = []
    while frame is not None:
        files.append((Path(frame.f_code.co_filename), frame.f_lineno, frame.f_code.co_name))
        frame = frame.f_back
    inner = next((one for one in files if one[0] != _WAITING and "concurrent" not in one[0].parts), None)
    if inner is None:
        return False, "its end"
    waits = any(inner[0].is_relative_to(folder) for folder in _COMMUNICATION)
    outside = Path(torch.__file__).parent
    file, line, name = next((one for one in files if not one[0].is_relative_to(outside)), inner)
    return waits, f"{file.name}:{line} ({name})"


def _write_line(line: str) -> None:
    sys.stderr.write(f"lanner: {line}\n")
    sys.stderr.flush()


def _abort(line: str) -> None:
    _write_line(line)
    os._exit(EXIT_CODE)
