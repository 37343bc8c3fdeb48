"""A service without a model: equal answers for equal requests, and errors for ids that ask for one."""

from lanner.errors import (
    BundleError,
    ConfigError,
    OverloadedError,
    RequestError,
    StorageError,
    StoreUnavailableError,
    UnknownIdError,
)
from lanner.serving.http.app import App
from lanner.serving.http.contract import State
from lanner.serving.messages import (
    Changed,
    EventBatch,
    EventsAnswer,
    ExplainAnswer,
    ExplainRequest,
    Health,
    Item,
    Reason,
    RecentFigures,
    RecommendAnswer,
    RecommendedItem,
    RecommendRequest,
    Served,
    Status,
    User,
)

SERVED = Served(model="stand-in", variant="full", backend="none", milliseconds={"total": 0.5, "queue": 0.1})
RECENT = RecentFigures(
    window_s=5.0,
    requests_per_s=0.0,
    goodput_per_s=0.0,
    refused_per_s=0.0,
    p50_ms=None,
    p99_ms=None,
    by_variant={},
    by_backend={},
)
STATUS = Status(
    time=1767225600.0,
    up_s=1.0,
    model="stand-in",
    variants=["full"],
    backends=["none"],
    recent=RECENT,
    queue_depth=3,
    num_items=0,
    num_users=0,
    example_users=["ada"],
    attributes={"genre": ["Noir"]},
    reads_texts=True,
)
ERRORS = {
    "unknown": UnknownIdError("the user 'unknown' is not known; give a history"),
    "request": RequestError("give a user or a history, not both"),
    "config": ConfigError("/srv/secret: the backend is closed"),
    "storage": StorageError("/srv/secret/store: no space left"),
    "store": StoreUnavailableError("/srv/secret/store: locked"),
    "overloaded": OverloadedError("too many wait; ask again", 2.5),
    "bundle": BundleError("/srv/secret/bundle: damaged"),
    "bug": RuntimeError("secret of the inside"),
}
"""What is raised for the user of this id."""


class StandInService:
    def __init__(self) -> None:
        self.events: dict[str, str] = {}
        self.items: dict[str, Item] = {}
        self.users: dict[str, User] = {}
        self.ready, self.started, self.calls = True, 0, 0

    async def start(self) -> None:
        self.started += 1

    async def stop(self) -> None:
        self.started -= 1

    async def recommend(self, request: RecommendRequest) -> RecommendAnswer:
        self.calls += 1
        if request.user_id in ERRORS:
            raise ERRORS[request.user_id]
        return answer(request.user_id or "anonymous", request.k)

    async def explain(self, request: ExplainRequest) -> ExplainAnswer:
        reasons = [Reason(kind="history", name="Casablanca", value=1.0)]
        why = RecommendedItem(item_id=request.item_id, title="", score=1.0, rank=1, reasons=reasons, because="So.")
        return ExplainAnswer(item=why, served=SERVED)

    async def add_events(self, batch: EventBatch) -> EventsAnswer:
        before = len(self.events)
        for event in batch.events:
            self.events.setdefault(event.key or f"none-{len(self.events)}", event.item_id)
        accepted = len(self.events) - before
        return EventsAnswer(accepted=accepted, duplicates=len(batch.events) - accepted)

    async def put_item(self, item_id: str, item: Item) -> Changed:
        existed, self.items[item_id] = item_id in self.items, item
        return Changed(id=item_id, existed=existed)

    async def delete_item(self, item_id: str) -> Changed:
        return Changed(id=item_id, existed=self.items.pop(item_id, None) is not None)

    async def similar_items(self, item_id: str, k: int) -> RecommendAnswer:
        return answer(item_id, k)

    async def put_user(self, user_id: str, user: User) -> Changed:
        existed, self.users[user_id] = user_id in self.users, user
        return Changed(id=user_id, existed=existed)

    async def delete_user(self, user_id: str) -> Changed:
        return Changed(id=user_id, existed=self.users.pop(user_id, None) is not None)

    async def search(self, q: str, k: int, user_id: str | None) -> RecommendAnswer:
        return answer(f"{q} for {user_id}", k)

    async def status(self) -> Status:
        return STATUS

    async def health(self) -> Health:
        return Health(ready=self.ready, degraded=[] if self.ready else ["no model yet"])

    def state(self) -> State:
        return State(3, {"indexes": 1e6}, {"answers": 4}, {"events": len(self.events)})


def answer(name: str, k: int) -> RecommendAnswer:
    best = [RecommendedItem(item_id=f"{name}-{n}", title=f"Title {n}", score=1.0 / n, rank=n) for n in range(1, k + 1)]
    return RecommendAnswer(items=best, served=SERVED)


def served() -> App:
    """An application with the stand-in behind it."""
    return App(StandInService())
