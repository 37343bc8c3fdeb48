"""What the front does when a replica dies or refuses, with a stand-in for Ray's handle."""

import asyncio
from types import SimpleNamespace

import pytest

pytest.importorskip("ray", reason="the extra 'ray' is not installed")

from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError

from lanner.serving.http.contract import State
from lanner.serving.many_machines.config import RayConfig
from lanner.serving.many_machines.front import Replicas
from lanner.serving.many_machines.replica import Refused
from lanner.serving.messages import Changed, Event, EventBatch, EventsAnswer, Health
from lanner.vocabulary import OverloadedError, StoreUnavailableError, UnknownIdError


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
    replicas._handle = Handle(*outcomes)
    return replicas


def test_events_are_told_again_under_the_same_key():
    replicas = front(RayActorError(), EventsAnswer(accepted=2, duplicates=0))
    events = [Event(user_id="a", item_id="b"), Event(user_id="a", item_id="c", key="own")]
    assert asyncio.run(replicas.add_events(EventBatch(events=events))).accepted == 2
    first, second = replicas._handle.asked
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
    assert len(replicas._handle.asked) == 1


def test_fewer_replicas_than_there_should_be_are_said():
    replicas = front(Health(ready=True), Health(ready=True))
    assert asyncio.run(replicas.health()).degraded == ["0 of 2 replicas answer"]
    replicas._states = [State(held_bytes={"index": 3.0}, store={"events": 4.0}), State(held_bytes={"index": 4.0})]
    assert asyncio.run(replicas.health()) == Health(ready=True)
    state = replicas.state()
    assert (state.held_bytes, state.store) == ({"index": 7.0}, {"events": 4.0})
    assert state.replicas["answering"] == 2
