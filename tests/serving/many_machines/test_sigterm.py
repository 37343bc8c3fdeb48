"""Who has joined a cluster of Ray's still ends in peace, however long that takes."""

import subprocess
import sys

import pytest

pytest.importorskip("ray", reason="'ray' is not installed: it is of the extra ray")

ENDS_SLOWLY = """
import os, signal, sys, time
from concurrent.futures import ThreadPoolExecutor
from lanner.serving.many_machines import cluster
from lanner.serving.many_machines.config import RayConfig

def end(*_):
    time.sleep(4)
    cluster.leave(config)
    print("in peace", flush=True)
    sys.exit(0)

signal.signal(signal.SIGTERM, end)
config = RayConfig(cpus=0.5)
beside = ThreadPoolExecutor(1)  # as a front does; the cluster ends with the thread that started it
beside.submit(cluster.connect, config).result()
cluster.take_back_sigterm()
os.kill(os.getpid(), signal.SIGTERM)
time.sleep(30)
"""


def test_an_end_that_takes_longer_than_rays_alarm_is_not_cut_short():
    ended = subprocess.run([sys.executable, "-c", ENDS_SLOWLY], capture_output=True, text=True, timeout=120)
    assert (ended.returncode, ended.stdout.strip().splitlines()[-1:]) == (0, ["in peace"]), ended.stderr[-2000:]
