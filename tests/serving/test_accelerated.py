"""The accelerator as a server backend: its own variant, its figures, and failure handling."""

import json
from contextlib import asynccontextmanager
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("amaranth", reason="cycles are those of the hardware: pip install 'lanner[fpga]'")

from running import PATIENT, ids
from simulated_board import SimulatedBoard, disturbed
from stand_ins import write_served_bundle

from lanner.accelerators import backend, host, routed
from lanner.accelerators.build import emulated
from lanner.accelerators.contract import contract_of, statement
from lanner.accelerators.fpga import netlist
from lanner.accelerators.reference import answer
from lanner.artifacts.bundle import read_bundle, write_compressed
from lanner.cli import main as cli
from lanner.errors import AcceleratorError, BundleError, ConfigError
from lanner.inference.tables import Int8Rows
from lanner.serving import bootstrap
from lanner.serving.deployment import ModelConfig
from lanner.serving.http.metrics import Metrics
from lanner.serving.messages import Filters, Item, RecommendRequest
from lanner.serving.profile import predicted
from lanner.serving.service import LannerService
from lanner.serving.store import open_store
from lanner.serving.versions.alias_watcher import OneBundle

HISTORY = ["i1", "i2", "i9"]


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return write_served_bundle(tmp_path_factory.mktemp("served") / "bundle")


def compressed(plain, folder, change=lambda stated: stated):
    bundle = read_bundle(plain)
    full, popularity = (bundle.variant(name) for name in bundle.variants)
    int8 = replace(full, name="int8", model=full.model.map_tables(Int8Rows.of))
    stated = change(statement(contract_of(int8.model, bundle.dataset)))
    int8 = replace(int8, figures={"contract": stated})
    return write_compressed(folder / "bundle", bundle, [full, int8, popularity], {})


@pytest.fixture(scope="module")
def bundle(plain, tmp_path_factory):
    return compressed(plain, tmp_path_factory.mktemp("compressed"))


@asynccontextmanager
async def serving(bundle, folder, place="emulator", variants=()):
    model = ModelConfig(variants, accelerator=place)
    service = LannerService(OneBundle(bundle), open_store(str(folder / "events.db")), model, PATIENT)
    await service.start()
    try:
        yield service
    finally:
        await service.stop()


def contract_in(bundle):
    opened = read_bundle(bundle)
    variant = opened.variant("int8")
    return contract_of(variant.model, opened.dataset, variant.figures["contract"])


def wanted(bundle, k=10):
    """The contract's list for HISTORY, by item id."""
    contract, items = contract_in(bundle), read_bundle(bundle).dataset.items
    rows = np.sort(items.rows(HISTORY)).astype(np.int64)
    found = answer(contract, contract.request(rows, np.full(3, 1 / 3, np.float32), rows, k))
    return [items.external[row] for row in found.rows]


async def test_the_accelerated_variant_answers_first_and_is_counted(bundle, tmp_path):
    async with serving(bundle, tmp_path) as service:
        before = service.state().accelerator
        found = await service.recommend(RecommendRequest(history=HISTORY))
        after = service.state().accelerator
        assert ids(found) == wanted(bundle)
        assert (found.served.variant, found.served.backend) == ("accelerated", "emulator")
        assert after["answered"] == before["answered"] + 1
        assert after["failed"] == 0
        assert after["predicted_microseconds"] == pytest.approx(after["cycles"] / routed.MHZ["ecp5-25f"])
        status = await service.status()
        assert status.variants == ["accelerated", "full", "int8", "popularity"]
        assert status.backends == ["emulator", "numpy"]
        metrics = Metrics()
        metrics.observe(service.state(), 0)
        assert f'lanner_accelerator{{what="answered"}} {after["answered"]:.1f}' in metrics.text().decode()


async def test_what_it_does_not_cover_is_answered_by_the_processor(bundle, tmp_path):
    async with serving(bundle, tmp_path) as service:
        before = service.state().accelerator["answered"]
        found = await service.recommend(RecommendRequest(history=HISTORY, k=11))
        assert (found.served.variant, found.served.backend) == ("accelerated", "numpy")
        await service.recommend(RecommendRequest(history=HISTORY, filters=Filters(deny=["i3"])))
        assert service.state().accelerator["answered"] == before
        gone = wanted(bundle)[0]
        await service.put_item(gone, Item(title="gone", available=False))
        found = await service.recommend(RecommendRequest(history=HISTORY))
        assert ids(found)[:9] == wanted(bundle)[1:]
        assert found.served.backend == "emulator"


async def test_variants_say_where_it_stands(bundle, tmp_path):
    async with serving(bundle, tmp_path, variants=("full", "accelerated")) as service:
        found = await service.recommend(RecommendRequest(history=HISTORY))
        assert (found.served.variant, found.served.backend) == ("full", "numpy")
        assert (await service.status()).variants == ["full", "accelerated", "popularity"]


async def test_a_board_that_fails_is_replaced_by_the_processor_and_comes_back(bundle, tmp_path, monkeypatch):
    monkeypatch.setattr(host, "RETRY_SECONDS", 30.0)
    with SimulatedBoard(emulated(contract_in(bundle), 10)) as board:
        async with serving(bundle, tmp_path, f"board:{board.place}") as service:
            found = await service.recommend(RecommendRequest(history=HISTORY))
            assert (ids(found), found.served.backend) == (wanted(bundle), "board")
            assert service.state().accelerator["failed"] == 0
            board.fault = disturbed
            others = await service.recommend(RecommendRequest(history=HISTORY[:2]))
            assert len(others.items) == 10
            assert service.state().accelerator["failed"] == 1
        assert board.requests > 3  # golden requests, calibration, and ours


async def test_a_board_that_is_not_there_does_not_keep_the_server_from_starting(bundle, tmp_path):
    async with serving(bundle, tmp_path, "board:127.0.0.1:1") as service:
        assert len((await service.recommend(RecommendRequest(history=HISTORY))).items) == 10
        assert service.state().accelerator["answered"] == 0
        assert service.state().accelerator["failed"] > 0


def test_a_bundle_whose_tables_are_not_those_of_its_contract_is_refused(plain, tmp_path):
    wrong = compressed(plain, tmp_path, lambda stated: {**stated, "sha256": "0" * 64})
    with pytest.raises(BundleError, match="states the integer contract 000000000000 "):
        bootstrap.check(
            bootstrap.ServerConfig(str(wrong), f"{tmp_path}/e.db", model=ModelConfig(accelerator="emulator"))
        )


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        ({"accelerator": "fpga"}, "unknown accelerator 'fpga'"),
        ({"accelerator": "board:host:1"}, "a board serves one process; add --workers 1"),
        ({"variants": ("accelerated",)}, "no variant 'accelerated'"),
        ({"accelerator": "emulator", "accelerator_mhz": 0.0}, "accelerator_mhz is 0"),
    ],
)
def test_what_cannot_be_served_is_said_before_anything_starts(bundle, tmp_path, config, complaint):
    with pytest.raises(ConfigError, match=complaint) as raised:
        bootstrap.check(bootstrap.ServerConfig(str(bundle), f"{tmp_path}/e.db", model=ModelConfig(**config)))
    assert "\n" not in str(raised.value)


def test_a_board_that_is_not_there_is_said_before_anything_starts(bundle, tmp_path):
    model = ModelConfig(accelerator="board:127.0.0.1:1")
    with pytest.raises(AcceleratorError, match="cannot connect"):
        bootstrap.check(bootstrap.ServerConfig(str(bundle), f"{tmp_path}/e.db", workers=1, model=model))


def test_a_bundle_without_int8_has_no_integer_form(plain, tmp_path):
    with pytest.raises(ConfigError, match="no INT8 tables"):
        bootstrap.check(
            bootstrap.ServerConfig(str(plain), f"{tmp_path}/e.db", model=ModelConfig(accelerator="emulator"))
        )
    assert predicted(read_bundle(plain)) is None


def test_profile_has_a_row_predicted_from_cycles(bundle, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["profile", str(bundle), "--requests", "20", "--json"])
    assert not stopped.value.code
    (row,) = [one for one in json.loads(capsys.readouterr().out)["stages"] if "accelerated" in one["variant"]]
    assert row["variant"] == "int8, accelerated"
    mhz = routed.MHZ["ecp5-25f"]
    assert row["stage"] == f"predicted from cycles at {mhz:g} MHz on an ecp5-25f; this design was not routed"
    sizes = emulated(contract_in(bundle), 10)
    assert 24 * sizes.beats / mhz / 1e3 < row["p50 ms"] <= row["p99 ms"] < 0.01


def test_the_clock_is_that_of_the_device_that_fits(bundle, monkeypatch):
    """Only the larger fits; then histories beyond the accelerator's, which do not count as no time."""
    smaller = predicted(read_bundle(bundle), 20)
    monkeypatch.setitem(netlist.DEVICES, "ecp5-25f", replace(netlist.DEVICES["ecp5-25f"], block_rams=1))
    larger = predicted(read_bundle(bundle), 20)
    assert "MHz on an ecp5-85f" in larger.stated
    cycles = [one.p50_ms * mhz for one, mhz in ((smaller, routed.MHZ["ecp5-25f"]), (larger, routed.MHZ["ecp5-85f"]))]
    assert cycles[0] == pytest.approx(cycles[1])  # of one design: its vectors have fewer dimensions than lanes
    monkeypatch.setattr(backend, "MAX_HISTORY", 0)
    assert predicted(read_bundle(bundle), 20) is None


def test_the_command_line_serves_with_the_emulator(bundle, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr("lanner.serving.supervisor.serve", asked.append)
    with pytest.raises(SystemExit) as stopped:
        cli.main(["serve", str(bundle), "--backend", "fpga-emulator", "--store", f"{tmp_path}/e.db"])
    assert not stopped.value.code
    assert [one.model.accelerator for one in asked] == ["emulator"]


def test_profile_says_that_the_accelerator_has_its_own_row(bundle, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["profile", str(bundle), "--backend", "fpga-emulator"])
    assert stopped.value.code == 2
    said = capsys.readouterr().err.strip()
    assert "\n" not in said
    assert "leave it out: the accelerator has a row of its own" in said
