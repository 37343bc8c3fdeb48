"""One shard: the service of a process that holds a part of the items, asked in two rounds.

Whole here is what is known by id: ids, titles, attributes, users' events. Of its own items alone are the vectors, which
take most of the memory: the index, the sources and the head's halves.
"""

from functools import partial
from pathlib import Path

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from lanner.artifacts.bundle import SEAL, read_catalogue
from lanner.artifacts.ladder import FOLDER, Ladder, Rung, read_ladder
from lanner.data.interactions import Dataset, UserBatch
from lanner.data.ragged import Ragged
from lanner.serving.answering import allowed
from lanner.serving.backends import Backend, open_backend
from lanner.serving.fixed_order import FixedOrder
from lanner.serving.item_index import ItemIndex, KeptIndexes, Queries, indexed_vectors
from lanner.serving.messages import RecommendRequest
from lanner.serving.model import ModelConfig, ServedModel, installed_backend, queries_of, tuning_users
from lanner.serving.served_version import ServedVersion
from lanner.serving.service import LannerService
from lanner.serving.sharding import Best, Gathered, Part, PartEngine
from lanner.serving.versions.registry import CHAMPION


class ModelPart(ServedModel):
    """A bundle of which one part is held. Items may go, and none come."""

    @classmethod
    def open_part(cls, path: Path, config: ModelConfig, part: Part) -> "ModelPart":
        """Read a bundle and one variant of its ladder, the first that ``config`` names; errors as ``open``."""
        dataset, golden, _ = read_catalogue(path)
        ladder = read_ladder(path)
        own = part.rows(dataset.items.external)
        variant = config.variants[0] if config.variants else ladder.names[0]
        rung, reader = ladder.rung(variant, own), ladder.reader
        # It reads what is asked for in words, and no new items: those would borrow from all.
        item_reader = ladder.item_reader_of(np.empty(0, np.int64))
        indexes = KeptIndexes(path / FOLDER / f"part-{part.number}-of-{part.of}", config.candidates)
        index = indexes.of(rung.form, partial(_queries, ladder, variant, dataset))
        index = index_of_part(index, rung, own, dataset.num_items)
        engines: dict[tuple[str, str], PartEngine] = {}
        backends: list[Backend] = []
        for name in config.backends or (installed_backend(rung),):
            backends.append(open_backend(name, rung, reader, config.threads, backends))
            engines[name, variant] = PartEngine(
                rung, own, dataset.num_items, index, backends[-1], config.candidates, item_reader
            )
        return cls(path, (path / SEAL).read_text(encoding="ascii")[:12], dataset, golden, engines, None, config)

    def verify(self) -> int:
        """None: a part alone answers no golden request."""
        return 0

    def _withdraw(self, row: int) -> None:
        engine = self.best
        assert isinstance(engine, PartEngine)
        if engine.tables.holds(np.array([row])).any():
            super()._withdraw(row)
        else:
            self.filters.remove(row)


def index_of_part(index: ItemIndex, rung: Rung, own: NDArray[np.int64], num_rows: int) -> ItemIndex:
    """An index over a part's items, by the rows of the whole catalogue. own: those of the rung's items."""
    if not isinstance(index, FixedOrder):
        return index.at_rows(own, num_rows)
    item_ID = np.zeros((num_rows, 2), np.float32)
    item_ID[own] = indexed_vectors(rung.form)
    order = FixedOrder(item_ID)
    order.remove(np.setdiff1d(np.arange(num_rows), own))
    return order


def _queries(ladder: Ladder, variant: str, dataset: Dataset) -> Queries:
    """Users as the index will be asked, whose items may lie in any part: those items alone are read."""
    users = tuning_users(dataset)
    met, places = np.unique(users.history.values, return_inverse=True)
    history = Ragged(users.history.indptr, places.astype(np.int32))
    return queries_of(ladder.rung(variant, met.astype(np.int64)).form, UserBatch(history))


class PartVersion(ServedVersion):
    """A ``ModelPart`` while it is served."""

    def gathered(self, request: RecommendRequest) -> Gathered:
        """The first round; so little work that it is done where it is asked."""
        engine = self.model.best
        assert isinstance(engine, PartEngine)
        return engine.gathered(self._question(request.user_id, request.history, request.text).rows, self.version)

    async def best_for(self, request: RecommendRequest, user: Gathered) -> Best:
        """The second round."""
        question = self._question(request.user_id, request.history, request.text)
        allow, deny = allowed(self.model, request.filters)
        question = replace(question, k=request.k, exclude_seen=request.exclude_seen, allow=allow, deny=deny)
        done = await self._ask(partial(PartEngine.best_of_part, question=question, user=user), request.deadline_ms)
        return Best(done.result.answer.items.tolist(), self._told(done, request.text is not None))


class ShardService(LannerService):
    """What a replica of a shard answers with; its ``open_model`` gives a ``ModelPart``."""

    def _open(self, path: Path) -> PartVersion:
        # Threads do all the work: an engine process would open the items of every shard.
        return PartVersion(self._open_model(path, None), self.store, self.config, self._make_policy, self._loop)

    async def gathered(self, request: RecommendRequest) -> Gathered:
        """The first round of a request."""
        if self._shared is not None and request.user_id is not None:
            await self._shared.refresh(request.user_id)
        with self._live.acquire(CHAMPION) as version:
            assert isinstance(version, PartVersion)
            return version.gathered(request)

    async def best_for(self, request: RecommendRequest, user: Gathered) -> Best:
        """The second round, with what ``sharding.together`` made of the first."""
        with self._live.acquire(CHAMPION) as version:
            assert isinstance(version, PartVersion)
            return await version.best_for(request, user)
