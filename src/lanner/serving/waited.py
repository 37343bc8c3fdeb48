"""How long a request has waited before anybody in this process heard of it: its deadline runs since then."""

from contextvars import ContextVar

WAITED_S: ContextVar[float] = ContextVar("waited_s", default=0.0)
"""Seconds at most, before the code that runs in this context began; whoever reads requests sets it."""
