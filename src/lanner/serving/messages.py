"""The typed messages of the API: the source for parsing, for stored records and for the OpenAPI document.

Ids are external ids, never rows. Times are Unix timestamps in seconds. Unknown fields are an error.
"""

from typing import Annotated, Literal

from msgspec import Meta, Struct
from msgspec.structs import replace

MAX_K = 1000
MAX_HISTORY = 5000
MAX_EVENTS = 1000
MAX_TEXT = 20_000
MAX_IDS = 10_000

LATEST = 2**40
"""Seconds since 1970; every current time in milliseconds is later."""

ONE_LINE = r"^\S(?:[^\n]*\S)?(?![\s\S])"
"""No line break, and no white space at the ends; the last group is an end that neither Python nor ECMA stretches."""

Id = Annotated[str, Meta(min_length=1, max_length=256, pattern=ONE_LINE)]
StoredId = Annotated[str, Meta(min_length=1, max_length=256)]
"""An id to delete: older versions stored ids with white space at their ends."""
Value = Annotated[str, Meta(min_length=1, max_length=256)]
Text = Annotated[str, Meta(max_length=MAX_TEXT)]
Attributes = dict[Annotated[str, Meta(min_length=1, max_length=128)], Annotated[list[Value], Meta(max_length=64)]]
"""Values by attribute name: genre, brand, sector …"""
ReasonKind = Literal["history", "friend", "text", "query", "profile", "attributes", "popularity", "head"]
"""text: the item's description matches the user's taste. query: it matches the text of the request."""
Behaviour = Annotated[str, Meta(min_length=1, max_length=64)]
Number = Annotated[int, Meta(ge=1, le=MAX_K)]
"""Number of items."""
Question = Annotated[str, Meta(min_length=1, max_length=1000)]
"""A search query."""


class Message(Struct, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Base of all messages: named fields only, unknown fields are rejected."""


# --- stored records ------------------------------------------------------------------------------------------------


class Event(Message):
    """A user-item interaction. key: idempotency key; events with the same key are stored once."""

    user_id: Id
    item_id: Id
    behaviour: Behaviour = "interaction"
    weight: Annotated[float, Meta(ge=-1e9, le=1e9)] | None = None
    timestamp: Annotated[float, Meta(ge=0, lt=LATEST)] | None = None
    """Unix time in seconds; None: time of receipt."""
    key: Annotated[str, Meta(min_length=1, max_length=128)] | None = None


class Item(Message):
    """An item's display and ranking data. text: one line per text field, in the order of the training catalogue.

    A title, text or attributes that are empty or omitted stay as they are known, from earlier requests or from the
    bundle; attributes that are given replace all earlier ones. An item is available unless the request says otherwise.
    """

    title: Text = ""
    text: Text = ""
    attributes: Annotated[Attributes, Meta(max_length=64)] = {}
    available: bool = True
    """Whether the item may be recommended; false if hidden, expired or out of stock."""

    def or_else(self, known: "Item") -> "Item":
        """This item, with an empty title, text or attributes taken from a known state of it."""
        return replace(
            self,
            title=self.title or known.title,
            text=self.text or known.text,
            attributes=self.attributes or known.attributes,
        )


class User(Message):
    """A user's profile text and the ids of their friends."""

    profile: Text = ""
    ties: Annotated[list[Id], Meta(max_length=MAX_IDS)] = []


# --- recommendations -----------------------------------------------------------------------------------------------


class Filters(Message):
    """Hard filters. attributes: an item must have at least one of the values of each. allow, deny: item ids."""

    attributes: Annotated[Attributes, Meta(max_length=64)] = {}
    allow: Annotated[list[Id], Meta(max_length=MAX_IDS)] | None = None
    deny: Annotated[list[Id], Meta(max_length=MAX_IDS)] = []


class RecommendRequest(Message):
    """A request by ``user_id``, or for an anonymous user by ``history`` (item ids, oldest first), ``text``,
    ``attributes``, or several of them."""

    user_id: Id | None = None
    history: Annotated[list[Id], Meta(max_length=MAX_HISTORY)] | None = None
    text: Text | None = None
    attributes: Annotated[Attributes, Meta(max_length=64)] | None = None
    """Attributes of the user, in place of the known ones; unknown values are ignored and listed."""
    k: Number = 10
    exclude_seen: bool = True
    filters: Filters | None = None
    diversity: Annotated[float, Meta(ge=0, le=1)] = 0.0
    """0: by score only; 1: maximally diverse (maximal marginal relevance)."""
    explain: bool = False
    deadline_ms: Annotated[float, Meta(gt=0, le=60_000)] | None = None
    """Deadline in ms; None: the server's default."""


class Reason(Message):
    """One component of a score. name: an item title, a user, or a description of the component."""

    kind: ReasonKind
    name: str
    value: float


class RecommendedItem(Message):
    """A recommended item; the list is sorted best first."""

    item_id: str
    title: str
    score: float
    rank: int
    reasons: list[Reason] = []
    """With ``explain`` only: components that sum to the score, largest first."""
    because: str = ""
    """The strongest reasons in one sentence."""


class Served(Message):
    """How a response was produced."""

    model: str
    """Bundle version."""
    variant: str
    backend: str
    milliseconds: dict[str, float]
    """Time in ms by component, including ``total`` and ``queue``."""
    cached: bool = False


class Answer(Message, kw_only=True):
    """Fields common to all responses with items."""

    served: Served
    unknown: list[str] = []
    """Unknown ids and attributes in the request, which were ignored; an unknown user is treated as anonymous."""
    fallback: bool = False
    """True if the items are merely popular, because the model knows nothing about the user."""
    text_ignored: bool = False
    """True if the request's text was ignored, because the variant does not use texts."""


class RecommendAnswer(Answer, kw_only=True):
    """The top items; fewer than k if filters leave fewer."""

    items: list[RecommendedItem]


class ExplainRequest(Message):
    """Explain an item's score for one user, specified as in ``RecommendRequest``."""

    item_id: Id
    user_id: Id | None = None
    history: Annotated[list[Id], Meta(max_length=MAX_HISTORY)] | None = None
    text: Text | None = None
    attributes: Annotated[Attributes, Meta(max_length=64)] | None = None


class ExplainAnswer(Answer, kw_only=True):
    """The item with the components of its score, largest first, and one sentence."""

    item: RecommendedItem


# --- events, items, users ------------------------------------------------------------------------------------------


class EventBatch(Message):
    """Events stored in one transaction; acknowledged once they are on disk."""

    events: Annotated[list[Event], Meta(min_length=1, max_length=MAX_EVENTS)]


class EventsAnswer(Message):
    """accepted: newly stored. duplicates: already stored under the same key."""

    accepted: int
    duplicates: int


class Changed(Message):
    """An item or user was written or deleted. existed: whether it was known before."""

    id: str
    existed: bool


class ErrorAnswer(Message):
    """One line: what was received, where, and what to do."""

    error: str


class Health(Message):
    """ready: whether requests are served. degraded: current problems, one line each."""

    ready: bool
    degraded: list[str] = []


class RecentFigures(Message):
    """Rates and latencies over a recent window. In time means before the deadline."""

    window_s: float
    """Length of the window in seconds; shorter just after startup."""
    requests_per_s: float
    """Answered plus rejected."""
    goodput_per_s: float
    """Answered in time."""
    refused_per_s: float
    """Rejected early, without being processed."""
    p50_ms: float | None
    """Median latency of responses; None if there were none."""
    p99_ms: float | None
    by_variant: dict[str, float]
    """Share of responses by variant; sums to 1."""
    by_backend: dict[str, float]


class ShadowFigures(Message):
    """Challenger versus champion on mirrored requests; means over all of them, latencies over the most recent."""

    compared: int
    dropped: int
    """Not compared because the queue was full."""
    failed: int
    """Requests that the challenger failed to answer."""
    overlap: float | None
    """Mean overlap, as a share of the longer list; None if nothing was compared."""
    rank_correlation: float | None
    """Mean Spearman correlation over the items in both lists."""
    champion_p50_ms: float | None
    champion_p99_ms: float | None
    challenger_p50_ms: float | None
    challenger_p99_ms: float | None
    problem: str = ""
    """The challenger's last error, one line; empty after a success."""


class Status(Message):
    """Served versions and current performance, for the page."""

    time: float
    """Server time."""
    up_s: float
    model: str
    """The champion's version; catalogue statistics are its own."""
    variants: list[str]
    """Best first."""
    backends: list[str]
    recent: RecentFigures
    queue_depth: int
    """Requests waiting in the queue."""
    num_items: int
    num_users: int
    example_users: Annotated[list[str], Meta(max_length=20)]
    """Ids of some known users."""
    attributes: dict[str, Annotated[list[str], Meta(max_length=20)]]
    """Attributes for filtering: the most frequent values of each."""
    reads_texts: bool
    """Whether query texts and search are supported."""
    versions: dict[str, str] = {}
    """Served versions by alias."""
    shadow: ShadowFigures | None = None
    """None without shadow traffic."""


class Alive(Message):
    """The process and its event loop respond. Readiness is in ``Health``."""

    alive: bool
