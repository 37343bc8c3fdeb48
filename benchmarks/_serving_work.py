"""The workload of every server in the benchmark: a catalogue, a model over it, and requests.

The catalogue is simulated (``_clustered.py``): item vectors of 64 dimensions in two views of 32, and an MLP head of 64
neurons over 200 candidates. It is written as a bundle with five variants, as training and ``lanner compress`` would
write them; the weights are random, not learned, so this says nothing about quality. Texts are encoded by the bundled
all-MiniLM-L6-v2.

The peers get the index that Lanner built, at the search effort it chose, and the tables of the full variant as plain
arrays. Their encoder is the INT8 one, the fastest in their runtime; Lanner encodes texts in float32.
"""

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from benchmarks._clustered import DIMENSIONS, HISTORY, clustered_catalogue, clustered_histories
from lanner.artifacts.bundle import SCHEMA, read_bundle, write_bundle, write_compressed
from lanner.artifacts.encoder_files import EncoderFiles, EncoderForm
from lanner.artifacts.variants import FULL, POPULARITY, TextFiles, Variant
from lanner.compression.encoder import whole_encoder
from lanner.compression.reduce import fewer_dimensions, fewer_neurons
from lanner.compression.steps import quantised
from lanner.data.catalogue import Catalogue
from lanner.data.ids import IdMap
from lanner.data.interactions import Dataset, Interactions
from lanner.data.sources import bundled, load
from lanner.data.split import HeldOut
from lanner.inference.cold_start import ItemReader
from lanner.inference.heads import Head
from lanner.inference.scoring_model import ScoringModel, popularity_model
from lanner.inference.tables import Int8Rows, take
from lanner.inference.text_neighbours import TextNeighbours
from lanner.models.language import LanguageConfig, LanguageEncoder
from lanner.models.recommender import Recommender
from lanner.models.text_features import TextFeatures
from lanner.serving.index_cache import cached_index

SEED = 1
CANDIDATES, K = 200, 10
USERS, HISTORIES, TEXTS = 10_000, 4_000, 1_000
"""Users of the bundle, histories of anonymous users, texts of new items."""
HIDDEN, NEURONS_KEPT, DIMENSIONS_KEPT = 64, 48, 48
VIEWS = (DIMENSIONS // 2, DIMENSIONS // 2)
MEANING, WORDS = 384, 256
"""Width of a text's features, as in ``NeuralConfig``."""
NEIGHBOURS = 10
_TEXTS_FITTED, _CALIBRATION = 2_000, 128
_ROOM = Path("runs") / "serving"


@dataclass(frozen=True)
class Work:
    """One catalogue on disk."""

    items: int

    @property
    def folder(self) -> Path:
        return _ROOM / f"clustered-{self.items}-schema-{SCHEMA}"  # another schema gets a new folder instead of an error

    @property
    def bundle(self) -> Path:
        """The bundle passed to ``lanner serve``."""
        return self.folder / "bundle"

    @property
    def requests(self) -> Path:
        """The inputs of the load, see ``_serving_load.Requests``."""
        return self.folder / "requests.json"

    @property
    def peers(self) -> Path:
        """The inputs of the peers, see ``_serving_peers.common``."""
        return self.folder / "peers"

    @cached_property
    def texts(self) -> tuple[str, ...]:
        """Texts of new items: film descriptions in new combinations."""
        return _new_texts(_film_texts(), TEXTS)


def prepared(items: int) -> Work:
    """The workload of this size; whatever is not on disk yet is created (minutes for a million items)."""
    work = Work(items)
    if not work.requests.exists():
        _make(work)
    return work


def _make(work: Work) -> None:
    random = np.random.default_rng(SEED)
    vectors, share = clustered_catalogue(work.items, random)
    histories = clustered_histories(vectors, share, random, USERS + HISTORIES)
    texts, float32, int8 = _encoders()
    model, items = _model(vectors, share, texts.features.width, random)
    dataset = _dataset(work.items, histories[:USERS])
    full = Variant(FULL, model, float32.files, float32.figures)
    work.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=work.folder) as folder:
        trained = write_bundle(
            Path(folder) / "trained",
            _Drawn(model, dataset),
            dataset=dataset,
            fitted=np.ones(len(dataset.interactions), np.bool_),
            config={"model": _Drawn.name},
            metrics={},
            full=full,
            texts=texts,
            items=items,
        )
        variants = [full, *_smaller(model, dataset, int8)]
        write_compressed(work.bundle, read_bundle(trained), variants, {"simulated": True})
    _write_for_peers(work, texts, int8)
    asked = {"items": work.items, "histories": histories[USERS:].tolist(), "users": USERS, "texts": work.texts}
    work.requests.write_text(json.dumps(asked))


# --- the model -----------------------------------------------------------------------------------------------------


class _Drawn(Recommender):
    """A scoring model behind the recommender interface: enough for a bundle and its golden requests."""

    name: ClassVar[str] = "drawn"

    def __init__(self, model: ScoringModel, dataset: Dataset) -> None:
        self._model = model
        self._fitted(dataset)

    def fit(self, dataset: Dataset, validation: HeldOut | None = None) -> Self:
        raise NotImplementedError("it is drawn, not learnt")

    def export(self) -> ScoringModel:
        return self._model

    def state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        return {"bias": self._model.bias_I}, {}

    def load_state(self, arrays: Mapping[str, NDArray[Any]], settings: Mapping[str, Any], dataset: Dataset) -> Self:
        raise NotImplementedError("it is served, never read back")


def _model(
    vectors: NDArray[np.float32], share: NDArray[np.float64], width: int, random: np.random.Generator
) -> tuple[ScoringModel, ItemReader]:
    """The full model, and the mapping from text features of this width to item rows, fitted on the whole catalogue."""
    items = len(vectors)
    head = Head(
        random.normal(size=(DIMENSIONS, HIDDEN)).astype(np.float32) / np.float32(DIMENSIONS**0.5),
        np.zeros(HIDDEN, np.float32),
        0.1 * random.normal(size=(items, HIDDEN)).astype(np.float32),
        0.05 * random.normal(size=HIDDEN).astype(np.float32),
    )
    codes = random.integers(-127, 128, (items, width), np.int8)
    maps = 0.3 * random.normal(size=(2, width, VIEWS[1])).astype(np.float32)
    reader = ItemReader(
        texts=TextNeighbours.of(Int8Rows(codes, np.full(items, 1 / (73 * width**0.5), np.float32))),
        is_seen_I=np.ones(items, np.bool_),
        place=1,
        view_sizes=VIEWS,
        weights_2V=np.ones((2, len(VIEWS)), np.float32),
        source_FD=maps[0],
        target_FD=maps[1],
        bias_F=np.zeros(width, np.float32),
        bias=0.0,
        lent_bias_I=np.zeros(items, np.float32),
        head_DH=0.1 * random.normal(size=(DIMENSIONS, HIDDEN)).astype(np.float32),
        num_neighbours=NEIGHBOURS,
    )
    model = ScoringModel(
        vectors,
        vectors,
        0.05 * np.log1p(share * items).astype(np.float32),
        np.round(share * 1e9).astype(np.float32),
        VIEWS,
        ("graph", "language"),
        head=head,
        text_FD=np.pad(reader.source_FD, ((0, 0), (VIEWS[0], 0))),
    )
    return model, reader


def _smaller(model: ScoringModel, dataset: Dataset, encoder: EncoderForm) -> list[Variant]:
    """int8, pruned, distilled, popularity, each built by the corresponding step of ``lanner compress``."""
    users = model.users(dataset.user_batch(np.arange(1_000)))
    pruned = fewer_neurons(model, users, NEURONS_KEPT)
    distilled = quantised(fewer_dimensions(pruned, users, DIMENSIONS_KEPT))
    made = {"int8": quantised(model), "pruned": pruned, "distilled": distilled}
    popular = Variant(POPULARITY, popularity_model(model.popularity_I, model.dimensions))
    return [*(Variant(name, one, encoder.files, encoder.figures) for name, one in made.items()), popular]


def _encoders() -> tuple[TextFiles, EncoderForm, EncoderForm]:
    """The text encoding, and the encoder in float32 and INT8."""
    language = LanguageEncoder(LanguageConfig(dtype="float32", device="cpu", cache=False))
    texts = _film_texts()
    features = TextFeatures.fit(texts[:_TEXTS_FITTED], language.encode, MEANING, WORDS)
    calibration = [ids for ids in language.token_ids(texts[:_CALIBRATION]) if len(ids)]
    files = EncoderFiles(whole_encoder(language), None, features, language.token_ids, calibration, texts[:1], {})
    return TextFiles(features, language.tokenizer_json, language.longest), files.float32(), files.int8()


def _film_texts() -> list[str]:
    return [text for text in load(bundled("ml-latest-small")).item_catalogue.texts if text]


def _new_texts(known: Sequence[str], number: int) -> tuple[str, ...]:
    """Fields of known texts in new combinations."""
    random = np.random.default_rng(SEED)
    fields = [text.split("\n") for text in known]
    drawn = random.integers(len(fields), size=(number, len(fields[0])))
    return tuple("\n".join(fields[row][place] for place, row in enumerate(rows)) for rows in drawn)


def _dataset(items: int, histories: NDArray[np.int64]) -> Dataset:
    users = np.repeat(np.arange(len(histories), dtype=np.int32), HISTORY)
    ids = tuple(map(str, range(items)))
    names = tuple(f"u{row}" for row in range(len(histories)))
    return Dataset(
        Interactions(users, histories.ravel().astype(np.int32), np.arange(len(users))),
        IdMap(names),
        IdMap(ids),
        Catalogue.blank(tuple(f"Item {one}" for one in ids)),
        Catalogue.blank(names),
        has_order=True,
    )


# --- for the peers -------------------------------------------------------------------------------------------------


def _write_for_peers(work: Work, texts: TextFiles, encoder: EncoderForm) -> None:
    """Lanner's index with its search effort, the tables of the full variant, and the encoder for ONNX Runtime."""
    bundle = read_bundle(work.bundle)
    model = bundle.variant(FULL).model
    index = cached_index(model, f"{bundle.version} {FULL}", bundle.dataset, CANDIDATES)
    if index is not None:
        index.save(work.peers)
    work.peers.mkdir(exist_ok=True)
    assert model.head is not None
    arrays: dict[str, NDArray[Any]] = {
        "source": take(model.source_ID),
        "target": np.hstack([take(model.target_ID), model.bias_I[:, None]]),
        "half": take(model.head.item_IH),
        "user": model.head.user_DH,
        "out": model.head.out_H,
        "popular": np.argsort(-model.popularity_I, kind="stable"),
    }
    for name, array in arrays.items():
        np.save(work.peers / f"{name}.npy", array)
    (work.peers / "encoder.onnx").write_bytes(encoder.files["encoder.onnx"])
    (work.peers / "tokenizer.json").write_text(texts.tokenizer)
    facts: dict[str, Any] = {"kind": "exact"}
    if index is not None and index.kind != "exact":
        retrieved, probed, refined = index.effort
        facts = {"kind": index.kind, "nprobe": probed, "k_factor": max(1.0, refined / retrieved)}
    facts |= {"views": VIEWS, "max_tokens": texts.max_tokens, "candidates": CANDIDATES}
    (work.peers / "facts.json").write_text(json.dumps(facts))
