"""The front where the items are dealt into shards: questions go to all of them, in two rounds, and become one answer.

A shard's replica that dies is asked again like any other, each round by itself: what the first gave is in the second's
question. Users and events lie in the store, which any shard writes to.
"""

from lanner.errors import ConfigError
from lanner.serving.many_machines.front import Replicas
from lanner.serving.messages import Changed, ExplainAnswer, ExplainRequest, Item, RecommendAnswer, RecommendRequest
from lanner.serving.sharding import Best, Gathered, merged, part_of, together


class Shards(Replicas):
    """As ``Replicas``, of which each holds the items of one shard."""

    async def recommend(self, request: RecommendRequest) -> RecommendAnswer:
        """The best items of all shards.

        Raises:
            ConfigError: a diverse list or reasons are asked for.
        """
        if request.diversity:
            raise _not_served("diversity")
        if request.explain:
            raise _not_served("reasons (explain)")
        return await self._told(self._in_two_rounds(request), request.deadline_ms)

    async def _in_two_rounds(self, request: RecommendRequest) -> RecommendAnswer:
        user = together(await self._ask_each(Gathered, "gathered", request))
        return merged(await self._ask_each(Best, "best_for", request, user), request.k)

    async def explain(self, request: ExplainRequest) -> ExplainAnswer:
        """Raises ConfigError."""
        raise _not_served("explain")

    async def similar_items(self, item_id: str, k: int) -> RecommendAnswer:
        """Raises ConfigError."""
        raise _not_served("similar items")

    async def search(self, q: str, k: int, user_id: str | None) -> RecommendAnswer:
        """Raises ConfigError."""
        raise _not_served("search")

    async def put_item(self, item_id: str, item: Item) -> Changed:
        """Raises ConfigError."""
        raise _not_served("writing items")

    async def delete_item(self, item_id: str) -> Changed:
        """Remove an item: the shard that recommends it is told."""
        shard = part_of(item_id, self._config.shards)
        return await self._ask(Changed, "delete_item", item_id, shard=shard)


def _not_served(what: str) -> ConfigError:
    return ConfigError(f"{what}: not served while the items are dealt into shards; ask a server with ray.shards = 1")
