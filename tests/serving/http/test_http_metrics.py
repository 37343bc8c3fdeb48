import os
import subprocess
import sys
import time

import pytest
from asking import ask
from prometheus_client.parser import text_string_to_metric_families
from stand_in_service import SERVED, StandInService

from lanner.errors import ConfigError
from lanner.serving.http.app import App
from lanner.serving.http.metrics import Metrics, share_between_workers

WORKER = """
import sys
from lanner.serving.http.contract import State
from lanner.serving.http.metrics import Metrics
metrics = Metrics()
route = metrics.route("POST", "/v1/recommend")
for _ in range(int(sys.argv[1])):
    route.observe(200, 0.0012)
held, store, experiments, background = {"index": 10.0}, {"events": 5.0}, {"shadow_compared": 7.0}, {"deleted": 3.0}
slowness = {"full/openvino": 1.5}
of_names = {"experiments": experiments, "background": background, "slowness": slowness}
state = State(queue_depth=2, held_bytes=held, store=store, **of_names)
metrics.observe(state, 1)
print("counted", flush=True)
sys.stdin.read()
"""
SCRAPE = "from lanner.serving.http.metrics import Metrics; print(Metrics().text().decode())"


def figures(text):
    return {
        (one.name, *sorted(one.labels.items())): one.value
        for family in text_string_to_metric_families(text)
        for one in family.samples
    }


def test_requests_are_counted_by_route_and_status_never_by_address():
    app = App(StandInService())
    for id in range(5):
        ask(app, "PUT", f"/v1/items/{id}", b"{}")
        ask(app, "GET", f"/nothing/{id}")
    ask(app, "PUT", "/v1/items/secret", b"[]")
    ask(app, "POST", "/v1/recommend", b'{"user_id":"a"}')
    text = ask(app, "GET", "/metrics").body.decode()
    found = figures(text)
    item = ("method", "PUT"), ("route", "/v1/items/{item_id}")
    assert found["lanner_requests_total", *item, ("status", "200")] == 5
    assert found["lanner_requests_total", *item, ("status", "400")] == 1
    assert found["lanner_requests_total", ("method", "any"), ("route", "other"), ("status", "404")] == 5
    assert found["lanner_answers_total", ("backend", "none"), ("cached", "false"), ("variant", "full")] == 1
    assert found["lanner_queue_depth",] == 3
    assert found["lanner_held_bytes", ("what", "indexes")] == 1e6
    assert found["lanner_held_entries", ("what", "answers")] == 4
    assert found["lanner_store", ("what", "events")] == 0
    assert "secret" not in text
    assert found["lanner_request_seconds_count", ("route", "/v1/items/{item_id}")] == 6


def test_kinds_of_answers_are_bounded():
    metrics, kind = Metrics(), type(SERVED)
    for n in range(200):
        metrics.answered(kind(model="m", variant=f"v{n}", backend="b", milliseconds={}))
    assert metrics.text().count(b"lanner_answers_total{") == 64


def test_counting_a_request_costs_little():
    metrics = Metrics()
    route = metrics.route("POST", "/v1/recommend")
    best = min(_seconds_each(route, metrics) for _ in range(20))
    assert best < 10e-6, f"{best * 1e6:.1f} µs; alone on a core it is under 2"


def _seconds_each(route, metrics, times=500):
    began = time.perf_counter()
    for _ in range(times):
        route.observe(200, 0.0012)
        metrics.answered(SERVED)
    return (time.perf_counter() - began) / times


def test_workers_add_up_and_one_that_died_holds_nothing(tmp_path):
    folder = tmp_path / "figures"
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(folder)}
    folder.mkdir()
    workers = []
    for number in ("3", "4"):
        worker = subprocess.Popen(
            [sys.executable, "-c", WORKER, number], env=environment, stdin=-1, stdout=-1, text=True
        )
        workers.append(worker)
    for worker in workers:
        assert worker.stdout.readline() == "counted\n"
    both = _scraped(environment)
    workers[0].kill()
    workers[0].wait()
    one = _scraped(environment)
    workers[1].communicate("")
    route = (("method", "POST"), ("route", "/v1/recommend"), ("status", "200"))
    assert (both["lanner_requests_total", *route], one["lanner_requests_total", *route]) == (7, 7)
    assert both["lanner_batch_slowness", ("variant", "full/openvino")] == 1.5
    assert (both["lanner_held_bytes", ("what", "index")], one["lanner_held_bytes", ("what", "index")]) == (20, 10)
    assert (both["lanner_in_flight",], one["lanner_in_flight",]) == (2, 1)
    assert both["lanner_store", ("what", "events")] == 5
    assert both["lanner_experiments", ("what", "shadow_compared")] == 7
    assert both["lanner_background_jobs", ("what", "deleted")] == 3


def _scraped(environment):
    return figures(subprocess.check_output([sys.executable, "-c", SCRAPE], env=environment, text=True))


def test_the_folder_is_emptied_of_figures_and_of_nothing_else(tmp_path, monkeypatch):
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", "")  # so that it is taken away again at the end
    (tmp_path / "counter_17.db").touch()
    share_between_workers(tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert os.environ["PROMETHEUS_MULTIPROC_DIR"] == str(tmp_path)
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(ConfigError, match=r"contains 'thesis\.tex'"):
        share_between_workers(tmp_path)
    with pytest.raises(ConfigError, match="cannot store"):
        share_between_workers(tmp_path / "thesis.tex")
