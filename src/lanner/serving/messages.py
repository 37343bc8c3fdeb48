"""The messages of the API, typed: one source for parsing, for the store's records and for the OpenAPI document.

Ids are external ids, never rows. Times are seconds since 1970. A field that is not named here is an error.
"""

from typing import Annotated, Literal

from msgspec import Meta, Struct

MAX_K = 1000
MAX_HISTORY = 5000
MAX_EVENTS = 1000
MAX_TEXT = 20_000
MAX_IDS = 10_000

Id = Annotated[str, Meta(min_length=1, max_length=256)]
Text = Annotated[str, Meta(max_length=MAX_TEXT)]
Attributes = dict[Annotated[str, Meta(min_length=1, max_length=128)], Annotated[list[Id], Meta(max_length=64)]]
"""Values by name of the attribute: genre, brand, sector …"""
ReasonKind = Literal["history", "friend", "text", "query", "profile", "popularity", "head"]
"""text: an item's description matches the user's taste. query: it matches the text of the request."""
Behaviour = Annotated[str, Meta(min_length=1, max_length=64)]
Number = Annotated[int, Meta(ge=1, le=MAX_K)]
"""How many items an answer may hold."""
Question = Annotated[str, Meta(min_length=1, max_length=1000)]
"""What is searched for, in words."""


class Message(Struct, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What every body has in common: its fields are named, and no others are taken."""


# --- what is stored ------------------------------------------------------------------------------------------------


class Event(Message):
    """A user interacted with an item. key: unique to the event, which is stored once however often it is sent."""

    user_id: Id
    item_id: Id
    behaviour: Behaviour = "interaction"
    weight: Annotated[float, Meta(ge=-1e9, le=1e9)] | None = None
    timestamp: Annotated[float, Meta(ge=0, lt=2**40)] | None = None
    """None: the moment the server received it."""
    key: Annotated[str, Meta(min_length=1, max_length=128)] | None = None


class Item(Message):
    """An item as it is shown, read and filtered. text: one line a field, in the order of the catalogue's fields."""

    title: Text = ""
    text: Text = ""
    attributes: Annotated[Attributes, Meta(max_length=64)] = {}
    available: bool = True
    """Whether it may be recommended; false for an item that is hidden, expired or out of stock."""


class User(Message):
    """A user's own description, and the ids of their friends."""

    profile: Text = ""
    ties: Annotated[list[Id], Meta(max_length=MAX_IDS)] = []


# --- recommendations -----------------------------------------------------------------------------------------------


class Filters(Message):
    """Which items may be answered; honoured exactly. attributes: an item must hold one of the values of each name."""

    attributes: Annotated[Attributes, Meta(max_length=64)] = {}
    allow: Annotated[list[Id], Meta(max_length=MAX_IDS)] | None = None
    deny: Annotated[list[Id], Meta(max_length=MAX_IDS)] = []


class RecommendRequest(Message):
    """For a ``user_id``, or an anonymous user by a ``history`` (item ids, oldest first), a ``text``, or both."""

    user_id: Id | None = None
    history: Annotated[list[Id], Meta(max_length=MAX_HISTORY)] | None = None
    text: Text | None = None
    k: Number = 10
    exclude_seen: bool = True
    filters: Filters | None = None
    diversity: Annotated[float, Meta(ge=0, le=1)] = 0.0
    """0: by score alone; 1: as unlike one another as the candidates allow (maximal marginal relevance)."""
    explain: bool = False
    deadline_ms: Annotated[float, Meta(gt=0, le=60_000)] | None = None
    """None: the server's own."""


class Reason(Message):
    """One summand of a score. name: a title, a person, or what the summand is."""

    kind: ReasonKind
    name: str
    value: float


class RecommendedItem(Message):
    """One item of an answer, best first."""

    item_id: str
    title: str
    score: float
    rank: int
    reasons: list[Reason] = []
    """Only where asked for: summands of the score, largest first; they add up to it."""
    because: str = ""
    """The largest of them in one sentence."""


class Served(Message):
    """What made an answer."""

    model: str
    """The bundle's version."""
    variant: str
    backend: str
    milliseconds: dict[str, float]
    """Time spent on this answer by component, ``total`` and ``queue`` among them."""
    cached: bool = False


class Answer(Message, kw_only=True):
    """What every answer about items says of itself."""

    served: Served
    unknown: list[str] = []
    """Ids of the request that are not known; they had no effect, and an unknown user is an anonymous one."""
    fallback: bool = False
    """The items are popular ones: nothing that the model reads is known of the user."""
    text_ignored: bool = False
    """The request's text had no effect: the variant that answered reads none."""


class RecommendAnswer(Answer, kw_only=True):
    """The best items, fewer than k where the filters leave fewer."""

    items: list[RecommendedItem]


class ExplainRequest(Message):
    """Why an item has its score for one user, given as in ``RecommendRequest``."""

    item_id: Id
    user_id: Id | None = None
    history: Annotated[list[Id], Meta(max_length=MAX_HISTORY)] | None = None
    text: Text | None = None


class ExplainAnswer(Answer, kw_only=True):
    """Summands of the score, largest first, and one sentence."""

    item: RecommendedItem


# --- events, items, users ------------------------------------------------------------------------------------------


class EventBatch(Message):
    """Events to store together; acknowledged once they are on disk."""

    events: Annotated[list[Event], Meta(min_length=1, max_length=MAX_EVENTS)]


class EventsAnswer(Message):
    """accepted: newly stored. duplicates: stored before under the same key."""

    accepted: int
    duplicates: int


class Changed(Message):
    """An item or a user was written or removed."""

    id: str
    existed: bool


class ErrorAnswer(Message):
    """One line: what was received, where, what to do."""

    error: str


class Health(Message):
    """ready: whether requests are taken. degraded: what does not work as it should, one line each."""

    ready: bool
    degraded: list[str] = []


class RecentFigures(Message):
    """Rates and latencies of the last seconds. An answer is in time where it came before its deadline."""

    window_s: float
    """Over how many seconds; fewer where the server has just started."""
    requests_per_s: float
    """Answered and rejected."""
    goodput_per_s: float
    """Answered in time."""
    refused_per_s: float
    """Rejected early, without work."""
    p50_ms: float | None
    """Of the answers, in time or not; None where there are none."""
    p99_ms: float | None
    by_variant: dict[str, float]
    """Share of the answers that each variant made; they add up to 1."""
    by_backend: dict[str, float]


class ShadowFigures(Message):
    """What the challenger answered to copies of the champion's requests; means over all, latencies over the last."""

    compared: int
    dropped: int
    """Too many waited."""
    failed: int
    """Not answered by the challenger."""
    overlap: float | None
    """Share of the longer list that stands in both, mean; None where nothing was compared."""
    rank_correlation: float | None
    """Spearman's, over the items in both lists, mean."""
    champion_p50_ms: float | None
    champion_p99_ms: float | None
    challenger_p50_ms: float | None
    challenger_p99_ms: float | None
    problem: str = ""
    """Why the challenger did not answer the last request, one line; empty once it answers again."""


class Status(Message):
    """What is served and how it performs, for the page."""

    time: float
    """The server's clock."""
    up_s: float
    model: str
    """The champion's version; the catalogue's figures are its own."""
    variants: list[str]
    """Best first."""
    backends: list[str]
    recent: RecentFigures
    queue_depth: int
    """Requests that wait."""
    num_items: int
    num_users: int
    example_users: Annotated[list[str], Meta(max_length=20)]
    """Some known users."""
    attributes: dict[str, Annotated[list[str], Meta(max_length=20)]]
    """Attributes to filter by: the most frequent values of each name."""
    reads_texts: bool
    """Whether texts and searches are understood."""
    versions: dict[str, str] = {}
    """What is served, by alias."""
    shadow: ShadowFigures | None = None
    """Only with shadow traffic."""


class Alive(Message):
    """The process runs and its event loop responds; whether it can answer says ``Health``."""

    alive: bool
