"""How threads share one call of compiled code: where they meet, and how many tokens each is to read."""

from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

APART = 8
"""Numbers between those that two threads write: a cache line."""
_SLOWEST = 0.25
"""Share of the fastest thread's tokens that even the slowest is given."""
_LOOKS = 4096
"""At another thread's progress before its core may be wanted by somebody else: some 40 µs."""
_INT, _LONG = ir.IntType(32), ir.IntType(64)


@intrinsic  # type: ignore[untyped-decorator]
def _reach(typing_context: Any, reached: Any, place: Any, number: Any) -> Any:
    """Write ``reached[place]``, and all that was written before, for other threads to see."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array = context.make_array(reached)(context, builder, arguments[0])
        builder.store_atomic(arguments[2], builder.gep(array.data, [arguments[1]]), "release", 8)
        return context.get_dummy_value()

    return types.void(reached, types.int64, types.int64), generate


@intrinsic  # type: ignore[untyped-decorator]
def _reached(typing_context: Any, reached: Any, place: Any) -> Any:
    """``reached[place]``, after which all is seen that its writer wrote before."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array = context.make_array(reached)(context, builder, arguments[0])
        return builder.load_atomic(builder.gep(array.data, [arguments[1]]), "acquire", 8)

    return types.int64(reached, types.int64), generate


@intrinsic  # type: ignore[untyped-decorator]
def clock(typing_context: Any) -> Any:
    """Ticks of this core, at a steady rate."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(_LONG, []), "llvm.readcyclecounter")
        return builder.call(function, [])

    return types.int64(), generate


@intrinsic  # type: ignore[untyped-decorator]
def _give_way(typing_context: Any) -> Any:
    """Let another thread have this core, if one waits for it."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        builder.call(cgutils.get_or_insert_function(builder.module, ir.FunctionType(_INT, []), "sched_yield"), [])
        return context.get_dummy_value()

    return types.void(), generate


@njit(cache=True, nogil=True, error_model="numpy")  # type: ignore[untyped-decorator]
def meet(progress: Any, part: Any, parts: Any, number: Any, tokens: Any, since: Any) -> None:
    """Return when all threads have come so far; this one read so many tokens ``since`` then.

    progress: (reached, pace): int64, how far each thread is, and float64 ``[2, …]``, tokens a tick of each before the
    last meeting and before the one before that.
    """
    reached, pace = progress
    pace[number & 1, part * APART] = tokens / max(clock() - since, 1)
    _reach(reached, part * APART, number)
    for other in range(parts):
        looks = 0
        while _reached(reached, other * APART) < number:
            looks += 1
            if looks > _LOOKS:
                _give_way()


@njit(cache=True, nogil=True, error_model="numpy")  # type: ignore[untyped-decorator]
def run_of(pace: Any, part: Any, parts: Any, number: Any, tokens: Any) -> Any:
    """(first, last) of the tokens a thread is to read: the more, the faster it was before the ``number``-th meeting.

    A core may be slower than another for seconds, where somebody else computes beside it, and who waits does nothing.
    All threads find the same runs: what was written then stays until they have met once more.
    """
    fastest = 0.0
    for other in range(parts):
        fastest = max(fastest, pace[number & 1, other * APART])
    before, upto, total = 0.0, 0.0, 0.0
    for other in range(parts):
        # Who read nothing is given something to be fast with.
        speed = max(pace[number & 1, other * APART], _SLOWEST * fastest) if fastest > 0 else 1.0
        before += speed if other < part else 0.0
        upto += speed if other <= part else 0.0
        total += speed
    return _in_pairs(tokens, before / total), _in_pairs(tokens, upto / total)


@njit(cache=True, nogil=True, error_model="numpy")  # type: ignore[untyped-decorator]
def _in_pairs(tokens: Any, share: Any) -> Any:
    """How many tokens are nearest to a share of all; an even number, as they are multiplied two by two, or all."""
    return min(tokens, 2 * int(tokens * share / 2 + 0.5))
