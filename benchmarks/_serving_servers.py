"""Starting and stopping the servers of the benchmark: Lanner, its peers, and the bare handler as the upper limit.

Each runs as a child process from a command line, is polled over HTTP until ready, and is stopped with its children.
A peer has its own environment, made from ``_serving_peers/<name>.txt``, because their requirements conflict.
"""

import http.client
import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Thread

import psutil

from benchmarks._serving_load import Addresses
from benchmarks._serving_work import Work

LANNER = f"{shlex.quote(sys.executable)} -m lanner serve {{bundle}} --port {{port}} --store {{store}}"
"""How Lanner is started; options of a single figure are appended."""
DEADLINE_MS = 20.0
_HERE = Path(__file__).parent
_ROOT = _HERE.parent
_ENVIRONMENTS = Path("runs") / "serving"
_PATIENCE_S = 180.0
_SETTLING_S, _PROMPT_ANSWERS = 30.0, 5


class NotStartedError(Exception):
    """A server cannot be installed or does not become ready; the message is its last line of output."""


@dataclass(frozen=True)
class Contender:
    """A server that can be started. options: appended to its command line."""

    name: str
    addresses: Addresses = field(default_factory=Addresses)
    ready: str = "/health/ready"
    options: tuple[str, ...] = ()

    def with_options(self, *options: str) -> "Contender":
        """The same server with extra command line options."""
        return Contender(self.name, self.addresses, self.ready, (*self.options, *options))


def lanner(*options: str) -> Contender:
    """Lanner with the benchmark's deadline; options: extra command line options."""
    return Contender("lanner", options=("--set", f"service.deadline_ms={DEADLINE_MS:g}", *options))


_ONE = Addresses(*[("POST", "/answer")] * 3)
PEERS = {
    "fastapi": Contender("fastapi", ready="/ready"),
    "litserve": Contender("litserve", Addresses(*[("POST", "/predict")] * 3), "/health"),
    "bentoml": Contender("bentoml", Addresses(new_item=("POST", "/v1/items")), "/readyz"),
    "ray_serve": Contender("ray_serve", _ONE, "/"),
    "mlserver": Contender("mlserver", _ONE, "/v2/models/recommender/ready"),
}
RAW = Contender("raw_asgi", _ONE, "/")
"""The upper limit: it searches, and does nothing else."""
SETTINGS = {
    "mlserver": (("1",),),
    "fastapi": (("1", "0"), ("2", "0"), ("1", "2"), ("2", "1"), ("2", "2"), ("2", "4")),
}
"""What follows the port on a peer's command line, per trial: numbers of processes, and FastAPI's limit of concurrent
requests. The default is one process and two; a peer is measured with its best setting."""


class Watch:
    """Memory and descriptors of a server, sampled while the block lasts."""

    def __init__(self, server: "Running", every_s: float) -> None:
        self._server, self._every_s, self._ended = server, every_s, Event()
        self.seconds: list[float] = []
        self.memory_mib: list[float] = []
        self.descriptors: list[int] = []

    def __enter__(self) -> "Watch":
        self._thread = Thread(target=self._look, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        begun = time.monotonic()
        while not self._ended.wait(self._every_s):
            self.seconds.append(time.monotonic() - begun)
            self.memory_mib.append(self._server.memory_mib())
            self.descriptors.append(self._server.descriptors())

    def memory_growth(self, skipped: float = 0.1) -> float:
        """Mean of the last tenth over that of the tenth after the skipped share, minus one."""
        number = len(self.memory_mib)
        width = max(1, number // 10)
        first = int(skipped * number)
        before, after = self.memory_mib[first : first + width], self.memory_mib[-width:]
        return (sum(after) / len(after)) / (sum(before) / len(before)) - 1

    def descriptor_growth(self) -> int:
        """The last sample's number minus that of the sample after the first tenth."""
        return self.descriptors[-1] - self.descriptors[len(self.descriptors) // 10]


@dataclass(frozen=True)
class Running:
    """A server that is ready."""

    contender: Contender
    port: int
    process: psutil.Process
    ready_s: float
    """Seconds from its start until it was ready."""

    def family(self) -> list[psutil.Process]:
        """The process and its descendants."""
        return [self.process, *self.process.children(recursive=True)]

    def workers(self) -> int:
        """Lanner's serving processes; a supervisor, if there is one, is not among them."""
        return sum("spawn_main" in " ".join(one.cmdline()) for one in self.family()) or 1

    def memory_mib(self) -> float:
        """Resident memory of the process tree; pages shared by processes count once (PSS)."""
        total = 0
        for one in self.family():
            with suppress(psutil.Error):
                total += one.memory_full_info().pss
        return total / 2**20

    def descriptors(self) -> int:
        """Open file descriptors of the process tree."""
        total = 0
        for one in self.family():
            with suppress(psutil.Error):
                total += one.num_fds()
        return total

    def settle(self) -> None:
        """Wait until it answers promptly, so that one load is not affected by the backlog of an earlier one."""
        prompt, last = 0, time.monotonic() + _SETTLING_S
        while prompt < _PROMPT_ANSWERS and time.monotonic() < last:
            begun = time.monotonic()
            ready = is_ready(self.contender, self.port)
            prompt = prompt + 1 if ready and time.monotonic() - begun < DEADLINE_MS / 1e3 else 0
            time.sleep(DEADLINE_MS / 1e3)

    def kill(self) -> None:
        """SIGKILL to every process at once, as the kernel might send it."""
        for one in self.family():
            with suppress(psutil.Error):
                one.kill()
        with suppress(psutil.Error):
            self.process.wait(10)


class Launcher:
    """Starts contenders on one workload. lanner: the command line, see ``LANNER``."""

    def __init__(self, work: Work, lanner: str = LANNER) -> None:
        self.work, self._lanner = work, lanner

    @contextmanager
    def running(self, contender: Contender, store: str | None = None) -> Iterator[Running]:
        """A server for as long as the block lasts. store: an event file that outlives it; None: a fresh one.

        Raises:
            NotStartedError: it cannot be installed or does not become ready.
        """
        with tempfile.TemporaryDirectory() as folder:
            server = self.start(contender, store or str(Path(folder) / "events.db"), Path(folder) / "log")
            try:
                yield server
            finally:
                _end(server.process)

    def start(self, contender: Contender, store: str, log: Path, port: int | None = None) -> Running:
        """Start a server and wait until it is ready; the caller stops it. port: None: any free one."""
        port = port or free_port()
        command = self._command(contender, port, store)
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(_ROOT / "src"), str(_ROOT)])}
        environment |= {"SERVING_PEER_FOLDER": str(self.work.peers.absolute()), "OMP_NUM_THREADS": "1"}
        begun = time.monotonic()
        with log.open("wb") as written:
            child = subprocess.Popen(
                command, env=environment, stdout=written, stderr=subprocess.STDOUT, start_new_session=True
            )
        process = psutil.Process(child.pid)
        try:
            _await_ready(contender, port, child)
        except NotStartedError as error:
            _end(process)
            raise NotStartedError(f"{contender.name}: {error}: {_last_line(log)}") from None
        return Running(contender, port, process, time.monotonic() - begun)

    def _command(self, contender: Contender, port: int, store: str) -> list[str]:
        if contender.name == "lanner":
            filled = self._lanner.format(bundle=shlex.quote(str(self.work.bundle)), port=port, store=shlex.quote(store))
            return [*shlex.split(filled), *contender.options]
        workers = contender.options or ("2",)
        return [
            str(installed(contender.name)),
            "-m",
            f"benchmarks._serving_peers.{contender.name}",
            str(port),
            *workers,
        ]


def installed(name: str) -> Path:
    """The interpreter of a peer's environment, which is created if missing.

    Raises:
        NotStartedError: pip failed.
    """
    folder = _ENVIRONMENTS / f"peers-venv-{name}"
    pins, done = _HERE / "_serving_peers" / f"{name}.txt", folder / ".installed"
    python = (folder / "bin" / "python").absolute()
    if done.exists() and done.read_text() == pins.read_text():
        return python
    venv.create(folder, with_pip=True)
    # Exact versions only, so that torch does not pull in its CUDA packages.
    command = [str(python), "-m", "pip", "install", "--quiet", "--no-deps", "-r", str(pins)]
    made = subprocess.run(command, capture_output=True, text=True)
    if made.returncode:
        raise NotStartedError(f"{name} cannot be installed: {made.stderr.strip().splitlines()[-1]}")
    done.write_text(pins.read_text())
    return python


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def is_ready(contender: Contender, port: int) -> bool:
    """Whether the server reports ready; one with a worker still starting reports degraded."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", contender.ready)
        reply = connection.getresponse()
        return reply.status == 200 and b'"degraded":["' not in reply.read()
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _await_ready(contender: Contender, port: int, child: "subprocess.Popen[bytes]") -> None:
    last = time.monotonic() + _PATIENCE_S
    while not is_ready(contender, port):
        if child.poll() is not None:
            raise NotStartedError(f"ended with {child.returncode}")
        if time.monotonic() > last:
            raise NotStartedError(f"not ready after {_PATIENCE_S:g} s")
        time.sleep(0.02)


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it wrote nothing"


def _end(process: psutil.Process) -> None:
    """Ask it to stop, then kill it and its children."""
    try:
        family = [process, *process.children(recursive=True)]
        process.send_signal(signal.SIGTERM)
    except psutil.Error:
        return
    _, left = psutil.wait_procs(family, timeout=10)
    for one in left:
        with suppress(psutil.Error):
            one.kill()
    psutil.wait_procs(left, timeout=10)
