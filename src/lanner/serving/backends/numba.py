"""Texts read by this project's own code, compiled by Numba: no runtime is installed, and no text is padded.

It is for processors that have AVX2 but no INT8 products of their own; where they have them, the other runtimes use
them.
"""

import os
import weakref
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import accumulate
from threading import Lock, Thread
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load

from lanner.errors import BundleError, ConfigError
from lanner.models.encoder_codes import BLOCK, LINEAR, NORMS
from lanner.models.encoder_shape import EncoderShape
from lanner.models.request_form import take
from lanner.prefetch import CACHE_LINE
from lanner.serving.backends.contract import Backend
from lanner.serving.backends.numba_encoder import FIRST_LINEAR, FIRST_NORM, OF_LINEAR, PLAN_WIDTH, read_texts
from lanner.serving.backends.numba_products import PANEL, PANEL_OF_CODES, processor_has_avx2
from lanner.serving.backends.numba_threads import APART

_TOKENS_AT_ONCE = 1024
"""As many as fit the memory that threads work in; a longer text is read alone."""
_ROWS_AT_ONCE = 12
"""Whose scores are held for one head: two tiles."""
_FAR = 1 << 62
"""Beyond where any thread waits for another."""


class NumbaBackend(Backend):
    """Reads ``encoder.codes.safetensors`` where the rung has it (INT8), else ``encoder.safetensors`` (float32)."""

    name: ClassVar[str] = "numba"

    def _open(self) -> None:
        if not processor_has_avx2():
            raise ConfigError("the backend 'numba' needs a processor that has AVX2; choose 'onnxruntime' instead")

    def _load_network(self) -> Any:
        return self.rung.form.map_tables(take)

    def score_vectors(self, users_BD: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.asarray(self._network.score(users_BD))

    def _load_encoder(self) -> Any:
        roles = [role for role in ("encoder.codes.safetensors", "encoder.safetensors") if role in self.rung.files]
        if not roles:
            raise ConfigError(f"the variant '{self.rung.name}' has no encoder.safetensors; choose another backend")
        shape = EncoderShape(**self.rung.figures["encoder_shape"])
        try:
            return _Encoder(shape, load(self.rung.files[roles[0]]), self.threads)
        except (SafetensorError, KeyError, ValueError) as error:
            raise BundleError(
                f"{self.rung.name}.{roles[0]}: no encoder of the shape it comes with ({error})"
            ) from error

    def _encode_tokens(self, ids: Sequence[NDArray[np.int64]], vectors_TE: NDArray[np.float32]) -> None:
        first = 0
        while first < len(ids):
            last, tokens = first + 1, len(ids[first])
            while last < len(ids) and tokens + len(ids[last]) <= _TOKENS_AT_ONCE:
                tokens += len(ids[last])
                last += 1
            if tokens:
                self._encoder(ids[first:last], vectors_TE[first:last])
            first = last


class _Encoder:
    """An encoder's numbers as compiled code reads them, and the threads that share its work."""

    def __init__(self, shape: EncoderShape, arrays: Mapping[str, NDArray[Any]], threads: int) -> None:
        if "words.codes" in arrays:
            words = arrays["words.codes"], arrays["words.scale"]
        else:
            words = arrays["words.weight"], np.empty(0, np.float32)
        layer, plan, first_norm = _laid_out(shape, arrays)
        positions, epsilon = np.ascontiguousarray(arrays["positions.weight"]), np.float32(shape.norm_epsilon)
        numbers = (words, positions, layer, plan, first_norm, shape.head_size, epsilon)
        self._shape, self._new_team = shape, partial(_Team, shape, numbers)
        self._teams = [self._new_team(threads)]

    def __call__(self, ids: Sequence[NDArray[np.int64]], vectors_TE: NDArray[np.float32]) -> None:
        """Write the vectors of texts, given by their tokens.

        Raises:
            BundleError: a text has more tokens than the encoder has positions, or one that it does not know.
        """
        starts = np.array([0, *accumulate(len(one) for one in ids)], np.int64)
        tokens = ids[0] if len(ids) == 1 else np.concatenate(ids)
        try:
            team = self._teams.pop()
        except IndexError:
            # All are busy, and so are the cores.
            team = self._new_team(1)
        if team.process != os.getpid():
            # A process that was forked has no threads but one.
            team = self._new_team(team.threads)
        try:
            if not team.read(tokens, starts, vectors_TE):
                longest = max(len(one) for one in ids)
                raise BundleError(
                    f"a text of {longest} tokens up to number {tokens.max()} came to an encoder of "
                    f"{self._shape.positions} positions and {self._shape.vocabulary} tokens; its tokeniser is another "
                    "one's: compress anew"
                )
        except BaseException:
            # Refused or interrupted. Its threads may have been called or not, and only a new one knows where it stands.
            team = self._new_team(team.threads)
            raise
        finally:
            self._teams.append(team)


class _Team:
    """Threads that read the same texts, the caller's one of them, and the memory that they work in."""

    def __init__(self, shape: EncoderShape, numbers: tuple[Any, ...], threads: int) -> None:
        self.threads, self.process = threads, os.getpid()
        self._numbers, self._layers = numbers, shape.num_layers
        self._room = _room(shape, threads)
        self._reached, self._begun = np.zeros(APART * threads, np.int64), 0
        self._progress = self._reached, np.zeros((2, APART * threads))
        self._asked: list[Any] = []
        self._calls = [Lock() for _ in range(1, threads)]
        for part, call in enumerate(self._calls, 1):
            call.acquire()
            Thread(target=_follow, args=(self._asked, call, part), name="encoder", daemon=True).start()
        weakref.finalize(self, _dismiss, self._asked, self._calls)

    def read(self, tokens: NDArray[np.int64], starts: NDArray[np.int64], vectors_TE: NDArray[np.float32]) -> bool:
        """As ``read_texts``; returns when all threads have done their part."""
        asked = (self.threads, self._progress, self._begun, tokens, starts, self._numbers, self._room, vectors_TE)
        self._begun += self._layers + 1
        try:
            self._asked[:] = asked
            for call in self._calls:
                call.release()
            return bool(read_texts(0, *asked))
        except BaseException:
            # Who was called must not wait for ever for this thread, or for one that was not called.
            self._reached[:] = _FAR
            raise


def _follow(asked: list[Any], call: Lock, part: int) -> None:
    """What a thread does until nothing is asked any more. It knows nothing of its team, which may thus end."""
    while call.acquire() and (now := tuple(asked)):
        read_texts(part, *now)


def _dismiss(asked: list[Any], calls: Sequence[Lock]) -> None:
    asked.clear()
    for call in calls:
        if call.locked():
            call.release()


def _room(shape: EncoderShape, threads: int) -> tuple[Any, ...]:
    """What ``read_texts`` writes, for as many tokens as may come at once. What is never written takes no memory."""
    tokens = max(_TOKENS_AT_ONCE, shape.positions)
    met, inner, hidden = (
        max(shape.heads) * shape.head_size,
        _up(max(shape.feed_forward), PANEL_OF_CODES),
        _up(shape.hidden, PANEL_OF_CODES),
    )
    return (
        _floats(tokens, hidden),
        # Heads are read and written a panel at a time, which may be more than they have.
        _floats(2, tokens + 1, _up(3 * met, PANEL_OF_CODES) + PANEL),
        # Each text's keys begin a panel.
        _floats(2, tokens, met, PANEL),
        _floats(tokens, _up(met, PANEL) + PANEL),
        _floats(tokens, inner),
        _floats(tokens, hidden),
        _floats(threads, _ROWS_AT_ONCE, _up(tokens, PANEL)),
        (
            np.zeros((tokens, max(inner, hidden, _up(met, PANEL))), np.uint8),
            _floats(tokens),
            _floats(tokens),
        ),
    )


def _floats(*lengths: int) -> NDArray[np.float32]:
    return np.zeros(lengths, np.float32)


def _up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple


def _laid_out(shape: EncoderShape, arrays: Mapping[str, NDArray[Any]]) -> tuple[Any, NDArray[np.int64], int]:
    """(weights, numbers) one after the other, the plan that says where, and where the first norm stands."""
    weights: list[NDArray[Any]] = []
    numbers: list[NDArray[np.float32]] = []
    at = {"weights": 0, "numbers": 0}

    def put(where: str, into: list[Any], array: NDArray[Any]) -> int:
        into.append(array.ravel())
        at[where] += array.size
        return at[where] - array.size

    def norm(name: str) -> int:
        return put("numbers", numbers, np.stack([arrays[f"{name}.weight"], arrays[f"{name}.bias"]]))

    plan = np.zeros((shape.num_layers, PLAN_WIDTH), np.int64)
    for number, (heads, inner) in enumerate(zip(shape.heads, shape.feed_forward, strict=True)):
        plan[number, :FIRST_LINEAR] = heads, inner
        met, hidden = heads * shape.head_size, shape.hidden
        sizes = ((3 * met, hidden), (hidden, met), (inner, hidden), (hidden, inner))
        for place, (name, size) in enumerate(zip(LINEAR, sizes, strict=True)):
            stem = f"layers.{number}.{name}"
            rows, of_outputs = _weights(arrays, stem, size)
            begin = FIRST_LINEAR + OF_LINEAR * place
            plan[number, begin : begin + OF_LINEAR] = (
                put("weights", weights, _panels(rows)),
                rows.shape[1],
                len(rows),
                put("numbers", numbers, of_outputs),
            )
        plan[number, FIRST_NORM:] = [norm(f"layers.{number}.{name}") for name in NORMS]
    first_norm = norm("norm")
    # The panel behind the last one is asked for, too; nothing need be there.
    laid = tuple(_one_after_the_other(one) for one in (weights, numbers))
    return laid, plan, first_norm


def _one_after_the_other(arrays: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Arrays in one, which begins where a cache line does, so that no register is read from two."""
    size, element = sum(array.size for array in arrays), arrays[0].dtype
    room = np.empty(size * element.itemsize + CACHE_LINE, np.uint8)
    begin = -room.ctypes.data % CACHE_LINE
    whole = room[begin : begin + size * element.itemsize].view(element)
    return np.concatenate(arrays, out=whole)


def _weights(
    arrays: Mapping[str, NDArray[Any]], stem: str, shape: tuple[int, int]
) -> tuple[NDArray[Any], NDArray[np.float32]]:
    """Weights ``[outputs, inputs]`` of a linear map, padded with zeros, and its numbers as ``linear`` has them."""
    codes, bias = arrays.get(f"{stem}.codes"), arrays[f"{stem}.bias"]
    rows = np.asarray(arrays[f"{stem}.weight"], np.float32) if codes is None else codes
    if rows.shape != shape:
        raise ValueError(f"{stem} is {list(rows.shape)}, expected {list(shape)}")
    numbers = bias[None]
    if codes is not None:
        scale = arrays[f"{stem}.scale"]
        numbers = np.stack([scale, scale * codes.sum(axis=1, dtype=np.float32), bias])
    outputs = _up(len(rows), _panel(rows)) - len(rows)
    inputs = _up(rows.shape[1], BLOCK) - rows.shape[1]
    return np.pad(rows, ((0, outputs), (0, inputs))), np.pad(numbers, ((0, 0), (0, outputs)))


def _panel(rows: NDArray[Any]) -> int:
    return PANEL_OF_CODES if rows.dtype == np.int8 else PANEL


def _panels(rows: NDArray[Any]) -> NDArray[Any]:
    """The weights in the order in which a tile reads them: float32 one by one, INT8 in fours."""
    (outputs, inputs), panel = rows.shape, _panel(rows)
    together = 4 if rows.dtype == np.int8 else 1
    return rows.reshape(outputs // panel, panel, inputs // together, together).transpose(0, 2, 1, 3)
