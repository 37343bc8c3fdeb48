"""The encoder of texts, made small: fewer layers, neurons and tokens, then distilled from the whole one."""

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
    """How an encoder is made small."""

    layers: int = 3
    """Layers that stay, those whose loss costs the most."""
    feed_forward_share: float = 0.5
    """Of the feed-forward neurons that go."""
    spans: int = 4
    """Passages of each text to learn from besides the text: requests are short."""
    longest_span: int = 48
    """Tokens of the longest passage."""
    most_texts: int = 20_000
    """Texts and passages learned from: reading them with the teacher takes as long as learning from them."""
    learning_rate: float = 5e-4
    seconds: float = 300.0
    """Of distillation; the step size falls to nothing in that time."""
    epochs: int = 20
    seed: int = 0

    def __post_init__(self) -> None:
        if self.layers < 1:
            raise ConfigError(f"layers must be at least 1, received {self.layers}")
        if not 0 <= self.feed_forward_share < 1:
            raise ConfigError(f"feed_forward_share must lie within 0 … 1, received {self.feed_forward_share}")
        if self.seconds <= 0 or self.epochs < 1 or self.learning_rate <= 0:
            given = f"seconds {self.seconds}, epochs {self.epochs}, learning_rate {self.learning_rate}"
            raise ConfigError(f"distillation needs time and steps above 0: {given}")


def whole_encoder(language: LanguageEncoder) -> CompactEncoder:
    """The language model as it is, in float32, in the form that can be made small.

    Raises:
        ConfigError: it is not of the BERT family, or pools or scales in another way.
    """
    config = language.config
    if config.pooling != "mean" or not config.normalise:
        raise ConfigError("only an encoder with mean pooling and vectors of length 1 can be made compact")
    return CompactEncoder.from_bert(LanguageEncoder(replace(config, dtype="float32", device="cpu")).model)


def shrink_encoder(
    language: LanguageEncoder, teacher: CompactEncoder, texts: Sequence[str], recipe: EncoderRecipe
) -> tuple[Distillation, NDArray[np.int32]]:
    """``teacher`` without its least important layers, neurons and the tokens ``texts`` lack, then distilled from it.

    texts: the catalogue's own, as requests may contain them. Also returns the new id of each of the tokenizer's
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
