"""A rank that hangs is named, and the run ends: whoever waits for it would wait for ever.

Each rank has a thread beside training. When a step does not come back in time, the first to notice rings; every rank
answers where its main thread stands. Whoever stands outside of torch's communication, or does not answer at all, is the
one that the others wait for.
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
_LOOK = 0.5
"""Seconds between two looks."""


class Watch:
    """Ends this process when a step of any rank takes too long; one line on standard error names the ranks."""

    def __init__(self, timeout: float, answer_seconds: float = 5.0) -> None:
        """timeout: seconds that a step may take, with all that other ranks do before it.

        answer_seconds: how long a rank may take to say where it stands. Must be made by every rank.
        """
        self._timeout, self._patience = timeout, answer_seconds
        self._rank, self._ranks = dist.get_rank(), dist.get_world_size()
        # A connection of its own: the main thread may be waiting in the other one. A store may outlive a restart.
        torch_distributed: Any = dist  # which does not say what it exports
        default = torch_distributed.distributed_c10d._get_default_store()
        once = torch.randint(2**62, (1,))
        dist.broadcast(once, 0)
        self._store: Any = torch_distributed.PrefixStore(f"watch-{int(once)}", default.clone())
        self._main = threading.main_thread().ident
        self._step: tuple[int, float] | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, name="watch", daemon=True)
        self._thread.start()

    @contextmanager
    def step(self, number: int) -> Iterator[None]:
        """Around a step."""
        self._step = (number, time.monotonic() + self._timeout)
        try:
            yield
        finally:
            self._step = None

    def close(self) -> None:
        """Watch no longer."""
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(_LOOK) and dist.is_initialized():
            step = self._step
            late = step is not None and time.monotonic() > step[1]
            try:
                if step is not None and late:
                    self._store.set("rung", str(step[0]))
                if late or self._store.check(["rung"]):
                    self._answer()
            except (RuntimeError, ValueError) as lost:
                # Whoever had the store is gone; the main thread will notice, unless it is the one that hangs.
                if late:
                    _end(f"step took longer than {self._timeout:g} s, and the other ranks cannot be asked ({lost})")
                return

    def _answer(self) -> None:
        """Say where this rank stands; the first rank that waits for others says who does not."""
        waits, place = _stands(self._main)
        self._store.set(f"rank-{self._rank}", json.dumps([waits, place]))
        told = self._told()
        able = [rank for rank, (waiting, _) in sorted(told.items()) if waiting] or sorted(told)
        if self._rank == able[0]:
            number = int(self._store.get("rung"))
            _say(f"step {number} took longer than {self._timeout:g} s: {self._named(told)}")
            self._store.set("said", "")
        self._store.wait(["said"], timedelta(seconds=self._patience))
        os._exit(EXIT_CODE)

    def _told(self) -> dict[int, tuple[bool, str]]:
        """What the ranks answer that do so in time."""
        until, keys = time.monotonic() + self._patience, {rank: f"rank-{rank}" for rank in range(self._ranks)}
        while time.monotonic() < until and not self._store.check(list(keys.values())):
            time.sleep(0.05)
        return {rank: tuple(json.loads(self._store.get(key))) for rank, key in keys.items() if self._store.check([key])}

    def _named(self, told: dict[int, tuple[bool, str]]) -> str:
        silent = [f"rank {rank} does not answer" for rank in range(self._ranks) if rank not in told]
        busy = [f"rank {rank} is still at {place}" for rank, (waits, place) in sorted(told.items()) if not waits]
        if silent or busy:
            return ", ".join([*silent, *busy]) + "; the others wait"
        return "every rank waits for another one; " + ", ".join(f"rank {rank} at {told[rank][1]}" for rank in told)


def _stands(thread: int | None) -> tuple[bool, str]:
    """Whether a thread waits for other ranks, and the line of code outside of torch that it is at."""
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


def _say(line: str) -> None:
    sys.stderr.write(f"lanner: {line}\n")
    sys.stderr.flush()


def _end(line: str) -> None:
    _say(line)
    os._exit(EXIT_CODE)
