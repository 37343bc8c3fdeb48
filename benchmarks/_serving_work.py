"""The work that every server in the benchmark is given: a catalogue, a model over it, and requests.

The catalogue is simulated: ``clustered_catalogue`` of ``compression.py``, item vectors of 64 dimensions in two views of
32, an MLP head of 64 neurons over 200 candidates. It is written as a bundle with a ladder of five rungs, as training
and ``lanner compress`` would write them; the weights are drawn, not learnt, so nothing here speaks of quality. Texts
are read by the bundled all-MiniLM-L6-v2: float32 in the full rung, INT8 in others (no pruned encoder is taught).

The peers get the same index file, the same tables and the same encoder, as plain arrays and ONNX.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from lanner.models.request_form import Int8Rows, RequestForm, RequestHead, take
from lanner.models.request_items import ItemReader
from numpy.typing import NDArray

from benchmarks.compression import clustered_catalogue
from lanner.artifacts.bundle import write_bundle
from lanner.artifacts.encoder_files import EncoderFiles
from lanner.artifacts.ladder import FOLDER, Rung, TextReader, write_ladder
from lanner.compression.encoder import whole_encoder
from lanner.compression.reduce import fewer_dimensions, fewer_neurons
from lanner.compression.steps import popularity_form, quantised
from lanner.data.catalogue import Catalogue
from lanner.data.ids import IdMap
from lanner.data.interactions import Dataset, Interactions, UserBatch
from lanner.data.sources import bundled, load
from lanner.inference.text_neighbours import TextNeighbours
from lanner.models.language import LanguageConfig, LanguageEncoder
from lanner.models.recommender import Recommender
from lanner.models.text_features import TextFeatures
from lanner.serving.item_index import index_name
from lanner.serving.model import ModelConfig, ServedModel

SEED = 1
HISTORY, CANDIDATES, K = 50, 200, 10
USERS, HISTORIES, TEXTS = 10_000, 4_000, 1_000
"""Users of the bundle, histories of strangers, texts of new items."""
HIDDEN, NEURONS_KEPT, DIMENSIONS_KEPT = 64, 48, 48
VIEWS = (32, 32)
MEANING, WORDS = 384, 256
"""Width of a text's features, as ``NeuralConfig`` has it."""
NEIGHBOURS = 10
_TEXTS_FITTED, _CALIBRATION = 2_000, 128
_ROOM = Path("runs") / "serving"


@dataclass(frozen=True)
class Work:
    """One catalogue on disk."""

    items: int

    @property
    def folder(self) -> Path:
        return _ROOM / f"clustered-{self.items}"

    @property
    def bundle(self) -> Path:
        """What ``lanner serve`` is given."""
        return self.folder / "bundle"

    @property
    def requests(self) -> Path:
        """What the load is made of, see ``_serving_load.Requests``."""
        return self.folder / "requests.json"

    @property
    def peers(self) -> Path:
        """What the peers are given, see ``_serving_peers.common``."""
        return self.folder / "peers"

    @cached_property
    def texts(self) -> tuple[str, ...]:
        """Texts of new items: what films are said to be, in new combinations."""
        return _new_texts(_film_texts(), TEXTS)


def prepared(items: int) -> Work:
    """The work of this size; what is not on disk yet is made (minutes for a million items)."""
    work = Work(items)
    if not work.requests.exists():
        _make(work)
    return work


def _make(work: Work) -> None:
    random = np.random.default_rng(SEED)
    vectors, share = clustered_catalogue(work.items, random)
    form = _form(vectors, share, random)
    histories = _histories(share, vectors, random, USERS + HISTORIES)
    dataset = _dataset(work.items, histories[:USERS])
    reader, item_reader, encoders = _texts(form, random)
    rungs = _rungs(form, share, dataset, encoders)
    config = {"model": _Drawn.name}
    fitted = np.ones(len(dataset.interactions), bool)
    work.folder.mkdir(parents=True, exist_ok=True)
    write_bundle(work.bundle, _Drawn(form), dataset=dataset, fitted=fitted, config=config, metrics={})
    write_ladder(work.bundle, rungs, reader, {"simulated": True}, item_reader)
    _write_for_peers(work, form, reader, encoders[1])
    asked = {"items": work.items, "histories": histories[USERS:].tolist(), "users": USERS, "texts": work.texts}
    work.requests.write_text(json.dumps(asked))


# --- the model -----------------------------------------------------------------------------------------------------


class _Drawn(Recommender):
    """A request form as a recommender: enough for a bundle and its golden requests."""

    name: ClassVar[str] = "drawn"

    def __init__(self, form: RequestForm) -> None:
        self.form = form

    def fit(self, dataset: Dataset, validation: Any = None) -> Self:
        raise NotImplementedError("it is drawn, not learnt")

    def score(self, users: UserBatch) -> NDArray[np.float32]:
        return self.form.score(self.form.users(users))

    def state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        return {"bias": self.form.bias_I}, {}

    def load_state(self, arrays: Mapping[str, NDArray[Any]], settings: Mapping[str, Any], dataset: Dataset) -> Self:
        raise NotImplementedError("it is served, never read back")


def _form(vectors: NDArray[np.float32], share: NDArray[np.float64], random: np.random.Generator) -> RequestForm:
    items, dimensions = vectors.shape
    half = 0.1 * random.normal(size=(items, HIDDEN)).astype(np.float32)
    user = random.normal(size=(dimensions, HIDDEN)).astype(np.float32) / dimensions**0.5
    out = 0.05 * random.normal(size=HIDDEN).astype(np.float32)
    head = RequestHead(user, np.zeros(HIDDEN, np.float32), half, out)
    return RequestForm(vectors, vectors, 0.05 * np.log1p(share * items).astype(np.float32), VIEWS, head)


def _rungs(form: RequestForm, share: NDArray[np.float64], dataset: Dataset, encoders: Sequence[Any]) -> list[Rung]:
    """full → int8 → pruned → distilled → popularity, each by the step that ``lanner compress`` takes."""
    users = form.users(dataset.user_batch(np.arange(1_000)))
    whole, small = encoders
    pruned = fewer_neurons(form, users, NEURONS_KEPT)
    distilled = quantised(fewer_dimensions(pruned, users, DIMENSIONS_KEPT))
    popularity = popularity_form(form, np.round(share * 1e9).astype(np.int64))
    made = {"full": (form, whole), "int8": (quantised(form), small), "pruned": (pruned, small)}
    made |= {"distilled": (distilled, small)}
    rungs = [Rung(name, one, encoder.files, encoder.figures) for name, (one, encoder) in made.items()]
    return [*rungs, Rung("popularity", popularity)]


def _texts(form: RequestForm, random: np.random.Generator) -> tuple[TextReader, ItemReader, tuple[Any, Any]]:
    """How texts are read, how new items get their rows, and the encoder whole and as INT8."""
    language = LanguageEncoder(LanguageConfig(dtype="float32", device="cpu", cache=False))
    texts = _film_texts()
    features = TextFeatures.fit(texts[:_TEXTS_FITTED], language.encode, MEANING, WORDS)
    calibration = [ids for ids in language.token_ids(texts[:_CALIBRATION]) if len(ids)]
    files = EncoderFiles(whole_encoder(language), None, features, language.token_ids, calibration, texts[:1], {})
    reader = TextReader(features, language.tokeniser_json, language.longest)
    return reader, _item_reader(form, features.width, random), (files.float32(), files.int8())


def _item_reader(form: RequestForm, width: int, random: np.random.Generator) -> ItemReader:
    """Every item of the catalogue lends; features are drawn."""
    assert form.head is not None
    codes = random.integers(-127, 128, (form.num_items, width), np.int8)
    scale = np.full(form.num_items, 1 / (73 * width**0.5), np.float32)
    maps = 0.3 * random.normal(size=(2, width, VIEWS[1])).astype(np.float32)
    return ItemReader(
        texts=TextNeighbours.of(Int8Rows(codes, scale)),
        is_met_I=np.ones(form.num_items, bool),
        place=1,
        view_sizes=VIEWS,
        weights_2V=np.ones((2, len(VIEWS)), np.float32),
        source_FD=maps[0],
        target_FD=maps[1],
        bias_F=np.zeros(width, np.float32),
        bias=0.0,
        lent_bias_I=np.zeros(form.num_items, np.float32),
        head_DH=0.1 * random.normal(size=(form.dimensions, HIDDEN)).astype(np.float32),
        num_neighbours=NEIGHBOURS,
    )


def _film_texts() -> list[str]:
    return [text for text in load(bundled("ml-latest-small")).item_catalogue.texts if text]


def _new_texts(known: Sequence[str], number: int) -> tuple[str, ...]:
    """Fields of known texts put together anew."""
    random = np.random.default_rng(SEED)
    fields = [text.split("\n") for text in known]
    drawn = random.integers(len(fields), size=(number, len(fields[0])))
    return tuple("\n".join(fields[row][place] for place, row in enumerate(rows)) for rows in drawn)


# --- users ---------------------------------------------------------------------------------------------------------


def _histories(
    share: NDArray[np.float64], vectors: NDArray[np.float32], random: np.random.Generator, number: int
) -> NDArray[np.int64]:
    """``[number, 50]`` distinct items each: half by popularity, half near one of those, as tastes are."""
    cumulated = np.cumsum(share)
    found = np.empty((number, HISTORY), np.int64)
    for row in found:
        pool = np.unique(np.minimum(np.searchsorted(cumulated, random.random(1_000)), len(share) - 1))
        popular = random.choice(pool, HISTORY // 2, replace=False)
        near = pool[np.argsort(-(vectors[pool] @ vectors[popular[0]]))]
        row[:] = np.concatenate([popular, near[~np.isin(near, popular)]])[:HISTORY]
    return found


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


def _write_for_peers(work: Work, form: RequestForm, reader: TextReader, encoder: Any) -> None:
    """The index as Lanner built it, the tables of the full rung, and the encoder for ONNX Runtime."""
    ServedModel.open(work.bundle, ModelConfig(candidates=CANDIDATES)).close()
    index = work.bundle / FOLDER / index_name(form, CANDIDATES)
    structure = index / "candidates.faiss"
    assert form.head is not None
    work.peers.mkdir(exist_ok=True)
    if structure.exists():
        (work.peers / "candidates.faiss").write_bytes(structure.read_bytes())
    targets = np.hstack([take(form.target_ID), form.bias_I[:, None]])
    arrays = {"source": form.source_ID, "target": targets, "half": form.head.item_IH, "user": form.head.user_DH}
    for name, array in {**arrays, "out": form.head.out_H}.items():
        np.save(work.peers / f"{name}.npy", array)
    (work.peers / "encoder.onnx").write_bytes(encoder.files["encoder.onnx"])
    (work.peers / "tokenizer.json").write_text(reader.tokeniser)
    made = json.loads((index / "index.json").read_text())
    facts = {"kind": made["plan"]["kind"], "effort": made["effort"], "views": VIEWS, "max_tokens": reader.max_tokens}
    (work.peers / "facts.json").write_text(json.dumps({**facts, "candidates": CANDIDATES}))
