"""Base class of all models: fit, recommend, find similar items, explain, save."""

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from lanner.artifacts.bundle import CHECKSUM, KIND, MANIFEST, Bundle, write_bundle
from lanner.artifacts.serving_parts import serving_parts
from lanner.config import DataConfig, RunConfig, SplitConfig, from_dict, to_dict
from lanner.data.extension import extended
from lanner.data.frames import Columns, kind_of, read_frames
from lanner.data.ids import requested_ids
from lanner.data.interactions import Dataset
from lanner.data.split import HeldOut
from lanner.encoders import TextReader, open_text_reader
from lanner.errors import BundleError, ConfigError, RequestError
from lanner.files import write_folder
from lanner.inference.explain import Explanation, Reason, reasons
from lanner.inference.ranker import Query, RankedScorer, Ranker, Ranking
from lanner.inference.wording import Wording
from lanner.library.keywords import Keyword, configured, documented, keywords_of, signature_of
from lanner.library.requests import Filters, Questions, allowed, checked_k, ids_of, path_of
from lanner.library.results import SHOWN_ROWS, ItemExplanation, Notes, recommendations
from lanner.models.recommender import Recommender
from lanner.registry import CLOSED_FORMS, model_builder, without_unreadable_texts

_USERS_AT_ONCE = 256
_NO_DATASET_PATH = "DATASET"
"""In place of the path of a dataset that has none."""
_ALTERNATIVE = "use lanner.GNNFilter()"
_TO_GIVE_TEXTS = (
    "to give texts: lanner.Dataset.from_frames(events, items=items, text=['title', 'description']), with the names of "
    "your columns"
)


class Model:
    """A recommender: settings by keyword, then ``fit``. ``lanner.load`` opens a saved one.

    Ids in requests may be strings or integers; space around them is ignored; ids in results have the dataset's type.
    """

    name: ClassVar[str] = ""
    """Name in ``lanner train --model``."""
    _keywords: ClassVar[dict[str, Keyword]] = {}

    config: RunConfig
    """All settings."""
    dataset: Dataset
    """The training dataset, or all events of the loaded bundle; set by ``fit`` and ``lanner.load``."""

    def __init_subclass__(cls, name: str) -> None:
        cls.name = name
        cls._keywords = keywords_of(name)
        cls.__doc__ = documented(cls.__doc__, cls._keywords)
        cls.__signature__ = signature_of(cls._keywords)  # type: ignore[attr-defined]

    def __init__(self, **settings: Any) -> None:
        """Settings by keyword; omitted ones keep their defaults.

        Raises:
            ConfigError: an unknown setting, or a value of the wrong type or out of range.
        """
        if not self.name:
            raise ConfigError("Model is what the models have in common; choose one, such as lanner.EASE()")
        self.config = configured(self.name, self._keywords, settings, type(self).__name__)

    def __repr__(self) -> str:
        changed = {name: value for name, one in self._keywords.items() if (value := one.of(self.config)) != one.default}
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in changed.items())})"

    # --- fit, save, load ---------------------------------------------------------------------------------------------

    def fit(self, train: Dataset, validation: HeldOut | None = None) -> Self:
        """Learn from ``train``.

        Args:
            train: such as ``split.train``, or a whole dataset.
            validation: such as ``split.validation``, for early stopping. Without it the number of epochs is chosen on a
                tenth of each user's items, then the model learns all of ``train``. Closed-form models ignore it.

        Raises:
            ConfigError: ``train`` is not a dataset, or ``validation`` is not held-out users of it.
            DataError: ``train`` holds nothing to learn from.
            MissingExtraError: a package that the model needs is not installed.
        """
        if not isinstance(train, Dataset):
            raise ConfigError(
                f"fit takes a Dataset, received {type(train).__name__}; "
                "make one with lanner.Dataset.from_frames, or give split.train"
            )
        _check_validation(train, validation)
        config = replace(self.config, data=DataConfig(train.source or _NO_DATASET_PATH))
        config, notes = without_unreadable_texts(config, train, _ALTERNATIVE, _TO_GIVE_TEXTS)
        for note in notes:
            warnings.warn(note, UserWarning, stacklevel=2)
        recommender = model_builder(self.name)(config, None).fit(train, validation)
        if recommender.shortfall:
            warnings.warn(recommender.shortfall, UserWarning, stacklevel=2)
        if validation is None and self.name not in CLOSED_FORMS:
            recommender.refit(train)
        self.config, self._bundle, self._recommender, self._watermark = config, None, recommender, 0
        return self._serve(train, recommender.ranker)

    def update(self, events: Any) -> Self:
        """Add new events without training: closed forms are solved again, trained parameters stay.

        The model itself changes and is returned; to keep it as it was, ``save`` it first. New users and items are
        added; a new item is represented by its text until it has events.

        Args:
            events: new events; known ones are ignored. A dataset, or a frame with the usual column names, and with
                ``title`` and ``description`` of new items, as in ``Dataset.from_frames``.

        Raises:
            ConfigError: not fitted, or neither a dataset nor a frame. DataError: no usable columns, or no timestamps
                although the known events have them.
            BundleError: the bundle it was loaded from is gone.
        """
        self._fitted_ranker  # noqa: B018
        more = events if isinstance(events, Dataset) else read_frames(events, None, None, (None, None), Columns())
        for line in () if more is events else more.warnings:
            warnings.warn(line, UserWarning, stacklevel=2)
        dataset = extended(self.dataset, more)
        if self._recommender is None:
            assert self._bundle is not None
            built = replace(self._bundle, builder=lambda name: model_builder(name)(RunConfig(model=name), None))
            self._recommender, self._watermark, self._bundle = built.recommender, built.watermark, None
        return self._serve(dataset, self._recommender.update(dataset).ranker)

    def save(self, path: Path | str) -> Path:
        """Write a bundle, which ``lanner.load`` opens and ``lanner serve`` serves; an existing one is replaced.

        Raises:
            ConfigError: not fitted, or no path. StorageError: writing failed.
            BundleError: the bundle it was loaded from is gone.
        """
        self._fitted_ranker  # noqa: B018
        path = path_of(path, "save")
        if self._bundle is not None:
            return _copied(self._bundle, path)
        assert self._recommender is not None
        return write_bundle(
            path,
            self._recommender,
            dataset=self.dataset,
            fitted=np.ones(len(self.dataset.interactions), np.bool_),
            feedback=self.dataset.feedback,
            config=to_dict(replace(self.config, split=SplitConfig("none"))),
            metrics={},
            watermark=self._watermark,
            **serving_parts(self._recommender),
        )

    @classmethod
    def of_bundle(cls, bundle: Bundle) -> Self:
        """The model of a bundle; see ``lanner.load``."""
        model = cls.__new__(cls)
        try:
            model.config = from_dict(bundle.config)
        except ConfigError as error:
            raise BundleError(f"{bundle.path}: its settings cannot be read ({error})") from error
        model._bundle = bundle
        reader = None if bundle.text_files is None else _LazyReader(bundle)
        return model._serve(bundle.dataset, Ranker(bundle.variant().model, reader=reader))

    def _serve(self, dataset: Dataset, ranker: Ranker) -> Self:
        self.dataset, self._ranker, self._wording = dataset, ranker, Wording.of(dataset)
        return self

    @property
    def _fitted_ranker(self) -> Ranker:
        """Raises ``ConfigError`` before ``fit``."""
        if self._ranker is None:
            raise ConfigError(f"{type(self).__name__} is not fitted; call fit(dataset) first")
        return self._ranker

    _bundle: Bundle | None = None
    """The bundle that a loaded model came from."""
    _recommender: Recommender | None = None
    """The trained recommender of a model that was fitted or updated here."""
    _watermark: int = 0
    """See ``Bundle.watermark``."""
    _ranker: Ranker | None = None

    # --- answers -----------------------------------------------------------------------------------------------------

    def recommend(
        self,
        users: Any = None,
        *,
        histories: Iterable[Sequence[str | int]] | None = None,
        texts: Any = None,
        attributes: Iterable[Filters] | None = None,
        k: int = 10,
        filters: Filters | None = None,
        exclude_seen: bool = True,
        because: bool = True,
    ) -> Any:
        """The k best items for known users, or for anonymous users by any of history, text and attributes.

        Args:
            users: ids: a list, an array, or a column of a frame.
            histories: item ids, one list per anonymous user, oldest first.
            texts: search texts, one per user; for models that read texts.
            attributes: attribute → values, one mapping per user; for models that learned from user attributes. They
                replace the user's attributes in the dataset.
            k: items per user; fewer if fewer are left.
            filters: attribute → values; an item needs at least one of the values of each attribute.
            exclude_seen: leave out items that the user has interacted with.
            because: add the column ``because``, the strongest reasons in words; without it, many users take less time.

        Returns:
            A frame of the kind the dataset was made from (else Polars): user_id (position 0 … n − 1 of anonymous
            users), item_id, rank (from 1), score (higher is better), title, because. Unknown ids and attribute values
            are ignored, and users without data get popular items; both issue a ``UserWarning`` and are listed in the
            frame's ``notes`` (not in Arrow). A filter value that no item has is a ``UserWarning``, too.

        Raises:
            RequestError: no users, or both users and histories; an unknown attribute; k below 1.
            ConfigError: not fitted.
        """
        ranker, k = self._fitted_ranker, checked_k(k)
        questions = Questions.of(self.dataset, users, histories, texts, attributes)
        allow = allowed(self.dataset.item_catalogue.attributes, filters, self.dataset.num_items)
        like, rankings = Query(k=k, allow=allow, explain=because), list[Ranking]()
        said_because, shown = list[str](), list[list[Reason]]()
        for queries in questions.blocks(_USERS_AT_ONCE, like, exclude_seen=exclude_seen):
            found = ranker.rank(queries)
            explained = [one for ranking in found for one in ranking.explanations]
            said_because += [self._wording.cell(one) for one in explained]
            shown += [self._reasons(one) for one in explained[: SHOWN_ROWS - len(shown)]]
            rankings += [replace(ranking, explanations=()) for ranking in found]
        names = questions.names
        notes = Notes(
            tuple(questions.unknown),
            tuple(name for name, ranking in zip(names, rankings, strict=True) if ranking.fallback),
            self._ignores(texts),
        )
        for line in notes:
            warnings.warn(line, UserWarning, stacklevel=2)
        kind = self.dataset.frame_kind if users is None or kind_of(users) == "polars" else kind_of(users)
        columns = self._columns("user_id", questions.column(names), rankings)
        return recommendations(columns | ({"because": said_because} if because else {}), kind, notes, shown)

    def similar_items(self, items: Any, k: int = 10, *, filters: Filters | None = None) -> Any:
        """The k items most similar to each given item: those ranked highest for a user with only that item.

        Returns:
            A frame of the dataset's kind: target_item_id, item_id, rank, score, title.

        Raises:
            UnknownIdError: an unknown item. RequestError: k below 1, or an unknown attribute.
            ConfigError: not fitted.
        """
        ranker, k = self._fitted_ranker, checked_k(k)
        rows = self.dataset.items.rows(ids_of(items, "items"))
        allow = allowed(self.dataset.item_catalogue.attributes, filters, self.dataset.num_items)
        rankings = [ranker.similar(int(row), k, allow) for row in rows]
        targets = self.dataset.items.ids(rows.tolist())
        notes = Notes(fallback=tuple(name for name, one in zip(targets, rankings, strict=True) if one.fallback))
        for line in notes:
            warnings.warn(line.replace("users", "items"), UserWarning, stacklevel=2)
        columns = self._columns("target_item_id", self.dataset.items.column(targets), rankings)
        return recommendations(columns, self.dataset.frame_kind, notes)

    def explain(
        self,
        user: str | int | None = None,
        item: str | int | None = None,
        *,
        history: Sequence[str | int] | None = None,
        text: str | None = None,
        attributes: Filters | None = None,
    ) -> ItemExplanation:
        """Explain the score of ``item`` for a known user, or an anonymous one by any of history, text and attributes.

        Raises:
            UnknownIdError: unknown ``item``. RequestError: no item or no user, or both a user and a history.
            ConfigError: not fitted.
        """
        ranker = self._fitted_ranker
        if item is None:
            raise RequestError("an item is required: explain(user, item)")
        item, user = requested_ids([item], "item")[0], requested_ids([user], "user")[0]
        row = self.dataset.items.row(item)
        arguments = (None if one is None else [one] for one in (user, history, text, attributes))
        questions = Questions.of(self.dataset, *arguments)
        ((query,),) = questions.blocks(1, Query(), exclude_seen=True)
        found = ranker.explain(query, np.array([row]))[0]
        title = self.dataset.item_catalogue.titles[row]
        return ItemExplanation(
            self.dataset.items.ids([row])[0],
            title,
            found.score,
            tuple(self._reasons(found)),
            self._wording.sentence(title, found),
            tuple(questions.unknown),
            ranker.rank([replace(query, k=1)])[0].fallback,
            self._ignores(text),
        )

    @property
    def _learned_from(self) -> Dataset:
        """The dataset with only the events that the model was fitted on."""
        return self.dataset if self._bundle is None else self._bundle.learned_from

    @property
    def scorer(self) -> RankedScorer:
        """The scorer that ``lanner.evaluate`` measures."""
        ranker = self._fitted_ranker
        reader = ranker.reader
        return RankedScorer(ranker.model, None if reader is None else reader.features)

    def _ignores(self, texts: Any) -> bool:
        return texts is not None and not self._fitted_ranker.reads_text

    def _reasons(self, explanation: Explanation) -> list[Reason]:
        return reasons(explanation, self._wording.item_title, self._wording.user_name)

    def _columns(
        self, id_column: str, names: NDArray[np.int64] | list[str], rankings: Sequence[Ranking]
    ) -> dict[str, Any]:
        lengths = [len(ranking.items) for ranking in rankings]
        rows = np.concatenate([np.empty(0, np.int64), *(ranking.items for ranking in rankings)]).tolist()
        titles = self.dataset.item_catalogue.titles
        items = self.dataset.items
        repeated = (
            np.repeat(names, lengths)
            if isinstance(names, np.ndarray)
            else [name for name, length in zip(names, lengths, strict=True) for _ in range(length)]
        )
        return {
            id_column: repeated,
            "item_id": items.column(items.ids(rows)),
            "rank": np.array([rank for length in lengths for rank in range(1, length + 1)], np.int64),
            "score": np.concatenate([np.empty(0, np.float32), *(ranking.scores for ranking in rankings)]),
            "title": [titles[row] for row in rows],
        }


def _check_validation(train: Dataset, validation: Any) -> None:
    """Raises ``ConfigError`` unless it is None or held-out users of the dataset."""
    if validation is None:
        return
    if not isinstance(validation, HeldOut):
        raise ConfigError(
            f"validation takes held-out users, such as split.validation, received {type(validation).__name__}"
        )
    if not validation.is_of(train.items):
        raise ConfigError("the items of validation are not those of train; take both from one split")


def _copied(bundle: Bundle, path: Path) -> Path:
    """Copy the bundle to another folder, file by file."""
    if path.resolve() == bundle.path.resolve():
        return path
    names = [MANIFEST, CHECKSUM, *bundle.manifest["sha256"]]
    try:
        contents = {name: (bundle.path / name).read_bytes() for name in names}
    except OSError as error:
        raise BundleError(f"{bundle.path}: cannot be read ({error.strerror}); load the bundle again") from None
    write_folder(path, contents, kind=KIND)
    return path


class _LazyReader:
    """Loads the encoder on the first text: most requests have none."""

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle

    def features(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return self._reader.features(texts)

    @cached_property
    def _reader(self) -> TextReader:
        assert self._bundle.text_files is not None
        return open_text_reader(self._bundle.variant(), self._bundle.text_files)
