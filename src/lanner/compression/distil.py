"""A pruned encoder learns to give the vectors that the whole one gave.

The student minimises 1 − cosine to the teacher's sentence vectors, which are computed once (the last-layer distillation
of Sanh et al. 2019 and Reimers & Gurevych, EMNLP 2020). Requests are short where a catalogue's texts are long:
``with_spans`` adds random passages of each text.
"""

import copy
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from lanner.models.batches_of_texts import batches_of_tokens, pad_right
from lanner.models.compact_encoder import CompactEncoder, vectors_of
from lanner.training.interrupts import interrupts_held
from lanner.vocabulary import ConfigError, Interrupted

TokenIds = Sequence[NDArray[np.int32]]
Report = Callable[[float, float], None]
_HELD_OUT = 0.1
_TOKENS_PER_STEP = 1024
_WARM_UP = 0.05
"""Share of the training in which the step size rises."""
_LARGEST_GRADIENT = 1.0
_SHORTEST_SPAN = 2
"""Tokens, special ones apart."""


@dataclass(frozen=True)
class Recovery:
    """What ``recover`` gives back. cosine: mean over the held-out texts, of the student before and after."""

    encoder: CompactEncoder
    cosine_before: float
    cosine: float
    epochs: float
    """Passes over the texts, a broken-off one in part."""


def with_spans(
    token_ids: TokenIds, *, per_text: int, longest: int, seed: int
) -> tuple[list[NDArray[np.int32]], NDArray[np.int64]]:
    """The texts, then ``per_text`` random passages of each that is long enough to have one.

    A passage stands between the text's first and last token ([CLS] and [SEP]); its length is drawn from 2 to
    ``longest`` tokens with those two, short ones as likely as twice as long ones.

    Returns:
        Token ids of texts and passages, and for each the number of the text that it came from.
    """
    draw = np.random.default_rng(seed)
    parts = [np.asarray(ids, np.int32) for ids in token_ids]
    source = list(range(len(parts)))
    for number, ids in enumerate(token_ids):
        most = min(len(ids) - 3, longest - 2)
        for _ in range(per_text if most >= _SHORTEST_SPAN else 0):
            length = int(np.exp(draw.uniform(np.log(_SHORTEST_SPAN), np.log(most + 1))))
            start = int(draw.integers(1, len(ids) - length))
            parts.append(np.concatenate([ids[:1], ids[start : start + length], ids[-1:]]).astype(np.int32))
            source.append(number)
    return parts, np.array(source, np.int64)


def recover(
    student: CompactEncoder,
    teacher_vectors: NDArray[np.float32],
    token_ids: TokenIds,
    *,
    epochs: int,
    learning_rate: float,
    seed: int,
    seconds: float | None = None,
    source: NDArray[np.int64] | None = None,
    progress: Report | None = None,
) -> Recovery:
    """Train a copy of ``student`` to give ``teacher_vectors``; the best by held-out cosine is returned.

    A tenth of the texts is held out and judged after every epoch, and where the time ends. Without ``seconds`` the
    result depends on nothing but the arguments and the number of threads; with it, also on how far it got.

    Args:
        student: what to start from; left as it is.
        teacher_vectors: float32 ``[T, D]``, of length 1.
        token_ids: T texts, in the student's own vocabulary, special tokens included.
        epochs: passes over the texts.
        learning_rate: AdamW's largest step size; it rises, then falls to 0 by a half cosine.
        seed: of what is held out and of the order.
        seconds: stop after so many; the step size falls accordingly.
        source: ``[T]`` which text each row is a part of: parts of one text are held out together.
        progress: told the share that is done and the best held-out cosine, after every epoch.

    Raises:
        ConfigError: sizes do not match, there are fewer than two texts, or a setting is out of range.
        Interrupted: Ctrl-C; the student is as it was.
    """
    source = np.arange(len(token_ids)) if source is None else source
    _require_sound(student, teacher_vectors, token_ids, epochs, learning_rate)
    if len(np.unique(source)) < 2:
        raise ConfigError(
            f"distillation needs at least 2 texts, one of them to judge by, received {len(np.unique(source))}"
        )
    held_out = _held_out(source, seed)
    training = _Training(copy.deepcopy(student).train(), teacher_vectors, token_ids, learning_rate)
    judged = [ids for ids, out in zip(token_ids, held_out, strict=True) if out]
    before = training.cosine(judged, teacher_vectors[held_out])
    best, best_state, done = before, student.state_dict(), 0.0
    ends = None if seconds is None else (time.perf_counter(), seconds)
    with interrupts_held() as must_stop:
        for epoch in range(epochs):
            batches = _shuffled_batches(token_ids, ~held_out, np.random.default_rng((seed, epoch)))
            done = training.pass_over(batches, epoch, epochs, ends, must_stop)
            cosine = training.cosine(judged, teacher_vectors[held_out])
            if cosine > best:
                best, best_state = cosine, copy.deepcopy(training.student.state_dict())
            if progress:
                progress(done, best)
            if done < (epoch + 1) / epochs:
                break
    return Recovery(CompactEncoder.from_state(student.shape, best_state), before, best, done * epochs)


class _Training:
    """The student, its optimizer, and one step of both."""

    def __init__(
        self, student: CompactEncoder, teacher_vectors: NDArray[np.float32], token_ids: TokenIds, learning_rate: float
    ) -> None:
        self.student, self.token_ids, self.learning_rate = student, token_ids, learning_rate
        self.teacher_TD = torch.from_numpy(teacher_vectors)
        # Words stay where the teacher put them: those that no text here has must not be left behind by the others.
        student.words.requires_grad_(False)
        self.learned = [parameter for parameter in student.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(self.learned, lr=learning_rate, weight_decay=0.0)

    def pass_over(
        self,
        batches: Sequence[NDArray[np.int64]],
        epoch: int,
        epochs: int,
        ends: tuple[float, float] | None,
        must_stop: Callable[[], bool],
    ) -> float:
        """One epoch, or as much of it as ``ends`` (when all began, and seconds from then) allows: the share done."""
        for number, rows in enumerate(batches):
            done = (epoch + number / len(batches)) / epochs
            spent = 0.0 if ends is None else (time.perf_counter() - ends[0]) / ends[1]
            if must_stop():
                raise Interrupted(f"distillation stopped after {done:.0%}; the encoder is as it was")
            if spent >= 1:
                return done
            self.step(rows, max(done, spent))
        return (epoch + 1) / epochs

    def step(self, rows: NDArray[np.int64], done: float) -> None:
        """``done``: the share of the training that lies behind."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate * _step_size(done)
        vectors_BD = self.student(*pad_right([self.token_ids[row] for row in rows], 0))
        loss = 1 - (vectors_BD * self.teacher_TD[rows]).sum(1).mean()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.learned, _LARGEST_GRADIENT)
        self.optimizer.step()

    def cosine(self, token_ids: TokenIds, teacher_vectors: NDArray[np.float32]) -> float:
        return float((vectors_of(self.student, token_ids) * teacher_vectors).sum(1).mean())


def _step_size(done: float) -> float:
    """Share of the largest step size: up in a line, down in half a cosine."""
    if done < _WARM_UP:
        return (done + 0.001) / (_WARM_UP + 0.001)
    return 0.5 * (1 + float(np.cos(np.pi * (done - _WARM_UP) / (1 - _WARM_UP))))


def _held_out(source: NDArray[np.int64], seed: int) -> NDArray[np.bool_]:
    """``[T]``: which rows are not learned from."""
    texts = np.unique(source)
    chosen = np.random.default_rng(seed).permutation(texts)[: max(1, round(_HELD_OUT * len(texts)))]
    return np.isin(source, chosen)


def _shuffled_batches(
    token_ids: TokenIds, learned: NDArray[np.bool_], draw: np.random.Generator
) -> list[NDArray[np.int64]]:
    """Rows of like length together, in another company and order every time."""
    rows = draw.permutation(np.flatnonzero(learned))
    lengths = np.array([len(token_ids[row]) for row in rows], np.int64)
    batches: Iterator[NDArray[np.int64]] = batches_of_tokens(lengths, _TOKENS_PER_STEP)
    listed = [rows[batch] for batch in batches]
    return [listed[place] for place in draw.permutation(len(listed))]


def _require_sound(
    student: CompactEncoder,
    teacher_vectors: NDArray[np.float32],
    token_ids: TokenIds,
    epochs: int,
    learning_rate: float,
) -> None:
    expected = (len(token_ids), student.shape.hidden)
    if teacher_vectors.shape != expected:
        raise ConfigError(f"the teacher's vectors must be {expected}, received {teacher_vectors.shape}")
    if len(token_ids) < 2:
        raise ConfigError(
            f"distillation needs at least 2 texts, one of them to be judged by, received {len(token_ids)}"
        )
    if epochs < 1:
        raise ConfigError(f"epochs must be at least 1, received {epochs}")
    if learning_rate <= 0:
        raise ConfigError(f"learning_rate must be positive, received {learning_rate}")
