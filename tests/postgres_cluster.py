"""A throwaway PostgreSQL cluster, if its programs are installed."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


class Cluster:
    """A PostgreSQL server on a socket in a temporary folder, run by somebody other than root."""

    def __init__(self, programs: Path, folder: Path) -> None:
        self.programs, self.folder = programs, folder
        self.user = "postgres" if os.getuid() == 0 else None
        if self.user:
            shutil.chown(folder, self.user)
        self._run("initdb", "-D", folder / "data", "-U", "postgres", "-A", "trust", "--no-sync", "--locale=C.UTF-8")
        self.start()

    @property
    def url(self) -> str:
        return f"postgresql://postgres@/postgres?host={self.folder}"

    def start(self) -> None:
        settings = f"-c listen_addresses='' -k {self.folder} -c fsync=off -c shared_buffers=16MB"
        self._run("pg_ctl", "-D", self.folder / "data", "-w", "-l", self.folder / "log", "-o", settings, "start")

    def stop(self) -> None:
        """As a crash would: nothing is finished."""
        self._run("pg_ctl", "-D", self.folder / "data", "-w", "-m", "immediate", "stop")

    def _run(self, program: str, *arguments: object) -> None:
        command = [str(self.programs / program), *map(str, arguments)]
        # Not into a pipe: the server would inherit it, and its end would never be seen.
        with tempfile.TemporaryFile() as said:
            ended = subprocess.run(command, stdout=said, stderr=said, user=self.user, cwd="/", timeout=60)
            said.seek(0)
            assert ended.returncode == 0, said.read().decode()


def _programs() -> Path | None:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    beside = shutil.which("initdb")
    candidates = [*([Path(beside).resolve()] if beside else []), *found]
    return candidates[-1].parent if candidates else None


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    pytest.importorskip("psycopg", reason="the extra 'postgres' is not installed")
    programs = _programs()
    if programs is None:
        pytest.skip("PostgreSQL is not installed (no initdb)")
    folder = Path(tempfile.mkdtemp(prefix="lanner-postgres-"))
    try:
        try:
            made = Cluster(programs, folder)
        except (AssertionError, OSError, LookupError, subprocess.SubprocessError) as error:
            pytest.skip(f"PostgreSQL cannot be started here: {error}")
        yield made
        made.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres_server(request: pytest.FixtureRequest) -> str:
    """URL of a running server whose schema ``lanner`` the tests may drop."""
    return os.environ.get("LANNER_TEST_POSTGRES") or request.getfixturevalue("cluster").url
