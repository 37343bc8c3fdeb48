"""``benchmarks._query_texts``: only items of the named genre count, and every form of the hybrid is asked."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from stand_ins import ITEMS_PER_GROUP, NUM_ITEMS, small_world

pytest.importorskip("psutil")

from benchmarks import _query_texts
from lanner.data.catalogue import Attribute
from lanner.data.ragged import Ragged

KINDS = tuple(f"Kind{group}" for group in range(NUM_ITEMS // ITEMS_PER_GROUP))


def world_of_genres():
    world = small_world()
    codes = Ragged.from_lists([[item // ITEMS_PER_GROUP] for item in range(NUM_ITEMS)])
    return replace(world, item_catalogue=replace(world.item_catalogue, attributes={"genres": Attribute(KINDS, codes)}))


def items_of(text, shift=0):
    """The items of the kind that a query names, or of the next one."""
    kind = next(group for group, name in enumerate(KINDS) if name.lower() in text)
    return [(ITEMS_PER_GROUP * (kind + shift) + place) % NUM_ITEMS for place in range(ITEMS_PER_GROUP)]


def test_only_items_of_the_named_genre_count():
    world = world_of_genres()
    assert len(_query_texts.queries(world)) == len(KINDS) * len(_query_texts.PHRASINGS)
    assert _query_texts.query_text_ndcg(world, items_of) == pytest.approx(1)
    assert _query_texts.query_text_ndcg(world, lambda text: items_of(text, shift=1)) == 0


def test_every_variant_but_the_popularity_list_is_asked_and_then_the_server(monkeypatch):
    answers = {"full": 0, "int8": 1, "embeddings-64": 0, "popularity": 1}
    bundle = SimpleNamespace(
        dataset=world_of_genres(),
        text_files=object(),
        variants=tuple(answers),
        variant=lambda name: SimpleNamespace(model=answers[name]),
    )
    reader = SimpleNamespace(close=lambda: None)
    monkeypatch.setattr("lanner.encoders.open_text_reader", lambda variant, files: reader)
    monkeypatch.setattr(_query_texts, "Ranker", lambda model, reader: model)
    monkeypatch.setattr(_query_texts, "answer_of", lambda shift: lambda text: np.array(items_of(text, shift)))
    monkeypatch.setattr(_query_texts, "_served", lambda _: 0.5)
    found = _query_texts.forms(bundle)
    assert found == {
        "hybrid, full": pytest.approx(1),
        "hybrid, int8": 0,
        "hybrid, embeddings-64": pytest.approx(1),
        "hybrid, over HTTP": 0.5,
    }
