"""A language model, a dataset and a bundle small enough for a test."""

from collections.abc import Sequence
from pathlib import Path
from zlib import crc32

import numpy as np

from lanner.artifacts.bundle import write_bundle
from lanner.data.catalogue import Catalogue
from lanner.data.ids import IdMap
from lanner.data.interactions import Dataset, Interactions
from lanner.data.ragged import Ragged
from lanner.inference.scoring_model import ScoringModel
from lanner.models.recommender import Recommender, item_popularity

GROUPS, USERS_PER_GROUP, ITEMS_PER_GROUP = 3, 8, 8
NUM_USERS, NUM_ITEMS = GROUPS * USERS_PER_GROUP, GROUPS * ITEMS_PER_GROUP
COLD = NUM_ITEMS - 1
"""An item of the last group that nobody met."""
WORDLESS = 1
"""An item without a text."""


def encode_words(texts: Sequence[str]) -> np.ndarray:
    """A text is the sum of fixed random vectors of its words, of length 1; float32 ``[T, 16]``."""
    vectors = np.zeros((len(texts), 16))
    for row, text in enumerate(texts):
        for word in text.split():
            vectors[row] += np.random.default_rng(crc32(word.encode())).standard_normal(16)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.where(lengths > 0, lengths, 1)).astype(np.float32)


def small_world(ties: bool = True, profiles: bool = True, events_seed: int = 0) -> Dataset:
    """Groups of users, each with a group of items, five of which a user meets; item texts tell the group."""
    rng = np.random.default_rng(events_seed)
    pairs = []
    for user in range(NUM_USERS):
        own = rng.choice(ITEMS_PER_GROUP, 5, replace=False) + user // USERS_PER_GROUP * ITEMS_PER_GROUP
        pairs += [(user, item) for item in own if item != COLD]
    user, item = np.array(pairs, np.int32).T
    texts = [f"name{row} maker{row % 5}\nkind{row // ITEMS_PER_GROUP} sort" for row in range(NUM_ITEMS)]
    texts[WORDLESS] = ""
    users, items = (
        IdMap([f"{kind}{row}" for row in range(count)]) for kind, count in (("u", NUM_USERS), ("i", NUM_ITEMS))
    )
    about = Catalogue.blank(users.external)
    if profiles:
        likes = tuple(f"likes kind{row // USERS_PER_GROUP}" if row % 4 else "" for row in range(NUM_USERS))
        about = Catalogue(likes, users.external)
    friends = [[(row + 1) % NUM_USERS, (row + 2) % NUM_USERS] if row % 3 else [] for row in range(NUM_USERS)]
    return Dataset(
        Interactions(user, item),
        users,
        items,
        Catalogue(tuple(texts), items.external),
        about,
        ties=Ragged.from_lists(friends) if ties else None,
        has_order=True,
    )


class DrawnRecommender(Recommender):
    """Random vectors in the form that answers, so that a bundle of it is one as training writes it."""

    name = "drawn"

    def __init__(self, dataset: Dataset, seed: int) -> None:
        self._seed = seed
        self._fitted(dataset)

    def fit(self, dataset, validation=None):
        raise NotImplementedError

    def export(self) -> ScoringModel:
        draw = lambda *shape: np.random.default_rng([self._seed, *shape]).normal(size=shape).astype(np.float32)
        items = self.dataset.num_items
        return ScoringModel(draw(items, 6), draw(items, 6), draw(items), item_popularity(self.dataset), (6,))

    def state(self):
        return {"source": self.scoring_model.source_ID}, {}

    def load_state(self, arrays, settings, dataset):
        raise NotImplementedError


def write_served_bundle(path: Path, seed: int = 0) -> Path:
    """A bundle that can be served; another seed gives another version."""
    recommender = DrawnRecommender(small_world(), seed)
    dataset = recommender.dataset
    fitted = np.ones(len(dataset.interactions), np.bool_)
    return write_bundle(path, recommender, dataset=dataset, fitted=fitted, config={"model": "drawn"}, metrics={})
