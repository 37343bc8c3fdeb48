"""Ray's router as this package has it, with stand-ins for replicas and no cluster."""

import asyncio
from types import SimpleNamespace

import pytest

pytest.importorskip("ray", reason="the extra 'ray' is not installed")

from ray.serve._private.common import DeploymentHandleSource, DeploymentID, ReplicaID

from lanner.serving.many_machines.router import LessWork

DEPLOYMENT = DeploymentID("replica", "shop")


def replica(name, **told):
    return SimpleNamespace(replica_id=ReplicaID(name, DEPLOYMENT), routing_stats=told)


def ranks(replicas, lengths, pending=None):
    """Names in the order in which they are tried."""

    async def choose():
        router = LessWork(DEPLOYMENT, DeploymentHandleSource.REPLICA, use_replica_queue_len_cache=True)
        for one, length in zip(replicas, lengths, strict=True):
            if length is not None:
                router.on_new_queue_len_info(one.replica_id, length)
        return await router.choose_replicas(replicas, pending)

    return [[one.replica_id.unique_id for one in rank] for rank in asyncio.run(choose())]


def test_the_replica_with_less_work_comes_first():
    two = [replica("slow", request_s=0.004), replica("quick", request_s=0.001)]
    assert ranks(two, [3, 3]) == [["quick"], ["slow"]]
    assert ranks(two, [0, 9]) == [["slow"], ["quick"]]
    assert ranks(two, [0, 0]) == [["quick"], ["slow"]]


def test_before_replicas_have_told_anything_their_queues_decide():
    assert ranks([replica("a"), replica("b")], [4, 2]) == [["b"], ["a"]]


def test_queues_that_are_not_known_are_asked_for():
    assert sorted(*ranks([replica("a", request_s=0.1), replica("b", request_s=0.1)], [None, 2])) == ["a", "b"]


def test_two_of_many_are_compared_and_none_of_none():
    many = [replica(str(number), request_s=0.001) for number in range(8)]
    drawn = {tuple(name for rank in ranks(many, list(range(8))) for name in rank) for _ in range(60)}
    assert all(len(names) == 2 and int(names[0]) < int(names[1]) for names in drawn)
    assert len(drawn) > 10
    assert ranks([replica("a", request_s=0.1)], [5]) == [["a"]]


def test_a_request_that_finds_all_full_waits_before_it_asks_again():
    pending = SimpleNamespace(routing_context=SimpleNamespace(should_backoff=False))
    ranks([replica("a", request_s=0.1)], [0], pending)
    assert pending.routing_context.should_backoff
