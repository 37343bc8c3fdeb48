"""What the front does when a replica dies or refuses, with a stand-in for Ray's handle."""

import asyncio
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("ray", reason="the extra 'ray' is not installed")

from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError

from lanner.errors import ConfigError, OverloadedError, StoreUnavailableError, UnknownIdError
from lanner.serving.http.contract import State
from lanner.serving.many_machines.config import RayConfig
from lanner.serving.many_machines.front import Replicas
from lanner.serving.many_machines.replica import Refused
from lanner.serving.many_machines.shards import Shards
from lanner.serving.messages import (
    Changed,
    Event,
    EventBatch,
    EventsAnswer,
    ExplainRequest,
    Health,
    Item,
    RecommendAnswer,
    RecommendedItem,
    RecommendRequest,
    Served,
)
from lanner.serving.sharding import Best, Gathered, part_of


class Handle:
    """Gives one outcome after the other and keeps what it was asked."""

    def __init__(self, *outcomes):
        self.outcomes, self.asked = list(outcomes), []
        self.ask = SimpleNamespace(remote=self._remote)

    async def _remote(self, *asked):
        self.asked.append(asked)
        outcome = self.outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


def front(*outcomes):
    replicas = Replicas(RayConfig(), b"", 50.0)
    replicas._handles = [Handle(*outcomes)]
    return replicas


def test_events_are_told_again_under_the_same_key():
    replicas = front(RayActorError(), EventsAnswer(accepted=2, duplicates=0))
    events = [Event(user_id="a", item_id="b"), Event(user_id="a", item_id="c", key="own")]
    assert asyncio.run(replicas.add_events(EventBatch(events=events))).accepted == 2
    first, second = replicas._handles[0].asked
    assert first == second
    assert len(first[1].events[0].key) == 32
    assert first[1].events[1].key == "own"
    assert replicas.state().replicas["asked_again"] == 1


def test_when_every_replica_dies_one_line_says_so():
    with pytest.raises(StoreUnavailableError, match="no replica answered"):
        asyncio.run(front(*[RayActorError()] * 9).delete_item("a"))
    health = asyncio.run(front(*[RayActorError()] * 9).health())
    assert health == Health(ready=False, degraded=["no replica answers"])


def test_too_many_who_wait_are_refused():
    with pytest.raises(OverloadedError, match="too many wait"):
        asyncio.run(front(BackPressureError(num_queued_requests=9, max_queued_requests=8)).delete_item("a"))


def test_what_a_replica_refuses_is_not_asked_again():
    replicas = front(Refused("UnknownIdError", "no item 'a'"), Changed(id="a", existed=True))
    with pytest.raises(UnknownIdError, match="no item 'a'"):
        asyncio.run(replicas.explain(None))
    assert len(replicas._handles[0].asked) == 1


def test_fewer_replicas_than_there_should_be_are_said():
    replicas = front(Health(ready=True), Health(ready=True))
    assert asyncio.run(replicas.health()).degraded == ["0 of 2 replicas answer"]
    replicas._states = [State(held_bytes={"index": 3.0}, store={"events": 4.0}), State(held_bytes={"index": 4.0})]
    assert asyncio.run(replicas.health()) == Health(ready=True)
    state = replicas.state()
    assert (state.held_bytes, state.store) == ({"index": 7.0}, {"events": 4.0})
    assert state.replicas["answering"] == 2


def best(row, score, version="v"):
    items = [RecommendedItem(item_id=f"i{row}", title="", score=score, rank=1)]
    served = Served(model=version, variant="full", backend="none", milliseconds={"total": 1.0})
    return Best([row], RecommendAnswer(items=items, served=served))


def shards(*outcomes):
    """A front of one shard for each list of outcomes."""
    fronts = Shards(RayConfig(shards=len(outcomes)), b"", 50.0)
    fronts._handles = [Handle(*one) for one in outcomes]
    return fronts


def gathered(total, count, version="v"):
    return Gathered(version, np.full(2, total, np.float32), count)


def test_a_request_goes_to_every_shard_twice_and_to_one_that_died_again():
    fronts = shards([gathered(1, 1), best(4, 2.0)], [gathered(2, 3), RayActorError(), best(7, 3.0)])
    answer = asyncio.run(fronts.recommend(RecommendRequest(user_id="a", k=2)))
    assert [item.item_id for item in answer.items] == ["i7", "i4"]
    for handle in fronts._handles:
        operations = [asked[0] for asked in handle.asked]
        assert operations[:2] == ["gathered", "best_for"]
        user = handle.asked[-1][2]
        assert (user.sum_D.tolist(), user.count) == ([3, 3], 4)
    assert fronts.state().replicas["asked_again"] == 1


def test_a_shard_that_refuses_or_has_another_bundle_leaves_no_half_answer():
    request = RecommendRequest(user_id="a", k=2)
    with pytest.raises(OverloadedError, match="too busy"):
        asyncio.run(
            shards([gathered(1, 1), best(4, 2.0)], [gathered(2, 3), Refused("OverloadedError", "too busy")]).recommend(
                request
            )
        )
    with pytest.raises(StoreUnavailableError, match="different bundles"):
        asyncio.run(shards([gathered(1, 1)], [gathered(2, 3, "w")]).recommend(request))


def test_what_shards_do_not_serve_is_refused_before_they_are_asked():
    fronts = shards([], [])
    for asked in (
        fronts.recommend(RecommendRequest(user_id="a", diversity=0.1)),
        fronts.recommend(RecommendRequest(user_id="a", explain=True)),
        fronts.explain(ExplainRequest(user_id="a", item_id="b")),
        fronts.similar_items("a", 3),
        fronts.search("a", 3, None),
        fronts.put_item("a", Item()),
    ):
        with pytest.raises(ConfigError, match="not served while the items are dealt into shards"):
            asyncio.run(asked)


def test_the_shard_that_has_an_item_is_told_that_it_goes():
    outcomes = [[], [], []]
    outcomes[part_of("i5", 3)] = [Changed(id="i5", existed=True)]
    assert asyncio.run(shards(*outcomes).delete_item("i5")).existed


def test_a_server_is_ready_where_every_shard_is():
    ready = Health(ready=True, degraded=["slow"])
    told = asyncio.run(shards([ready], [ready]).health())
    assert told == Health(ready=True, degraded=["slow", "0 of 4 replicas answer"])
    assert not asyncio.run(shards([ready], [Health(ready=False)]).health()).ready
    assert asyncio.run(shards([ready], [RayActorError()] * 9).health()).degraded == ["no replica answers"]
