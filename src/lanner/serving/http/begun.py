"""A coroutine's first step at once, rather than when the loop next comes round.

Under load a turn of the loop takes milliseconds, and most answers need no second one. A task of Python 3.12 may begin
like this by itself.
"""

import asyncio
from asyncio.tasks import _enter_task, _leave_task
from collections.abc import Coroutine, Generator
from contextvars import copy_context
from typing import Any


class _Begun:
    """A coroutine, one step in; awaited for the rest."""

    def __init__(self, coroutine: Coroutine[Any, Any, None]) -> None:
        self._coroutine = coroutine
        self._waits_for: Any = None
        self._is_done = False
        self._error: BaseException | None = None

    def begin(self) -> None:
        """Take the step, whose errors are kept for who awaits."""
        try:
            self._waits_for = self._coroutine.send(None)
        except StopIteration:
            self._is_done = True
        except BaseException as error:
            self._is_done, self._error = True, error

    def __await__(self) -> Generator[Any, Any, None]:
        if self._error is not None:
            raise self._error
        while not self._is_done:
            error: BaseException | None = None
            try:
                yield self._waits_for
            except BaseException as thrown:
                error = thrown
            try:
                self._waits_for = self._coroutine.send(None) if error is None else self._coroutine.throw(error)
            except StopIteration:
                self._is_done = True


def begun(loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
    """A task of ``coroutine`` that has taken its first step."""
    rest, context = _Begun(coroutine), copy_context()
    task = loop.create_task(_awaited(rest), context=context)
    # What asyncio offers to other kinds of tasks (docs, "Extending"); timeouts look for the task that they end.
    outer = asyncio.current_task(loop)
    if outer is not None:
        _leave_task(loop, outer)
    _enter_task(loop, task)
    try:
        context.run(rest.begin)
    finally:
        _leave_task(loop, task)
        if outer is not None:
            _enter_task(loop, outer)
    return task


async def _awaited(rest: _Begun) -> None:
    await rest
