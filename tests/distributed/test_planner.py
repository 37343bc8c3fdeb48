"""Predictions follow from the numbers, and the search finds the placement they favour."""

import time
from dataclasses import replace

import pytest

from lanner.distributed.cluster import Cluster, Device, Link, read_cluster
from lanner.distributed.degrees import AXES, Degrees
from lanner.distributed.planner import explain, options_of, plan_of, search
from lanner.distributed.prediction import CostTable, memory_of, predict
from lanner.distributed.schedules import SCHEDULES, check_micro_batches
from lanner.distributed.simulator import order_of, simulate
from lanner.errors import ConfigError, DataError

TABLE = CostTable((0.01,) * 8, (0.02,) * 8, (2.0**20,) * 8, (2.0**20,) * 8, hop=65536.0, kept=(2.0**20,) * 8, heads=4)
RACKS = """
[[rack]]
name = "left"
devices = 2
bandwidth_mbit = 1000
[[rack]]
name = "right"
devices = 2
slowness = [1.0, {slow}]
bandwidth_mbit = 1000
[[link]]
racks = ["left", "right"]
bandwidth_mbit = {core}
"""


@pytest.fixture
def cluster(tmp_path):
    def made(core=100, slow=1.0):
        path = tmp_path / "cluster.toml"
        path.write_text(RACKS.format(core=core, slow=slow))
        return read_cluster(path)

    return made


@pytest.mark.parametrize("schedule", ["gpipe", "1f1b"])
def test_the_bubble_of_equal_stages_is_that_of_the_formula(schedule):
    timeline = simulate(order_of(schedule, 4, 8), [1.0] * 4, [2.0] * 4, lambda one, other: (0.0, 0.0))
    assert timeline.bubble == pytest.approx(3 / (8 + 3))
    assert timeline.seconds == pytest.approx(3 * (8 + 3))


def test_messages_of_one_direction_wait_for_each_other():
    """Four each way, each 1 s on the link and 0.1 s under way; the two directions do not wait for each other."""
    timeline = simulate(order_of("gpipe", 2, 4), [0.0] * 2, [0.0] * 2, lambda one, other: (1.1, 1.0))
    begun = [one.begin for one in timeline.events if one.rank == 1 and one.operation.kind == "F"]
    assert begun == pytest.approx([1.1, 2.1, 3.1, 4.1])
    assert timeline.seconds == pytest.approx(4.1 + 4.1)
    both = simulate(order_of("1f1b", 2, 4), [0.0] * 2, [0.0] * 2, lambda one, other: (1.1, 1.0))
    assert both.seconds < 0.9 * timeline.seconds


@pytest.mark.parametrize("schedule", ["interleaved", "looped-bfs", "zero-bubble", "zbv"])
def test_the_orders_of_torch_are_read(schedule):
    pytest.importorskip("torch")
    order = order_of(schedule, 2, 4)
    forwards = [one for rank in order for one in rank if one.kind == "F"]
    assert len(forwards) == len(set(forwards)) == 4 * 4
    timeline = simulate(order, [0.5] * 4, [1.0] * 4, lambda one, other: (0.0, 0.0))
    even = simulate(order_of("gpipe", 2, 4), [1.0] * 2, [2.0] * 2, lambda one, other: (0.0, 0.0))
    assert sum(timeline.busy) == pytest.approx(sum(even.busy))
    assert timeline.seconds < even.seconds


def test_one_device_takes_the_sum_of_its_layers(cluster):
    one = replace(cluster(), devices=cluster().devices[:1])
    plan = plan_of(TABLE, one, Degrees(), "gpipe", 1)
    assert predict(TABLE, one, plan, 16).seconds == pytest.approx(16 * 8 * 0.03)
    assert predict(TABLE, one, plan, 16).utilisation == pytest.approx(1.0)
    assert predict(TABLE, one, plan, 16).traffic == 0


def test_the_axis_with_less_traffic_crosses_the_slow_core(cluster):
    """Micro-batches that pass once a step are fewer bytes than gradients: the pipeline crosses the racks."""
    best = search(TABLE, cluster(core=25), 16, compressions=("none",))[0]
    assert best.plan.degrees.order[0] == "pp"
    assert best.plan.degrees.pipeline > 1
    fast = search(TABLE, cluster(core=100_000), 16, compressions=("none",))[0]
    assert fast.plan.degrees.pipeline == 1


def test_a_hybrid_is_never_slower_than_its_modes(cluster):
    for core in (25, 100, 1000):
        for slow in (1.0, 3.0):
            found = search(TABLE, cluster(core, slow), 16)
            for axis in AXES:
                alone = search(TABLE, cluster(core, slow), 16, only=frozenset((axis,)))
                assert found[0].seconds <= alone[0].seconds


def test_balancing_gives_the_slow_device_less(cluster):
    slow = cluster(slow=3.0)
    balanced = plan_of(TABLE, slow, Degrees(pipeline=4), "1f1b", 8)
    even = plan_of(TABLE, slow, Degrees(pipeline=4), "1f1b", 8, balanced=False)
    assert even.bounds == (0, 2, 4, 6, 8)
    assert balanced.bounds[4] - balanced.bounds[3] == 1
    assert predict(TABLE, slow, balanced, 16).seconds < 0.7 * predict(TABLE, slow, even, 16).seconds
    assert plan_of(TABLE, slow, Degrees(replicas=4), "gpipe", 16).shares == (5, 5, 5, 1)


def test_memory_forces_checkpointing_and_sharding(cluster):
    huge = replace(TABLE, kept=(2.0**31,) * 8)
    assert search(huge, cluster(), 16, only=frozenset(("replicate",)))[0].plan.checkpointing
    with pytest.raises(ConfigError, match="fits into their memory"):
        search(replace(TABLE, weights=(2.0**40,) * 8), cluster(), 16)


def test_the_choice_is_explained(cluster):
    lines = explain(search(TABLE, cluster(), 16))
    assert len(lines) == 4
    assert "ms a step" in lines[0]
    assert all("slower" in line for line in lines[1:])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            ('racks = ["left", "right"]', 'racks = ["left", "left"]'),
            "field 'link 1': racks must be the names of two racks (left, right), received ['left', 'left']",
        ),
        (
            ("[[link]]", "[[rack]]\nname = 'far'\ndevices = 1\nbandwidth_mbit = 9\n[[link]]"),
            "between the racks 'left' and",
        ),
        (
            ("[[link]]", "[[link]]\nracks = ['right', 'left']\nbandwidth_mbit = 9\n[[link]]"),
            "a second link between left",
        ),
        (('name = "right"', 'name = "left"'), "field 'rack 2': two racks are named 'left'"),
        (("devices = 2\nbandwidth", "devices = 2.5\nbandwidth"), "field 'rack 1': devices must be a whole number"),
        (("devices = 2\nbandwidth", "devices = inf\nbandwidth"), "field 'rack 1': devices must be a positive number"),
        (("[[link]]", "[[wire]]"), "field 'wire': is unknown"),
        (("devices = 2\nbandwidth", "devices = 0\nbandwidth"), "field 'rack 1': devices must be a positive number"),
        (("slowness = [1.0, 1.0]", "slowness = [1.0]"), "a list of 2, one for each device; received [1.0]"),
        (("bandwidth_mbit = 1000", ""), "field 'rack 1': bandwidth_mbit is missing"),
        (
            ("bandwidth_mbit = 1000", "colour = 3"),
            "colour is unknown; known: name, devices, slowness, memory_gib, band",
        ),
        (("[[rack]]", "[[rack"), "is not valid TOML"),
        (("devices = 2\nbandwidth", "devices = 1_000_000\nbandwidth"), "devices must be a whole number up to 100,000"),
        (("bandwidth_mbit = 1000", f"bandwidth_mbit = 1{'0' * 400}"), "bandwidth_mbit must be a positive number"),
        (("slowness = [1.0, 1.0]", "slowness = true"), "slowness must be a positive number, or a list of 2"),
        (('name = "left"', "name = 3"), "field 'rack 1': name must be a string, received 3"),
        (
            ("bandwidth_mbit = 1000", "bandwith_mbit = 1000"),
            "field 'rack 1': bandwith_mbit is unknown; did you mean 'bandwidth_mbit'?",
        ),
        (
            ("bandwidth_mbit = 100\n", "bandwith_mbit = 100\n"),
            "field 'link 1': bandwith_mbit is unknown; did you mean 'bandwidth_mbit'?",
        ),
    ],
)
def test_a_faulty_cluster_file_is_refused_in_one_line(tmp_path, change, said):
    path = tmp_path / "cluster.toml"
    path.write_text(RACKS.format(core=100, slow=1.0).replace(*change, 1))
    with pytest.raises(DataError) as refusal:
        read_cluster(path)
    assert said in str(refusal.value)
    assert str(path) in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_link_without_racks_is_that_of_all_other_pairs(tmp_path):
    path = tmp_path / "cluster.toml"
    far = '[[rack]]\nname = "far"\ndevices = 1\nbandwidth_mbit = 1000\n[[link]]\nbandwidth_mbit = 8\nlatency_us = 900\n'
    path.write_text(RACKS.format(core=100, slow=1.0) + far)
    where = read_cluster(path)
    assert [where.link(ranks) for ranks in ([0, 2], [0, 4], [2, 4])] == [Link(12.5e6, 1e-4), *[Link(1e6, 9e-4)] * 2]
    assert where.link(range(5)) == Link(1e6, 9e-4)
    assert where.link([0, 1]) == Link(125e6, 1e-4)
    path.write_text(path.read_text() + "[[link]]\nbandwidth_mbit = 9\n")
    with pytest.raises(DataError, match="field 'link 3': a second link without racks"):
        read_cluster(path)


@pytest.mark.parametrize("text", ["rack = 3", "rack = [3]", "[rack]\nname = 'left'", "link = 'left'"])
def test_tables_of_another_type_are_refused_in_one_line(tmp_path, text):
    path = tmp_path / "cluster.toml"
    path.write_text(text if "rack" in text else f"{text}\n{RACKS.partition('[[link]]')[0].format(slow=1.0)}")
    with pytest.raises(DataError, match=r"must be tables, each under its own \[\[") as refusal:
        read_cluster(path)
    assert "\n" not in str(refusal.value)


def test_a_cluster_file_of_other_bytes_is_refused(tmp_path):
    (tmp_path / "cluster.toml").write_bytes(b'[[rack]]\nname = "\xff"')
    with pytest.raises(DataError, match="is not valid TOML"):
        read_cluster(tmp_path / "cluster.toml")


def test_a_missing_cluster_file_is_named(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        read_cluster(tmp_path / "none.toml")


def test_few_buckets_overlap_less_of_the_backward_pass(cluster):
    plans = {one: plan_of(TABLE, cluster(25), Degrees(replicas=4), "gpipe", 4, one) for one in ("none", "int8")}
    table = replace(TABLE, backward=(10.0,) * 8)  # everything but the last bucket's all-reduce fits beside it
    found = {one: predict(table, cluster(25), plan, 16).parts["gradients"] for one, plan in plans.items()}
    link = cluster(25).link([0, 1, 2, 3])
    assert found["none"] == pytest.approx(link.seconds(1.5 * 8 * 2**20, 6) / 8)
    assert found["int8"] == pytest.approx(link.seconds(3 * 0.2539 * 8 * 2**20, 6) / 2)


def test_each_bucket_costs_an_all_reduce(cluster):
    plan = plan_of(TABLE, cluster(25), Degrees(replicas=2, pipeline=2), "1f1b", 4, "none")
    seconds = [predict(replace(TABLE, sum_overhead=one), cluster(25), plan, 16).seconds for one in (0.0, 0.1)]
    assert seconds[1] - seconds[0] == pytest.approx(8 * 0.1)


UNEQUAL = replace(TABLE, forward=tuple(0.01 * (1 + layer % 3) for layer in range(8)))


def _in_one_rack(*devices: Device) -> Cluster:
    return Cluster(devices, {"a": Link(1e8, 1e-4)}, {})


def _devices(memory: float, *slowness: float) -> list[Device]:
    return [Device("a", one, memory) for one in slowness]


@pytest.mark.parametrize("rows", [12, 16, 36])
@pytest.mark.parametrize("slowness", [(1.0,), (1.0, 3.0), (1.0, 1.0, 1.0), (1.0, 1.7, 1.0, 3.0)])
def test_the_engine_takes_every_plan(slowness, rows):
    pytest.importorskip("torch", reason="the orders of some schedules are torch's")
    where = _in_one_rack(*_devices(2.0**34, *slowness))
    found = search(UNEQUAL, where, rows, compressions=("none", "powersgd:4"), schedules=tuple(SCHEDULES))
    for one in found:
        config = one.plan.config
        config.check()
        check_micro_batches(config)
        parts = [config.micro_batches] * config.degrees.data if config.shares is None else config.shares
        assert sum(parts) == one.plan.micro_batches
        assert rows % sum(parts) == 0
    tried = {one.plan.schedule for one in found if one.plan.degrees.pipeline > 1}
    assert tried == (set(SCHEDULES) if len(slowness) > 1 else set())


def test_shares_of_rounds_are_whole_rounds():
    pytest.importorskip("torch", reason="the orders of some schedules are torch's")
    where = _in_one_rack(*_devices(2.0**34, 2.2, 2.2, 1.0, 1.0))
    plan = plan_of(UNEQUAL, where, Degrees.parse("replicate=2,pp=2"), "interleaved", 16)
    assert plan.shares == (4, 12)
    assert plan_of(UNEQUAL, where, Degrees.parse("replicate=2,pp=2"), "1f1b", 16).shares == (5, 11)
    assert predict(UNEQUAL, where, plan, 16).seconds > 0
    assert plan_of(UNEQUAL, where, Degrees.parse("replicate=2,pp=2"), "interleaved", 10) is None


def test_each_device_is_filled_up_to_its_own_memory():
    """Six layers of 3.7 GiB (weights, gradients and both moments): five on the large device, one on the small one."""
    layer = 3.7 * 2**30 / 4
    table = CostTable((0.01,) * 6, (0.02,) * 6, (layer,) * 6, (layer,) * 6, 65536.0, (2.0**20,) * 6, heads=3)
    where = _in_one_rack(Device("a", 1.0, 40 * 2.0**30), Device("a", 1.0, 8 * 2.0**30))
    best = search(table, where, 16)[0]
    assert best.plan.bounds == (0, 5, 6)
    assert [round(one / 2**30, 1) for one in best.memory] == [18.5, 3.7]
    with pytest.raises(ConfigError, match="fits into their memory"):
        search(table, replace(where, devices=(Device("a", 1.0, 8 * 2.0**30),) * 2), 16)


def test_activations_in_flight_fill_the_ranks_that_keep_them(cluster):
    """1F1B keeps four micro-batches on the first of four ranks and one on the last, GPipe all eight on each."""
    plans = [plan_of(TABLE, cluster(), Degrees(pipeline=4), kind, 8) for kind in ("1f1b", "gpipe")]
    state = 2 * 4 * 2.0**20
    found = [[(one - state) / 2**22 for one in memory_of(TABLE, plan, 16)] for plan in plans]
    assert found == [[4, 3, 2, 1], [8, 8, 8, 8]]
    less = memory_of(TABLE, replace(plans[1], checkpointing=True), 16)
    assert less == (state + 8 * 2 * 2 * 65536.0 + 2 * 2.0**20,) * 4


def test_what_is_recomputed_is_kept_until_the_weight_gradients(cluster):
    pytest.importorskip("torch", reason="the orders of some schedules are torch's")
    plans = [
        plan_of(TABLE, cluster(), Degrees(pipeline=2), kind, 8, checkpointing=True)
        for kind in ("interleaved", "zero-bubble")
    ]
    whole, split = (max(memory_of(TABLE, plan, 16)) for plan in plans)
    assert split > whole


def test_traffic_counts_every_hop_between_ranks(cluster):
    pytest.importorskip("torch", reason="the orders of some schedules are torch's")
    sent = {}
    for kind in ("1f1b", "interleaved", "zbv"):
        plan = plan_of(TABLE, cluster(), Degrees(pipeline=4), kind, 8)
        sent[kind] = predict(TABLE, cluster(), plan, 16).traffic
    assert sent["1f1b"] == 3 * 2 * 65536.0 * 16
    assert sent["interleaved"] == sent["1f1b"] * 7 / 3
    assert sent["zbv"] == sent["1f1b"] * 6 / 3


@pytest.mark.parametrize("division", ["pp=2,tp=2", "tp=2,pp=2"])
def test_traffic_counts_the_all_reduces_inside_layers(cluster, division):
    """A ring of two ranks sends a layer's activations twice; two such sums of a layer in each pass."""
    plan = plan_of(TABLE, cluster(), Degrees.parse(division), "1f1b", 8)
    sums, hops = 8 * (2 + 2) * 2 * 65536.0, 2 * 2 * 65536.0
    found = predict(TABLE, cluster(), plan, 16)
    assert found.traffic == pytest.approx(16 * (sums + hops))
    assert found.core == pytest.approx(16 * (hops if division.startswith("pp") else sums))
    again = predict(TABLE, cluster(), replace(plan, checkpointing=True), 16)
    assert again.traffic == pytest.approx(16 * (1.5 * sums + hops))


def test_slow_links_are_left_to_a_strong_compression(cluster):
    names = ("none", "int8", "powersgd:4")
    best = search(TABLE, cluster(core=1), 16, compressions=names, only=frozenset(("replicate",)))[0]
    assert best.plan.compression == "powersgd:4"


def test_a_plan_is_given_as_options(cluster):
    slow = _in_one_rack(*_devices(2.0**34, 2.5, 2.5, 1.0, 1.0))
    plan = plan_of(UNEQUAL, slow, Degrees.parse("replicate=2,pp=2"), "1f1b", 16, "int8")
    assert options_of(plan) == [
        "--parallel",
        "replicate=2,pp=2",
        *("--set", "parallel.micro_batches=8", "--set", "parallel.bounds=" + str(list(plan.bounds)).replace(" ", "")),
        *("--set", "parallel.shares=" + str(list(plan.shares)).replace(" ", ""), "--set", "parallel.compression=int8"),
    ]
    assert options_of(plan_of(TABLE, cluster(), Degrees(replicas=4), "gpipe", 4, checkpointing=True)) == [
        *("--parallel", "replicate=4", "--set", "parallel.checkpointing=true"),
    ]
    assert options_of(plan_of(TABLE, slow, Degrees(), "gpipe", 1)) == []


def test_a_thousand_devices_are_planned(tmp_path):
    """By one table of a link: 128 racks have 8,128 pairs."""
    pytest.importorskip("torch", reason="the orders of some schedules are torch's")
    rack = "[[rack]]\ndevices = 8\nmemory_gib = 80\nbandwidth_mbit = 800_000\n"
    path = tmp_path / "cluster.toml"
    path.write_text(128 * rack + "[[link]]\nbandwidth_mbit = 100_000\nlatency_us = 20\n")
    where, table = read_cluster(path), replace(TABLE, heads=8)
    began = time.process_time()
    found = search(table, where, 4096, compressions=("none",), schedules=tuple(SCHEDULES))
    assert time.process_time() - began < 20
    assert len(found) > 1000
    assert len(found[0].memory) == found[0].plan.degrees.world == 1024
