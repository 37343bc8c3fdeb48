"""A service for the page: sixteen films and a transparent score, so that events change the list as with a model."""

import asyncio
import os
import time
from pathlib import Path

import msgspec
from stand_in_service import ERRORS, STATUS, StandInService

from lanner.errors import OverloadedError
from lanner.serving.http.app import App
from lanner.serving.http.keys import KeyFile
from lanner.serving.messages import (
    Event,
    EventBatch,
    Reason,
    RecommendAnswer,
    RecommendedItem,
    RecommendRequest,
    Served,
)
from lanner.serving.rolling_stats import RollingStats

TITLES = """
Casablanca (1942): Drama Romance | The Third Man (1949): Noir Mystery Drama | Double Indemnity (1944): Noir Crime
The Big Sleep (1946): Noir Mystery Crime | Rear Window (1954): Mystery Thriller | Vertigo (1958): Mystery Romance
Alien (1979): Horror Science-Fiction | Blade Runner (1982): Science-Fiction Noir Thriller
2001: A Space Odyssey (1968): Science-Fiction Adventure | The Thing (1982): Horror Science-Fiction Mystery
Some Like It Hot (1959): Comedy Romance | The Apartment (1960): Comedy Drama Romance
Chinatown (1974): Noir Mystery Thriller | The Sting (1973): Comedy Crime | North by Northwest (1959): Thriller Adventure
Spirited Away (2001): Adventure Fantasy
"""
LINES = [line.rpartition(":") for line in TITLES.strip().replace("\n", "|").split("|")]
FILMS = {f"f{number}": (title.strip(), genres.split()) for number, (title, _, genres) in enumerate(LINES)}
GENRES = sorted({genre for _, genres in FILMS.values() for genre in genres})
MOST_AT_ONCE, MOST_WAITING, SECONDS_EACH = 2, 3, 0.004


class SmallCinema(StandInService):
    def __init__(self) -> None:
        super().__init__()
        self.met = {"ada": ["f2", "f9"], "bob": ["f10"], "grace": ["f6", "f8"], "linus": ["f14"], "mary": ["f0", "f5"]}
        self.began = time.monotonic()
        self.recent = RollingStats(self.began)
        self.waiting, self.free = 0, asyncio.Semaphore(MOST_AT_ONCE)

    async def recommend(self, request: RecommendRequest) -> RecommendAnswer:
        if request.user_id in ERRORS:
            raise ERRORS[request.user_id]
        arrived = time.monotonic()
        variant = await self._turn(arrived)
        met = self.met.get(request.user_id or "", [])
        wanted = request.filters.attributes.get("genre", []) if request.filters else []
        left = [one for one in FILMS if one not in met and (not wanted or {*wanted} & {*FILMS[one][1]})]
        scored = [self._item(one, met, request.text or "") for one in left]
        answer = self._answer(scored, request.k, variant, arrived, request.explain)
        known = request.user_id is None or request.user_id in self.met
        unknown = [] if known else [request.user_id]
        return msgspec.structs.replace(answer, unknown=unknown, fallback=not (met or request.text))

    async def add_events(self, batch: EventBatch):
        for event in batch.events:
            self._meet(event)
        return await super().add_events(batch)

    async def similar_items(self, item_id: str, k: int) -> RecommendAnswer:
        scored = [self._item(one, [item_id], "") for one in FILMS if one != item_id]
        return self._answer(scored, k, "full", time.monotonic(), False)

    async def search(self, q: str, k: int, user_id: str | None) -> RecommendAnswer:
        scored = [self._item(one, self.met.get(user_id or "", []), q) for one in FILMS]
        return self._answer(scored, k, "full", time.monotonic(), False)

    async def status(self):
        now = time.monotonic()
        return msgspec.structs.replace(
            STATUS,
            time=time.time(),
            up_s=now - self.began,
            model="2026-11",
            variants=["full", "int8", "popularity"],
            backends=["openvino"],
            recent=self.recent.figures(now),
            queue_depth=self.waiting,
            num_items=len(FILMS),
            num_users=len(self.met),
            example_users=list(self.met),
            attributes={"genre": GENRES},
        )

    async def _turn(self, arrived: float) -> str:
        """The variant that the length of the queue leaves."""
        if self.waiting >= MOST_WAITING:
            self.recent.refused(arrived)
            raise OverloadedError("too many wait; ask again", 1.0)
        variant = ("full", "int8", "popularity")[min(self.waiting, 2)]
        self.waiting += 1
        async with self.free:
            self.waiting -= 1
            await asyncio.sleep(SECONDS_EACH)
        return variant

    def _meet(self, event: Event) -> None:
        if event.key not in self.events:
            self.met.setdefault(event.user_id, []).append(event.item_id)

    def _item(self, one: str, met: list[str], text: str) -> RecommendedItem:
        title, genres = FILMS[one]
        shared = {other: len({*genres} & {*FILMS[other][1]}) for other in met if other in FILMS}
        reasons = [Reason(kind="history", name=FILMS[other][0], value=0.6 * n) for other, n in shared.items() if n]
        reasons += [Reason(kind="query", name=one, value=0.9) for one in genres if one.lower() in text.lower()]
        reasons += [Reason(kind="friend", name="Grace", value=0.25)] if "Thriller" in genres else []
        reasons += [Reason(kind="profile", name="your profile", value=0.2)] if "Noir" in genres else []
        number = int(one[1:])
        reasons += [Reason(kind="popularity", name="popularity", value=0.45 / (1 + number / 4))]
        reasons += [Reason(kind="head", name="ranking head", value=-0.12 * (number % 3) - 0.05)]
        reasons.sort(key=lambda reason: -reason.value)
        because = f"{title} is recommended because {_said(reasons[0])}."
        score = sum(reason.value for reason in reasons)
        return RecommendedItem(item_id=one, title=title, score=score, rank=0, reasons=reasons, because=because)

    def _answer(self, scored, k: int, variant: str, arrived: float, explain: bool) -> RecommendAnswer:
        best = sorted(scored, key=lambda item: -item.score)[:k]
        bare = {} if explain else {"reasons": [], "because": ""}
        items = [msgspec.structs.replace(item, rank=n, **bare) for n, item in enumerate(best, start=1)]
        total = (time.monotonic() - arrived) * 1000
        parts = {"queue": 0.08, "gather": 0.12, "encode": 0.2, "retrieve": 0.16, "rank": 0.34, "explain": 0.1}
        milliseconds = {name: round(total * share, 3) for name, share in parts.items()} | {"total": total}
        self.recent.answered(time.monotonic(), total, variant, "openvino", total < 12)
        return RecommendAnswer(
            items=items, served=Served(model="2026-11", variant=variant, backend="openvino", milliseconds=milliseconds)
        )


def _said(reason: Reason) -> str:
    return f"you chose {reason.name}" if reason.kind == "history" else f"{reason.name or 'it'} suits you"


def served() -> App:
    """The application. LANNER_TEST_KEYS: a file of keys; without it the server is open."""
    keys = os.environ.get("LANNER_TEST_KEYS")
    return App(SmallCinema(), KeyFile(Path(keys)) if keys else None)
