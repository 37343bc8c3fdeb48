"""The rule that says how many replicas there should be, without a cluster."""

from types import SimpleNamespace

import pytest

from lanner.errors import ConfigError
from lanner.serving.many_machines.autoscaling import ElasticReplicas

LIMITS = {"minimum": 1, "maximum": 4, "grow_after_s": 10.0, "shrink_after_s": 60.0}


def wanted(policy, now, target, busy=(), waiting=(), misses=(), queued=0.0):
    told = {
        name: dict(enumerate(values)) for name, values in (("busy", busy), ("waiting", waiting), ("misses", misses))
    }
    context = SimpleNamespace(
        target_num_replicas=target, total_queued_requests=queued, aggregated_metrics=told, current_time=now
    )
    return policy(context)[0]


def test_replicas_grow_with_their_load_and_wait_between_two_steps():
    policy = ElasticReplicas(**LIMITS)
    assert wanted(policy, 0.0, target=2, busy=[0.6, 0.6]) == 2
    assert wanted(policy, 1.0, target=2, busy=[0.9, 0.9]) == 3
    assert wanted(policy, 5.0, target=3, busy=[1.0, 1.0, 1.0]) == 3
    assert wanted(policy, 11.0, target=3, busy=[1.0, 1.0, 1.0]) == 4
    assert wanted(policy, 30.0, target=4, busy=[1.0] * 4) == 4


def test_refused_requests_and_queues_ask_for_a_replica_more():
    assert wanted(ElasticReplicas(**LIMITS), 0.0, target=1, busy=[0.1], misses=[0.2]) == 2
    assert wanted(ElasticReplicas(**LIMITS), 0.0, target=1, busy=[0.1], waiting=[65]) == 3
    assert wanted(ElasticReplicas(**LIMITS), 0.0, target=1, busy=[0.1], queued=40.0) == 2


def test_one_replica_is_stopped_once_fewer_were_enough_for_long():
    policy = ElasticReplicas(**LIMITS)
    idle = [wanted(policy, now, target=3, busy=[0.0] * 3) for now in (0.0, 30.0, 59.0, 60.0)]
    assert idle == [3, 3, 3, 2]
    assert wanted(policy, 61.0, target=2, busy=[0.0] * 2) == 2


def test_what_the_controller_holds_is_brought_between_the_bounds():
    assert wanted(ElasticReplicas(**LIMITS), 0.0, target=9, busy=[1.0] * 9) == 4
    assert wanted(ElasticReplicas(**LIMITS), 0.0, target=0) == 1
    policy = ElasticReplicas(**LIMITS)
    context = SimpleNamespace(
        target_num_replicas=2, total_queued_requests=0.0, aggregated_metrics=None, current_time=0.0
    )
    assert policy(context) == (2, {})


def test_limits_that_make_no_sense_are_refused():
    with pytest.raises(ConfigError, match="minimum is 3 and maximum 2"):
        ElasticReplicas(minimum=3, maximum=2)
