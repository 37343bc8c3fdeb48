"""The catalog and item ingestion: put, change, delete and expire, under concurrent readers."""

from threading import Event, Thread

import numpy as np
import pytest

from lanner.data.catalogue import Attribute, Catalogue
from lanner.data.ids import IdMap
from lanner.data.interactions import Dataset, Interactions
from lanner.data.ragged import Ragged
from lanner.errors import OverloadedError, RequestError, UnknownIdError
from lanner.inference.eligibility import eligible
from lanner.inference.tables import Int8Rows
from lanner.inference.text_neighbours import TextNeighbours
from lanner.serving.catalog import Catalog
from lanner.serving.item_ingestion import ItemIngestion, background_thread
from lanner.serving.messages import Filters, Item
from lanner.serving.store.contract import ItemChange

IDS = ("alien", "brazil", "casablanca", "dune", "eraserhead")
WORDS = ("space", "love", "desert", "dream")


def features(texts):
    """Which of four words a text has, of length 1."""
    found = np.array([[word in text for word in WORDS] for text in texts], np.float32)
    return found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-6)


def dataset():
    genre = Attribute(("horror", "drama"), Ragged.from_lists([[0], [1], [1], [], [0, 1]]))
    year = Attribute(("1979", "1985", "1942"), Ragged.from_lists([[0], [1], [2], [1], []]))
    catalogue = Catalogue(("",) * 5, tuple(one.title() for one in IDS), {"genre": genre, "year": year})
    nothing = Interactions(*(np.empty(0, np.int32) for _ in range(3)))
    return Dataset(nothing, IdMap(()), IdMap(IDS), catalogue, Catalogue.blank(()))


def neighbours():
    return TextNeighbours.of(Int8Rows.of(features(["space", "dream", "love", "desert space", "dream love"])))


@pytest.fixture
def catalog():
    return Catalog(dataset(), neighbours())


def put(catalog, item_id, text="", available=True, **attributes):
    held = {name: [value] for name, value in attributes.items()}
    item = Item(title=item_id.upper(), text=text, attributes=held, available=available)
    return catalog.put(item_id, item, catalog.num_rows, features([text])[0])


def ids(catalog, mask):
    return {one for one, _ in catalog.named(mask.rows())}


def answerable(catalog, filters=None):
    """What an answer may hold: eligible rows by id."""
    found = catalog.allowed(filters)
    mask = eligible(catalog.available, found.mask, found.deny, None, catalog.num_rows)
    rows = np.arange(catalog.num_rows) if mask is None else np.flatnonzero(mask)
    named = [one for one, _ in catalog.named(rows)]
    assert len(named) == len(set(named))
    return set(named)


def test_a_changed_item_has_a_new_row_and_its_old_one_leads_there(catalog):
    version = catalog.version
    assert put(catalog, "dune", "desert", genre="drama")
    assert not put(catalog, "fargo")
    assert put(catalog, "dune", "love")
    assert catalog.row("dune") == 7
    assert catalog.current(np.array([3, 5, 7, 0])).tolist() == [7, 7, 7, 0]
    assert catalog.named([0, 7]) == [("alien", "Alien"), ("dune", "DUNE")]
    assert (len(catalog), catalog.num_rows, catalog.base_row("dune"), catalog.base_row("fargo")) == (6, 8, 3, None)
    assert catalog.available.mask(8).tolist() == [True, True, True, False, True, False, True, True]
    assert answerable(catalog) == {*IDS, "fargo"}
    assert catalog.version > version


def test_a_deleted_item_is_unknown_and_comes_back_with_its_past(catalog):
    assert catalog.delete("alien")
    assert not catalog.delete("alien")
    assert not catalog.delete("nobody")
    with pytest.raises(UnknownIdError, match="unknown item 'alien'; 4 items are known"):
        catalog.row("alien")
    rows, unknown = catalog.known_rows(["alien", "dune", "x", "brazil"])
    assert (rows.tolist(), unknown) == ([3, 1], ["alien", "x"])
    assert "alien" not in answerable(catalog)
    assert not put(catalog, "alien", "space")
    assert catalog.current(np.array([0])).tolist() == [5]
    assert catalog.base_row("alien") == 0


def test_an_item_that_keeps_its_row_changes_title_and_attributes(catalog):
    assert catalog.put("dune", Item(title="Dune II", attributes={"genre": ["horror"]}), None)
    assert (catalog.row("dune"), catalog.title(3), catalog.num_rows) == (3, "Dune II", 5)
    assert answerable(catalog, Filters(attributes={"genre": ["horror"]})) == {"alien", "eraserhead", "dune"}
    assert answerable(catalog, Filters(attributes={"year": ["1985"]})) == {"brazil"}
    catalog.delete("dune")
    assert not catalog.put("dune", Item(), None)
    assert answerable(catalog, Filters(attributes={"genre": ["horror"]})) == {"alien", "eraserhead"}
    with pytest.raises(ValueError, match="'fargo' has no row"):
        catalog.put("fargo", Item(), None)
    with pytest.raises(ValueError, match="row 9 was assigned to an item, but 5 is next"):
        catalog.put("fargo", Item(), 9, features([""])[0])


def test_items_out_of_stock_are_not_answered_until_they_are_back(catalog):
    put(catalog, "alien", genre="horror", available=False)
    assert "alien" in catalog
    assert answerable(catalog, Filters(attributes={"genre": ["horror"]})) == {"eraserhead"}
    assert answerable(catalog, Filters(allow=["alien", "dune"])) == {"dune"}
    put(catalog, "alien", genre="horror")
    assert "alien" in answerable(catalog)


def test_filters_are_honoured_exactly_and_unknown_ids_are_named(catalog):
    put(catalog, "fargo", genre="drama", year="1996")
    put(catalog, "brazil", genre="horror", year="1985")
    either = Filters(attributes={"genre": ["horror", "drama"], "year": ["1985", "1996"]})
    assert answerable(catalog, either) == {"brazil", "fargo"}
    assert answerable(catalog, Filters(attributes={"genre": ["drama"], "year": ["1985"]})) == set()
    assert answerable(catalog, Filters(attributes={"genre": []})) == set()
    found = catalog.allowed(Filters(attributes={"genre": ["drama"]}, allow=["fargo", "dune", "x"], deny=["y", "dune"]))
    assert (ids(catalog, found.mask), found.deny.tolist(), found.unknown) == ({"fargo"}, [3], ["x", "y"])
    assert catalog.allowed(None).mask is None
    with pytest.raises(
        RequestError, match=r"unknown attribute 'gener'; did you mean 'genre'\? known attributes: genre, year"
    ):
        catalog.allowed(Filters(attributes={"gener": ["drama"]}))


def test_the_cost_of_a_filter_tells_large_ones(catalog):
    small = Filters(attributes={"genre": ["drama"]}, allow=["dune"], deny=["x"])
    assert catalog.filter_cost(None) == 0
    assert catalog.filter_cost(small) < 10
    assert catalog.filter_cost(Filters(allow=["x"] * 10_000)) >= 10_000
    assert catalog.frequent_values(1) == {"genre": ["drama"], "year": ["1985"]}


def test_search_finds_the_nearest_texts_of_what_is_available(catalog):
    put(catalog, "fargo", "space")
    put(catalog, "alien", "love")  # it is found by what it says now
    rows, cosines = catalog.nearest(features(["space"])[0], 2)
    assert [one for one, _ in catalog.named(rows)] == ["fargo", "dune"]
    np.testing.assert_allclose(cosines, [1, 0.5**0.5], atol=0.01)
    catalog.delete("fargo")
    put(catalog, "dune", "space", available=False)
    assert {"fargo", "dune"}.isdisjoint(one for one, _ in catalog.named(catalog.nearest(features(["space"])[0], 9)[0]))
    with pytest.raises(RequestError, match="does not use texts"):
        Catalog(dataset()).nearest(np.ones(4, np.float32), 3)


def test_readers_see_each_item_once_with_all_that_belongs_to_it(catalog):
    stop, failures, reads = Event(), [], []

    def read():
        try:
            while not stop.is_set():
                found = catalog.allowed(Filters(attributes={"genre": ["drama"]}, deny=["casablanca", "eraserhead"]))
                mask = eligible(catalog.available, found.mask, found.deny, None, catalog.num_rows)
                named = catalog.named(np.flatnonzero(mask))
                assert {one for one, _ in named} <= {"brazil", "fargo", "dune"}, named
                rows, _ = catalog.known_rows(IDS)
                assert (catalog.current(rows) >= rows).all()
                near = catalog.nearest(features(["space"])[0], 20)[0]
                assert all(title.lower() == one for one, title in catalog.named(near))
                reads.append(1)
        except BaseException as error:
            failures.append(error)

    readers = [Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for turn in range(300):
        put(catalog, "dune", "space", genre=("horror", "drama")[turn % 2])
        put(catalog, "fargo", "love", genre="drama")
        if turn % 3 == 0:
            catalog.delete("fargo")
        catalog.put("brazil", Item(title="Brazil", available=bool(turn % 2)), None)
    stop.set()
    for reader in readers:
        reader.join()
    assert failures == []
    assert reads


# --- ingestion -----------------------------------------------------------------------------------------------------


class Rows:
    """Stands in for a ranker and for what makes an item's rows."""

    def __init__(self, first=5):
        self.known, self.next = [], first

    def read(self, model, features_NF, known):
        self.known += known
        return features_NF

    def add(self, rows, replaced=()):
        self.next += len(rows)
        return np.arange(self.next - len(rows), self.next)


class Reading:
    def __init__(self):
        self.calls, self.texts = [], []

    def __call__(self, texts):
        self.calls.append(len(texts))
        self.texts += texts
        if "damaged" in texts:
            raise ValueError("cannot be read")
        return features(texts)


def changes(*items):
    return [ItemChange(10 + place, one, item) for place, (one, item) in enumerate(items)]


@pytest.fixture
def ingestion(catalog):
    maker = Rows()
    made = ItemIngestion(catalog, [Rows(), Rows()], model=None, reader=maker, read=Reading(), most_new_items=40)
    made.maker = maker
    return made


def test_changes_of_the_store_are_taken_in_and_their_own_echo_is_not(catalog, ingestion):
    news = changes(("fargo", Item(text="love")), ("dune", Item(title="Dune", text="space")), ("alien", None))
    ingestion.apply(news)
    assert ingestion.maker.known == [None, 3]
    assert answerable(catalog) == {"brazil", "casablanca", "dune", "eraserhead", "fargo"}
    assert (ingestion.applied, ingestion.failed, catalog.num_rows) == (12, 0, 7)
    ingestion.apply(news)
    assert (catalog.num_rows, ingestion.applied) == (7, 12)
    ingestion.apply([ItemChange(20, "fargo", None), ItemChange(21, "dune", Item(text="love"))])
    assert (catalog.num_rows, ingestion.applied, "fargo" in catalog) == (8, 21, False)


def test_what_cannot_be_taken_in_stops_nothing_else(catalog, ingestion, caplog):
    texts = ["love"] * 20 + ["damaged"] + ["dream"] * 9
    ingestion.apply(changes(*((f"item {place}", Item(text=text)) for place, text in enumerate(texts))))
    assert (ingestion.failed, ingestion.applied, catalog.num_rows) == (1, 39, 34)
    assert "item 20" not in catalog
    assert "ingestion of item 'item 20' failed: cannot be read" in caplog.text
    assert ingestion._read.calls[:2] == [16, 14]


def test_an_item_is_refused_before_it_is_stored(catalog, ingestion):
    ingestion.check("fargo", Item(title="Fargo"))
    ingestion.apply(changes(*((f"item {place}", Item(text="love")) for place in range(45))))
    assert (ingestion.failed, catalog.num_rows) == (5, 45)
    with pytest.raises(OverloadedError, match="serve a newer bundle"):
        ingestion.check("fargo", Item(title="Fargo"))


def test_texts_are_cleaned_as_the_readers_of_datasets_clean_them(catalog, ingestion):
    ingestion.apply(changes(("fargo", Item(title="Fargo &amp; <b>Co</b>", text="<p>love</p>"))))
    assert catalog.named([catalog.row("fargo")]) == [("fargo", "Fargo & Co")]
    assert ingestion._read.texts[-1].strip() == "love"
    with pytest.raises(RequestError, match="neither text nor title"):
        ingestion.check("gilda", Item(text="<br>"))


def test_without_texts_known_items_change_and_new_ones_are_refused(catalog):
    catalog = Catalog(dataset())
    ingestion = ItemIngestion(catalog, [Rows()], model=None)
    with pytest.raises(RequestError, match="'fargo' is new and this model does not use texts"):
        ingestion.check("fargo", Item())
    ingestion.check("dune", Item())
    ingestion.apply(changes(("fargo", Item()), ("dune", Item(title="Dune II")), ("alien", None)))
    assert (ingestion.failed, ingestion.applied) == (1, 12)
    assert catalog.named([catalog.row("dune")]) == [("dune", "Dune II")]
    ingestion.apply([ItemChange(20, "alien", Item(title="Alien"))])
    assert answerable(catalog) == set(IDS)


def test_variants_that_disagree_about_a_row_do_not_corrupt_the_catalog(catalog):
    ingestion = ItemIngestion(catalog, [Rows(), Rows(9)], model=None, reader=Rows(), read=Reading())
    ingestion.apply(changes(("fargo", Item(text="love"))))
    assert (ingestion.failed, catalog.num_rows) == (1, 5)


def test_ingestion_rests_while_the_loop_is_busy(catalog, monkeypatch):
    rests = []
    monkeypatch.setattr("lanner.serving.item_ingestion.sleep", rests.append)
    busy = [0.1]
    ingestion = ItemIngestion(catalog, [Rows()], model=None, reader=Rows(), read=Reading(), busy=lambda: busy[0])
    ingestion.apply(changes(("fargo", Item(text="love"))))
    busy[0] = 0.95
    ingestion.apply(changes(("gilda", Item(text="love"))))
    assert rests[0] == 0 < rests[1]


def test_the_background_thread_stands_back():
    import os
    import threading

    pool = background_thread()
    assert pool.submit(lambda: os.getpriority(os.PRIO_PROCESS, threading.get_native_id())).result() >= 5
    pool.shutdown()


def test_a_text_is_read_by_one_worker_for_all(tmp_path):
    catalogs, readings = [Catalog(dataset(), neighbours()) for _ in range(2)], [Reading(), Reading()]
    workers = [
        ItemIngestion(catalog, [Rows()], model=None, reader=Rows(), read=reading, shared=tmp_path / "shared")
        for catalog, reading in zip(catalogs, readings, strict=True)
    ]
    item = Item(title="Fargo", text="love")
    workers[0].read_ahead("fargo", item)
    for worker in workers:
        worker.apply([ItemChange(1, "fargo", item)])
    assert [reading.calls for reading in readings] == [[1], []]
    assert all("fargo" in catalog for catalog in catalogs)


def test_a_new_item_without_a_text_or_a_title_is_refused(catalog):
    ingestion = ItemIngestion(catalog, [Rows()], model=None, reader=Rows(), read=Reading())
    with pytest.raises(RequestError, match="neither text nor title"):
        ingestion.check("fargo", Item(text=" "))
    ingestion.check("alien", Item())
