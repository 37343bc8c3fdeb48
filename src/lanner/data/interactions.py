"""The frozen dataset that every reader returns and every model accepts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from lanner.data.catalogue import Catalogue
from lanner.data.ids import IdMap
from lanner.data.ragged import Ragged
from lanner.errors import ConfigError

if TYPE_CHECKING:
    import polars as pl

    from lanner.data.feedback import Feedback
    from lanner.data.split import Split

FrameKind = Literal["polars", "pandas", "arrow"]
"""Libraries whose frames are accepted and returned."""

EVENT_COLUMNS = ("user", "item", "timestamp", "weight", "behaviour", "partition")
"""Fields of each event, by their names in ``Interactions``."""


@dataclass(frozen=True)
class Interactions:
    """Users' events with items, one entry per event, in order of time if known.

    user, item: int32 ``[E]`` rows. timestamp: int64 ``[E]`` nanoseconds since 1970 (UTC), or None.
    weight: float32 ``[E]`` (a rating, a count; NaN where an event has none), or None.
    behaviour: uint8 ``[E]`` codes into ``behaviours``, or None if there is only one.
    partition: uint8 ``[E]`` codes into ``partitions`` if the source publishes a split, or None.
    confidence: float32 ``[E]``, how much the event counts for its item, 0: negative feedback (see ``data.feedback``);
    None: 1 each.
    """

    user: NDArray[np.int32]
    item: NDArray[np.int32]
    timestamp: NDArray[np.int64] | None = None
    weight: NDArray[np.float32] | None = None
    behaviour: NDArray[np.uint8] | None = None
    behaviours: tuple[str, ...] = ("interaction",)
    partition: NDArray[np.uint8] | None = None
    partitions: tuple[str, ...] = ()
    """Names of the published split's parts: those of ``train``, ``validation`` and ``test`` that occur."""
    confidence: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.user)

    def take(self, events: NDArray[np.integer] | NDArray[np.bool_]) -> "Interactions":
        """The chosen events, by position or by mask."""
        columns = {name: column for name, column in vars(self).items() if isinstance(column, np.ndarray)}
        chosen: dict[str, Any] = {name: column[events] for name, column in columns.items()}
        return replace(self, **chosen)


@dataclass(frozen=True)
class UserBatch:
    """Everything known about B users when they are scored; enough to score an anonymous user.

    history: items with positive feedback, oldest first if the order is known. profiles: one text per user, or None.
    friends: rows of each user's friends among known users, or None. attributes: values of each user in the numbering of
    ``Catalogue.values``, or None. weights: float32, aligned with ``history.values``, None: 1
    each. seen: all items each user interacted with, negative feedback included; None: the history.
    """

    history: Ragged
    profiles: tuple[str, ...] | None = None
    friends: Ragged | None = None
    weights: NDArray[np.float32] | None = None
    seen: Ragged | None = None
    attributes: Ragged | None = None

    def __len__(self) -> int:
        return len(self.history)

    def take(self, rows: NDArray[np.integer]) -> "UserBatch":
        """The chosen users of this batch, in that order."""
        return UserBatch(
            self.history.take(rows),
            None if self.profiles is None else tuple(self.profiles[row] for row in rows),
            None if self.friends is None else self.friends.take(rows),
            None if self.weights is None else self.weights[self.history.places(rows)],
            None if self.seen is None else self.seen.take(rows),
            None if self.attributes is None else self.attributes.take(rows),
        )


@dataclass(frozen=True)
class Dataset:
    """Interactions, item texts and attributes, user profiles, and edges between users and between items.

    Read one with ``lanner.load_dataset``, or make one of frames with ``from_frames``.
    """

    interactions: Interactions
    users: IdMap
    items: IdMap
    item_catalogue: Catalogue
    user_catalogue: Catalogue
    ties: Ragged | None = None
    """Friends of each user, one list a user row; None if the source has no ties."""
    links: Ragged | None = None
    """Related items of each item, one list an item row; None if the source has no links."""
    rejected: dict[str, int] = field(default_factory=dict)
    """Rows rejected while reading, counted by reason."""
    rejected_rows: "pl.DataFrame | None" = field(default=None, compare=False, repr=False)
    """Those rows themselves: reason, file, line (or row of a Parquet file), record (JSON)."""
    warnings: tuple[str, ...] = field(default=(), compare=False)
    """Findings of the reader that a caller should know, a line each: rejected events, texts that match no item."""
    unread: tuple[str, ...] = field(default=(), compare=False)
    """Unread columns of the events' files or frame."""
    has_order: bool = False
    """Whether the events of each user are in chronological order."""
    feedback: "Feedback | None" = field(default=None, compare=False, repr=False)
    """How ratings, counts and behaviours were turned into confidences; None: not done, or done by the caller."""
    frame_kind: FrameKind = field(default="polars", compare=False)
    """Kind of the frames the dataset was built from, and in which recommendations are returned."""
    source: str = field(default="", compare=False)
    """Name or path it was read from; empty for frames."""

    @classmethod
    def from_frames(
        cls,
        events: Any,
        *,
        items: Any = None,
        users: Any = None,
        ties: Any = None,
        links: Any = None,
        user: str | None = None,
        item: str | None = None,
        time: str | None = None,
        rating: str | None = None,
        behaviour: str | None = None,
        title: str | None = None,
        text: str | Sequence[str] = (),
        profile: str | Sequence[str] = (),
        attributes: str | Sequence[str] | Mapping[str, str] = (),
        numbers: str | Sequence[str] = (),
        positive_threshold: float | Literal["auto", "none"] = "auto",
        behaviour_weights: Mapping[str, float] | None = None,
    ) -> "Dataset":
        """A dataset of pandas, Polars or Arrow frames; recommendations come back as frames of the same kind.

        Ids may be strings or integers and keep that type, without space around them. Rows that cannot be used (no id,
        an unreadable time) are rejected, counted in ``rejected`` and reported as a ``UserWarning``, as of a file.

        Args:
            events: one interaction a row.
            items: one item a row, with the column ``item``; without it ``title``, ``text`` and ``attributes`` are
                columns of ``events``.
            users: one user a row, with the column ``user``, for ``profile`` and ``attributes``.
            ties: social edges, one a row: the column ``user`` and a column with the friend's id.
            links: edges between items, one a row: the column ``item`` and a column with the related item's id.
            user: column of users' ids. Default: such as ``user_id``, as in a CSV file.
            item: column of items' ids. Default: such as ``item_id``.
            time: column of ``events``: datetimes, ISO 8601, or seconds, ms, µs or ns since 1970. Default: such as
                ``timestamp``.
            rating: column of ``events`` with ratings, counts or other weights. Default: such as ``rating``.
            behaviour: column of ``events`` that says what the user did. Default: such as ``event``.
            title: column with what a person is shown. Default: ``title``.
            text: column or columns that the language model reads of an item, in that order. Default: title and
                description.
            profile: column or columns of ``users`` that the language model reads.
            attributes: column or columns of ``items`` or ``users`` to filter by, each row a list or a single value; as
                a mapping, columns with the separator of their values: ``{"genres": "|"}``.
            numbers: columns of ``items`` or ``users`` with numbers or dates, as attributes whose values are ranges.
            positive_threshold: ratings from here on are positive; auto: from the middle of the scale, or any count
                above 0; none: all events are, with equal weights.
            behaviour_weights: weight of each behaviour; 0: negative feedback.

        Raises:
            DataError: no such column, no usable row, or no positive event. ConfigError: not a frame, or an impossible
                weight.
        """
        from lanner.data.feedback import FeedbackConfig
        from lanner.data.frames import columns_named, read_frames, with_feedback

        columns = columns_named((user, item, time, rating, behaviour, title), text, profile, attributes, numbers)
        feedback = FeedbackConfig(positive_threshold, {} if behaviour_weights is None else behaviour_weights)
        return with_feedback(read_frames(events, items, users, (ties, links), columns), feedback, "events")

    def split(
        self,
        name: str = "auto",
        *,
        test: float = 0.2,
        validation: float = 0.1,
        seed: int = 0,
        among: Literal["cold", "all"] = "cold",
        exclude: Literal["seen", "nothing"] = "seen",
    ) -> "Split":
        """Withhold events for validation and test.

        Args:
            name: auto (global-time where events have timestamps and that leaves something to train on and to test, else
                random), random, leave-last-out, global-time, cold-items, or published (the dataset's own split).
            test: share withheld for testing: of each user's items (random), of all events (global-time), of all items
                (cold-items).
            validation: share of the rest withheld for early stopping.
            seed: random seed.
            among: cold-items ranks the withheld items among themselves (cold) or among all.
            exclude: leave-last-out ranks the items that the user has not seen, or all (nothing).

        Raises:
            ConfigError: no split, among or exclude of that name, a share outside 0 … 1, or a seed that is not a
                non-negative integer.
            DataError: this dataset does not support that split.
        """
        from lanner.data import splitting

        ways = {
            "auto": lambda: splitting.automatic(self, test, validation, seed),
            "random": lambda: splitting.random_ratio(self, test, validation, seed),
            "leave-last-out": lambda: splitting.leave_last_out(self, exclude),
            "global-time": lambda: splitting.global_time(self, test, validation),
            "cold-items": lambda: splitting.cold_items(self, test, validation, seed, among),
            "published": lambda: splitting.published(self, validation, seed),
        }
        if not isinstance(name, str) or name not in ways:
            raise ConfigError(f"unknown split '{name}'; choose one of {', '.join(ways)}")
        splitting.check_seed(seed)
        for setting, value, choices in (("among", among, ("cold", "all")), ("exclude", exclude, ("seen", "nothing"))):
            if value not in choices:
                raise ConfigError(f"unknown {setting} {value!r}; choose one of {', '.join(choices)}")
        return ways[name]()

    def __repr__(self) -> str:
        return f"Dataset({self.num_users:,} users, {self.num_items:,} items, {len(self.interactions):,} events)"

    @property
    def has_times(self) -> bool:
        """Whether events have timestamps that differ, so that they can be split by time."""
        times = self.interactions.timestamp
        return times is not None and len(times) > 0 and bool(times.min() < times.max())

    @property
    def user_ids(self) -> list[str] | list[int]:
        """Ids of all users, of the type that the caller gave."""
        return self.users.ids(range(self.num_users))

    @property
    def item_ids(self) -> list[str] | list[int]:
        """Ids of all items, of the type that the caller gave."""
        return self.items.ids(range(self.num_items))

    @property
    def num_users(self) -> int:
        return len(self.users)

    @property
    def num_items(self) -> int:
        return len(self.items)

    @cached_property
    def histories(self) -> Ragged:
        """Items with positive feedback of each user, oldest first, one list per user row (repeats kept)."""
        user, item = self.interactions.user, self.interactions.item
        if self._positive is not None:
            user, item = user[self._positive], item[self._positive]
        return Ragged.from_pairs(user, item, self.num_users)

    @cached_property
    def history_weights(self) -> NDArray[np.float32] | None:
        """Confidences aligned with ``histories.values``; None: 1 each."""
        confidence = self.interactions.confidence
        if confidence is None:
            return None
        events = np.arange(len(confidence)) if self._positive is None else self._positive
        weights = confidence[Ragged.from_pairs(self.interactions.user[events], events, self.num_users).values]
        return None if (weights == 1).all() else weights

    @cached_property
    def seen(self) -> Ragged:
        """Items that each user interacted with, negative feedback included: what is not recommended again."""
        if self._positive is None:
            return self.histories
        return Ragged.from_pairs(self.interactions.user, self.interactions.item, self.num_users)

    @cached_property
    def _positive(self) -> NDArray[np.int64] | None:
        """Positions of the positive events; None: all."""
        confidence = self.interactions.confidence
        return None if confidence is None or (confidence > 0).all() else np.flatnonzero(confidence > 0)

    def user_batch(self, rows: NDArray[np.integer] | None = None) -> UserBatch:
        """The data of the users ``rows`` (None: all users)."""
        has_profiles = any(self.user_catalogue.texts)
        batch = UserBatch(
            self.histories,
            self.user_catalogue.texts if has_profiles else None,
            self.ties,
            self.history_weights,
            None if self._positive is None else self.seen,
            self.user_catalogue.values if self.user_catalogue.attributes else None,
        )
        return batch if rows is None else batch.take(rows)

    def with_interactions(self, interactions: Interactions) -> "Dataset":
        """The same users, items, texts, ties and links with other events."""
        return replace(self, interactions=interactions)
