"""Encoder compression: fewer layers, neurons and tokens, then distillation from the full encoder."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from lanner.compression.distil import Distillation, distil, with_spans
from lanner.compression.prune import keep_layers, measure_importance, prune_feed_forward, trim_vocabulary
from lanner.errors import ConfigError
from lanner.models.batches_of_texts import pad_right
from lanner.models.compact_encoder import CompactEncoder, vectors_of
from lanner.models.language import LanguageEncoder

_MEASURED_TEXTS = 256
_TEXTS_A_BATCH = 32


@dataclass(frozen=True)
class EncoderRecipe:
    """How the text encoder is compressed."""

    layers: int = 3
    """Number of layers kept, the most important ones."""
    feed_forward_share: float = 0.5
    """Share of feed-forward neurons to prune, 0 to 1."""
    spans: int = 4
    """Random passages per text added to the training data, because queries are short."""
    longest_span: int = 48
    """Maximum passage length in tokens."""
    most_texts: int = 20_000
    """Maximum number of texts and passages for distillation; the teacher takes as long per text as training."""
    learning_rate: float = 5e-4
    """Peak learning rate of the distillation (AdamW)."""
    seconds: float = 300.0
    """Distillation budget in seconds; the learning rate decays to 0 over that time."""
    epochs: int = 20
    """Maximum number of epochs of the distillation."""
    seed: int = 0
    """Random seed of the distillation."""

    def __post_init__(self) -> None:
        if self.layers < 1:
            raise ConfigError(f"layers is {self.layers}, it must be at least 1")
        if not 0 <= self.feed_forward_share < 1:
            raise ConfigError(f"feed_forward_share is {self.feed_forward_share}, it must be between 0 and 1")
        if self.seconds <= 0 or self.epochs < 1 or self.learning_rate <= 0:
            given = f"seconds {self.seconds}, epochs {self.epochs}, learning_rate {self.learning_rate}"
            raise ConfigError(f"distillation settings must be above 0: {given}")


def whole_encoder(language: LanguageEncoder) -> CompactEncoder:
    """The unmodified language model in float32, as a ``CompactEncoder``.

    Raises:
        ConfigError: not of the BERT family, or other pooling or normalisation.
    """
    config = language.config
    if config.pooling != "mean" or not config.normalise:
        raise ConfigError("only encoders with mean pooling and unit-length vectors can be compressed")
    return CompactEncoder.from_bert(language.in_float32().model)


def shrink_encoder(
    language: LanguageEncoder, teacher: CompactEncoder, texts: Sequence[str], recipe: EncoderRecipe
) -> tuple[Distillation, NDArray[np.int32]]:
    """``teacher`` without its least important layers and neurons and without unused tokens, then distilled from it.

    texts: of the catalogue; they also define the kept vocabulary. Also returns the new id of each of the tokenizer's
    tokens, int32 ``[old vocabulary]``.

    Raises:
        ConfigError: too few texts. Interrupted: Ctrl-C.
    """
    texts = [text for text in dict.fromkeys(texts) if text.strip()]
    parts, source = with_spans(
        language.token_ids(texts), per_text=recipe.spans, longest=recipe.longest_span, seed=recipe.seed
    )
    special, unknown = language.special_ids
    present = np.unique(np.concatenate(parts))
    chosen = np.sort(np.random.default_rng(recipe.seed).permutation(len(parts))[: recipe.most_texts])
    parts, source = [parts[row] for row in chosen], source[chosen]
    wanted = vectors_of(teacher, parts)
    measured = np.random.default_rng(recipe.seed).permutation(len(parts))[:_MEASURED_TEXTS]
    batches = [
        pad_right([parts[row] for row in measured[first : first + _TEXTS_A_BATCH]], 0)
        for first in range(0, len(measured), _TEXTS_A_BATCH)
    ]
    importance = measure_importance(teacher, batches, recipe.seed)
    layers = min(recipe.layers, teacher.shape.num_layers)
    kept = sorted(np.argsort(-importance.layers, kind="stable")[:layers].tolist())
    fewer = keep_layers(teacher, kept)
    neurons = replace(importance, feed_forward=tuple(importance.feed_forward[layer] for layer in kept))
    pruned = prune_feed_forward(fewer, neurons, recipe.feed_forward_share)
    trimmed, new_id = trim_vocabulary(pruned, present.tolist(), special_ids=special, unknown_id=unknown)
    distilled = distil(
        trimmed,
        wanted,
        [new_id[ids] for ids in parts],
        epochs=recipe.epochs,
        learning_rate=recipe.learning_rate,
        seed=recipe.seed,
        seconds=recipe.seconds,
        source=source,
    )
    return distilled, new_id
