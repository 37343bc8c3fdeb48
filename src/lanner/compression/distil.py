"""A pruned encoder learns to give the vectors that the whole one gave.

The student minimises 1 − cosine to the teacher's sentence vectors, which are computed once (the last-layer distillation
of Sanh et al. 2019 and Reimers & Gurevych, EMNLP 2020). Requests are short where a catalogue's texts are long:
``with_spans`` adds random passages of each text.
"""

import copy
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from lanner.errors import ConfigError, Interrupted
from lanner.models.batches_of_texts import batches_of_tokens, pad_right
from lanner.models.compact_encoder import CompactEncoder, vectors_of
from lanner.training.interrupts import interrupts_held

TokenIds = Sequence[NDArray[np.int32]]
_HELD_OUT = 0.1
_MOST_EVALUATED = 1024
"""Held-out rows by which a student is evaluated; a mean over more is no surer, only slower."""
_TOKENS_PER_STEP = 1024
_WARM_UP = 0.05
"""Share of the training in which the step size rises."""
_LARGEST_GRADIENT = 1.0
_SHORTEST_SPAN = 2
"""Tokens, special ones apart."""


@dataclass(frozen=True)
class Distillation:
    """What ``distil`` gives back. cosine: mean over the held-out texts, of the student before and after."""

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


def distil(
    student: CompactEncoder,
    teacher_vectors: NDArray[np.float32],
    token_ids: TokenIds,
    *,
    epochs: int,
    learning_rate: float,
    seed: int,
    seconds: float | None = None,
    source: NDArray[np.int64] | None = None,
) -> Distillation:
    """Train a copy of ``student`` to give ``teacher_vectors``; the best by held-out cosine is returned.

    A tenth of the texts is held out and evaluated after every epoch, and where the time ends. Without ``seconds`` the
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

    Raises:
        ConfigError: fewer than two texts, one of which is to evaluate by.
        Interrupted: Ctrl-C; the student is as it was.
    """
    source = np.arange(len(token_ids)) if source is None else source
    if (texts := len(np.unique(source))) < 2:
        raise ConfigError(f"distillation needs at least 2 texts, one of them to evaluate by, received {texts}")
    held_out = _held_out(source, seed)
    evaluated = np.random.default_rng(seed).permutation(np.flatnonzero(held_out))[:_MOST_EVALUATED]
    training = _Training(student, teacher_vectors, token_ids, learning_rate, evaluated)
    before, done, begun = training.evaluate(), 0.0, time.perf_counter()
    with interrupts_held() as must_stop:
        for done, rows in _schedule(token_ids, ~held_out, epochs, seed):
            passed = max(done, (time.perf_counter() - begun) / seconds if seconds else 0.0)
            if rows is None or passed >= 1:
                training.evaluate()
            else:
                training.step(rows, passed)
            if must_stop():
                raise Interrupted(f"distillation stopped after {passed:.0%}; the encoder is as it was")
            if passed >= 1:
                break
    return Distillation(
        CompactEncoder.from_state(student.shape, training.best_state), before, training.best, done * epochs
    )


class _Training:
    """A copy of the student, its optimizer, one step of both, and the best that was seen."""

    def __init__(
        self,
        student: CompactEncoder,
        teacher_vectors: NDArray[np.float32],
        token_ids: TokenIds,
        learning_rate: float,
        evaluated: NDArray[np.int64],
    ) -> None:
        self.student, self.token_ids, self.learning_rate = student.copy().train(), token_ids, learning_rate
        self.teacher_TD, self.evaluated = torch.from_numpy(teacher_vectors), evaluated
        # Words stay where the teacher put them: those that no text here has must not be left behind by the others.
        self.student.words.requires_grad_(False)
        self.learned = [parameter for parameter in self.student.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(self.learned, lr=learning_rate, weight_decay=0.0)
        self.best, self.best_state = -math.inf, student.state_dict()

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

    def evaluate(self) -> float:
        """The mean cosine of the evaluated texts; what gives the best is kept."""
        vectors = vectors_of(self.student, [self.token_ids[row] for row in self.evaluated])
        cosine = float((vectors * self.teacher_TD[self.evaluated].numpy()).sum(1).mean())
        if cosine > self.best:
            self.best, self.best_state = cosine, copy.deepcopy(self.student.state_dict())
        return cosine


def _schedule(
    token_ids: TokenIds, learned: NDArray[np.bool_], epochs: int, seed: int
) -> Iterator[tuple[float, NDArray[np.int64] | None]]:
    """The share of all steps that is done, and the rows of the next; None where an epoch ends."""
    for epoch in range(epochs):
        batches = _shuffled_batches(token_ids, learned, np.random.default_rng((seed, epoch)))
        for number, rows in enumerate(batches):
            yield (epoch + number / len(batches)) / epochs, rows
        yield (epoch + 1) / epochs, None


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
    listed = [rows[batch] for batch in batches_of_tokens(lengths, _TOKENS_PER_STEP)]
    return [listed[place] for place in draw.permutation(len(listed))]
