"""Knowledge distillation: a pruned encoder learns to reproduce the sentence vectors of the full one.

The student minimises 1 − cosine to the teacher's sentence vectors, which are computed once (last-layer distillation,
Sanh et al. 2019 and Reimers & Gurevych, EMNLP 2020). Catalogue texts are long but queries are short, so ``with_spans``
adds random passages of each text.
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
_MAX_EVALUATED = 1024
"""Maximum number of held-out rows; more are slower and no more precise."""
_TOKENS_PER_STEP = 1024
_WARM_UP = 0.05
"""Share of the training used for learning rate warm-up."""
_LARGEST_GRADIENT = 1.0
_SHORTEST_SPAN = 2
"""Minimum passage length in tokens, without special tokens."""


@dataclass(frozen=True)
class Distillation:
    """Result of ``distil``. cosine: mean over held-out texts, of the student before and after training."""

    encoder: CompactEncoder
    cosine_before: float
    cosine: float
    epochs: float
    """Passes over the texts, including a partial one."""


def with_spans(
    token_ids: TokenIds, *, per_text: int, longest: int, seed: int
) -> tuple[list[NDArray[np.int32]], NDArray[np.int64]]:
    """The texts, plus ``per_text`` random passages of each text that is long enough.

    A passage is wrapped in the text's first and last token ([CLS] and [SEP]); its length is log-uniform from 2 to
    ``longest`` tokens, including those two.

    Returns:
        Token ids of texts and passages, and for each the index of its source text.
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
    """Train a copy of ``student`` to reproduce ``teacher_vectors``; returns the best by held-out cosine.

    A tenth of the texts is held out and evaluated after every epoch and at the end. Without ``seconds`` the result
    depends only on the arguments and the number of threads; with it, also on the progress made.

    Args:
        student: the initial encoder; not modified.
        teacher_vectors: float32 ``[T, D]``, unit length.
        token_ids: T texts in the student's vocabulary, including special tokens.
        epochs: maximum passes over the texts.
        learning_rate: peak learning rate of AdamW; linear warm-up, then half-cosine decay to 0.
        seed: of the held-out split and the shuffling.
        seconds: time limit; the learning rate schedule is fitted to it.
        source: ``[T]`` source text of each row: passages of one text are held out together.

    Raises:
        ConfigError: fewer than two texts (one is held out).
        Interrupted: Ctrl-C; the student is not modified.
    """
    source = np.arange(len(token_ids)) if source is None else source
    if (texts := len(np.unique(source))) < 2:
        raise ConfigError(f"distillation needs at least 2 texts (one is held out), received {texts}")
    held_out = _held_out(source, seed)
    evaluated = np.random.default_rng(seed).permutation(np.flatnonzero(held_out))[:_MAX_EVALUATED]
    training = _Training(student, teacher_vectors, token_ids, learning_rate, evaluated)
    before, done, started = training.evaluate(), 0.0, time.perf_counter()
    with interrupts_held() as must_stop:
        for done, rows in _schedule(token_ids, ~held_out, epochs, seed):
            passed = max(done, (time.perf_counter() - started) / seconds if seconds else 0.0)
            if rows is None or passed >= 1:
                training.evaluate()
            else:
                training.step(rows, passed)
            if must_stop():
                raise Interrupted(f"distillation stopped after {passed:.0%}; the encoder is unchanged")
            if passed >= 1:
                break
    return Distillation(
        CompactEncoder.from_state(student.shape, training.best_state), before, training.best, done * epochs
    )


class _Training:
    """A copy of the student, its optimiser, the training step, and the best state so far."""

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
        # Word embeddings are frozen: words absent from these texts must stay aligned with the others.
        self.student.words.requires_grad_(False)
        self.learned = [parameter for parameter in self.student.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(self.learned, lr=learning_rate, weight_decay=0.0)
        self.best, self.best_state = -math.inf, student.state_dict()

    def step(self, rows: NDArray[np.int64], done: float) -> None:
        """``done``: training progress, 0 to 1."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate * _step_size(done)
        vectors_BD = self.student(*pad_right([self.token_ids[row] for row in rows], 0))
        loss = 1 - (vectors_BD * self.teacher_TD[rows]).sum(1).mean()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.learned, _LARGEST_GRADIENT)
        self.optimizer.step()

    def evaluate(self) -> float:
        """Mean cosine of the held-out texts; keeps the best state."""
        vectors = vectors_of(self.student, [self.token_ids[row] for row in self.evaluated])
        cosine = float((vectors * self.teacher_TD[self.evaluated].numpy()).sum(1).mean())
        if cosine > self.best:
            self.best, self.best_state = cosine, copy.deepcopy(self.student.state_dict())
        return cosine


def _schedule(
    token_ids: TokenIds, learned: NDArray[np.bool_], epochs: int, seed: int
) -> Iterator[tuple[float, NDArray[np.int64] | None]]:
    """Training progress and the rows of the next step; None at the end of an epoch."""
    for epoch in range(epochs):
        batches = _shuffled_batches(token_ids, learned, np.random.default_rng((seed, epoch)))
        for number, rows in enumerate(batches):
            yield (epoch + number / len(batches)) / epochs, rows
        yield (epoch + 1) / epochs, None


def _step_size(done: float) -> float:
    """Learning rate as a share of its peak: linear warm-up, half-cosine decay."""
    if done < _WARM_UP:
        return (done + 0.001) / (_WARM_UP + 0.001)
    return 0.5 * (1 + float(np.cos(np.pi * (done - _WARM_UP) / (1 - _WARM_UP))))


def _held_out(source: NDArray[np.int64], seed: int) -> NDArray[np.bool_]:
    """``[T]``: which rows are held out."""
    texts = np.unique(source)
    chosen = np.random.default_rng(seed).permutation(texts)[: max(1, round(_HELD_OUT * len(texts)))]
    return np.isin(source, chosen)


def _shuffled_batches(
    token_ids: TokenIds, learned: NDArray[np.bool_], draw: np.random.Generator
) -> list[NDArray[np.int64]]:
    """Batches of rows of similar length, reshuffled every epoch."""
    rows = draw.permutation(np.flatnonzero(learned))
    lengths = np.array([len(token_ids[row]) for row in rows], np.int64)
    listed = [rows[batch] for batch in batches_of_tokens(lengths, _TOKENS_PER_STEP)]
    return [listed[place] for place in draw.permutation(len(listed))]
