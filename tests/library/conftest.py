"""A small shop of films in frames, and one fitted model shared by all tests."""

from types import SimpleNamespace

import polars as pl
import pytest

import lanner

USERS, ITEMS = 24, 12


@pytest.fixture(scope="session")
def shop() -> SimpleNamespace:
    """Users of even and odd numbers like films of even and odd numbers; film 110 is everybody's, 111 nobody's."""
    pairs = [(user, item) for user in range(USERS) for item in range(11) if item == 10 or (user + item) % 5]
    liked = [item == 10 or user % 2 == item % 2 for user, item in pairs]
    events = pl.DataFrame(
        {
            "user_id": [user for user, _ in pairs],
            "item_id": [100 + item for _, item in pairs],
            "rating": [5.0 if yes else 1.0 for yes in liked],
            "ts": [1_600_000_000 + place for place in range(len(pairs))],
        }
    )
    items = pl.DataFrame(
        {
            "item_id": [100 + item for item in range(ITEMS)],
            "title": [f"Film <{item}>" for item in range(ITEMS)],
            "plot": [f"kind{item % 2} story number{item}" for item in range(ITEMS)],
            "genres": [["Drama"] if item % 4 < 2 else ["Drama", "Horror"] for item in range(ITEMS)],
        }
    )
    users = pl.DataFrame({"user_id": range(USERS), "likes": [f"likes kind{user % 2}" for user in range(USERS)]})
    ties = pl.DataFrame({"user_id": range(USERS), "friend": [(user + 2) % USERS for user in range(USERS)]})
    return SimpleNamespace(events=events, items=items, users=users, ties=ties)


@pytest.fixture(scope="session")
def data(shop) -> lanner.Dataset:
    return lanner.Dataset.from_frames(
        shop.events,
        items=shop.items,
        users=shop.users,
        ties=shop.ties,
        user="user_id",
        item="item_id",
        time="ts",
        text=["title", "plot"],
        profile=["likes"],
        attributes=["genres"],
    )


@pytest.fixture(scope="session")
def knn(data) -> lanner.ItemKNN:
    return lanner.ItemKNN().fit(data)
