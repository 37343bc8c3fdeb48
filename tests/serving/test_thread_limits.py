"""Thread limits, in a separate process: some of them last for the life of a process."""

import json
import os
import subprocess
import sys

from lanner.serving.thread_limits import thread_environment

SCRIPT = """
import json, threading
from concurrent.futures import ThreadPoolExecutor
import faiss, numba, numpy, scipy.linalg
from threadpoolctl import threadpool_info
from lanner.serving.thread_limits import limit_threads

@numba.njit(parallel=True)
def total(values):
    found = 0.0
    for place in numba.prange(len(values)):
        found += values[place]
    return found

def counts():
    matrix = numpy.ones((300, 300), numpy.float32)
    matrix @ matrix
    libraries = {info["user_api"] + "/" + info["internal_api"]: info["num_threads"] for info in threadpool_info()}
    return libraries | {"faiss": faiss.omp_get_max_threads(), "numba": numba.get_num_threads()}

before = counts()
total(numpy.ones(8))
limit_threads(1)
with ThreadPoolExecutor(1, initializer=limit_threads) as pool:
    inside = pool.submit(counts).result()
@numba.njit(parallel=True)
def again(values):
    return total(values)
print(json.dumps({"before": before, "here": counts(), "pool": inside, "total": again(numpy.ones(8))}))
"""


def ran(script, environment):
    inherited = {name: value for name, value in os.environ.items() if name not in thread_environment()}
    command = [sys.executable, "-c", script]
    return subprocess.run(command, env=inherited | environment, capture_output=True, text=True, check=True).stdout


def test_every_library_uses_one_thread_in_this_thread_and_in_those_of_a_pool():
    found = json.loads(ran(SCRIPT, {"NUMBA_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2", "OMP_NUM_THREADS": "2"}))
    assert max(found["before"].values()) == 2
    assert {"blas/openblas", "openmp/openmp"} <= set(found["here"])
    assert set(found["here"].values()) == set(found["pool"].values()) == {1}
    assert found["total"] == 8, "numba still compiles after its threads were launched with another number"


def test_a_process_started_with_the_environment_is_limited_from_its_beginning():
    script = SCRIPT[: SCRIPT.index("before =")] + "print(json.dumps(counts()))"
    assert set(json.loads(ran(script, thread_environment(1))).values()) == {1}
