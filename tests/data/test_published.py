"""Published datasets: the list, downloads from a misbehaving server, and malicious archives."""

import hashlib
import io
import stat
import threading
import urllib.request
import zipfile
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from lanner.data.published import PublishedDataset, PublishedFile, fetch, is_fetched, published, transfer
from lanner.data.published.transfer import ATTEMPTS, download
from lanner.data.published.unpacking import unpack
from lanner.data.sources import SOURCES
from lanner.errors import ConfigError, DataError, Interrupted, StorageError

ROOT = Path(__file__).parents[2]
CONTENT = bytes(range(256)) * 4000
SHA256 = hashlib.sha256(CONTENT).hexdigest()
MB = 1_000_000


class Server(ThreadingHTTPServer):
    """Serves ``content`` at any address; breaks each answer after so many bytes as ``breaks`` says, in turn."""

    content, etag, breaks, requests, statuses, ranges = CONTENT, '"one"', [], [], [], True

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/file.bin"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        asked = self.headers.get("Range")
        server.requests.append(asked)
        if server.statuses:
            self.send_response(server.statuses.pop(0))
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        first = 0
        if asked and server.ranges and self.headers.get("If-Range") == server.etag:
            first = int(asked.removeprefix("bytes=").removesuffix("-"))
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{len(server.content) - 1}/{len(server.content)}")
        else:
            self.send_response(200)
        self.send_header("ETag", server.etag)
        self.send_header("Content-Length", str(len(server.content) - first))
        self.end_headers()
        rest = server.content[first:]
        if server.breaks:
            rest = rest[: server.breaks.pop(0)]
        self.wfile.write(rest)
        self.close_connection = True

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    with Server(("127.0.0.1", 0), Handler) as running:
        running.requests, running.statuses, running.breaks = [], [], []
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def get(server, path, **changes):
    return download(server.url, path, **{"sha256": SHA256, "at_most": 10 * MB, "pause": lambda _: None} | changes)


def test_a_connection_that_breaks_is_resumed_where_it_broke(server, tmp_path):
    server.breaks = [400_000, 300_000]
    told = []
    path = get(server, tmp_path / "f", progress=lambda *given: told.append(given))
    assert path.read_bytes() == CONTENT
    assert server.requests == [None, "bytes=400000-", "bytes=700000-"]
    assert told[-1] == (len(CONTENT), len(CONTENT))
    assert [one.name for one in tmp_path.iterdir()] == ["f"]


def test_what_was_left_of_an_earlier_call_is_not_downloaded_again(server, tmp_path):
    server.breaks = [500_000] + [0] * ATTEMPTS
    with pytest.raises(DataError, match=r"cannot be downloaded .* 500,000 bytes are kept, the same command resumes"):
        get(server, tmp_path / "f")
    server.requests.clear()
    assert get(server, tmp_path / "f").read_bytes() == CONTENT
    assert server.requests == ["bytes=500000-"]
    get(server, tmp_path / "f")
    assert len(server.requests) == 1, "a whole file is only verified"


def test_two_versions_of_a_file_are_never_joined(server, tmp_path):
    server.breaks = [500_000] + [0] * ATTEMPTS
    with pytest.raises(DataError):
        get(server, tmp_path / "f")
    server.content, server.etag = CONTENT[::-1], '"two"'
    changed = hashlib.sha256(server.content).hexdigest()
    assert get(server, tmp_path / "f", sha256=changed).read_bytes() == server.content


def test_a_server_without_versions_or_ranges_begins_anew(server, tmp_path):
    server.etag, server.breaks = 'W/"weak"', [500_000]
    assert get(server, tmp_path / "weak").read_bytes() == CONTENT
    assert server.requests == [None, None]
    server.etag, server.breaks, server.ranges = '"one"', [500_000], False
    assert get(server, tmp_path / "whole").read_bytes() == CONTENT


def test_a_wrong_checksum_leaves_nothing(server, tmp_path):
    server.content = b"tampered" * 1000
    with pytest.raises(DataError, match=r"the checksum is \w{64}, expected \w{64}; the file was removed"):
        get(server, tmp_path / "f")
    assert list(tmp_path.iterdir()) == []


def test_a_longer_file_than_known_is_refused_before_it_fills_the_disk(server, tmp_path, monkeypatch):
    with pytest.raises(DataError, match="expected at most 1,000; not the expected file"):
        get(server, tmp_path / "f", at_most=1000)
    monkeypatch.setattr(Handler, "send_header", lambda *_: None)  # it does not say how long
    with pytest.raises(DataError, match="expected at most 1,000"):
        get(server, tmp_path / "f", at_most=1000)
    assert not list(tmp_path.glob("f*.part")) + list(tmp_path.glob("f"))


def test_refusals_are_told_and_troubles_of_the_server_are_waited_for(server, tmp_path):
    server.statuses = [404]
    with pytest.raises(DataError, match=r"file.bin: the server refused the request \(404 Not Found\)"):
        get(server, tmp_path / "f")
    server.statuses, waits = [503, 429], []
    assert get(server, tmp_path / "f", pause=waits.append).read_bytes() == CONTENT
    assert waits == [2, 4]


def test_no_redirect_leads_from_https_to_http():
    request = urllib.request.Request("https://example.org/f")
    with pytest.raises(DataError, match="from https to another protocol"):
        transfer._Redirects().redirect_request(request, None, 302, "", {}, "http://example.org/f")


def archive(*members):
    """A zip file: names with contents, or with ``ZipInfo``."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, content in members:
            opened.writestr(name, content)
    return file.getvalue()


def link(name):
    info = zipfile.ZipInfo(name)
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (archive(("../evil", b"x")), "points outside the folder"),
        (archive(("a/../../evil", b"x")), "points outside the folder"),
        (archive(("/etc/evil", b"x")), "points outside the folder"),
        (archive(("C:\\evil", b"x")), "points outside the folder"),
        (archive((link("ratings.dat"), b"/etc/passwd")), "is a link or a device"),
        (archive(("bomb", b"\0" * (3 * MB))), "contains more bytes than expected"),
        (archive(("one", b"x" * 600_000), ("two", b"y" * 600_000)), "contains more bytes than expected"),
        (archive(("a", b"x"), ("b", b"y"))[:-30], "cannot be unpacked"),
        (b"<html>please log in</html>", "cannot be unpacked"),
        (archive(*((f"f{place}", b"") for place in range(10_001))), "10,001 files"),
    ],
)
def test_a_hostile_archive_is_refused_and_writes_nothing_elsewhere(tmp_path, content, words):
    folder = tmp_path / "inside" / "deep"
    folder.mkdir(parents=True)
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(DataError, match=words):
        unpack(tmp_path / "a.zip", folder, at_most=MB)
    outside = {path.name for path in tmp_path.rglob("*") if folder not in path.parents}
    assert outside == {"a.zip", "inside", "deep"}


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_an_archive_with_one_name_twice_is_refused(tmp_path):
    (tmp_path / "a.zip").write_bytes(archive(("a", b"x"), ("a", b"y")))
    with pytest.raises(DataError, match="contains a name twice"):
        unpack(tmp_path / "a.zip", tmp_path, at_most=MB)


def packed(server, **changes):
    """A dataset whose archive, with a folder around its files, the server has."""
    server.content = archive(("shop/ratings.dat", b"1::2::3::4\n"), ("shop/README", b"terms"))
    one = PublishedFile(server.url.replace("file.bin", "shop.zip"), 1, "", 1)
    told = dict.fromkeys(("title", "page", "events", "licence", "terms", "citation"), "x")
    return PublishedDataset("shop", **told | {"files": (replace(one, **changes),)})


def test_a_dataset_appears_whole(server, tmp_path):
    dataset, folder = packed(server), tmp_path / "shop"
    fetch(dataset, folder)
    assert {one.name for one in folder.iterdir()} == {"ratings.dat", "README", ".lanner-fetched"}
    assert is_fetched(dataset, folder)
    assert [one.name for one in tmp_path.iterdir()] == ["shop"]
    fetch(dataset, folder)
    assert len(server.requests) == 1, "what is there is not downloaded again"


def test_a_folder_of_somebody_else_is_left_alone(server, tmp_path):
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "mine.txt").touch()
    with pytest.raises(StorageError, match="holds something other than a fetched shop"):
        fetch(packed(server), tmp_path / "shop")
    assert server.requests == []


def test_a_bad_archive_is_not_kept_for_the_next_call(server, tmp_path):
    dataset = packed(server)
    good, server.content = server.content, b"<html>"
    with pytest.raises(DataError, match="cannot be unpacked"):
        fetch(dataset, tmp_path / "shop")
    assert not (tmp_path / "shop").exists()
    server.content = good
    assert fetch(dataset, tmp_path / "shop").is_dir()


@pytest.mark.parametrize(("breaks", "kept"), [([], 0), ([100], 100)])
def test_only_a_download_that_can_be_resumed_is_kept(server, tmp_path, monkeypatch, breaks, kept):
    dataset = packed(server)
    server.breaks = breaks + [0] * ATTEMPTS
    monkeypatch.setattr(
        transfer.download, "__kwdefaults__", transfer.download.__kwdefaults__ | {"pause": lambda _: None}
    )
    work = tmp_path / ".shop.download"
    said = (
        rf"cannot be downloaded .*; check the network, or save the file by hand as {work}.*, and run the same command"
    )
    with pytest.raises(DataError, match=said):
        fetch(dataset, tmp_path / "shop")
    assert sum(one.stat().st_size for one in work.glob("*.part")) == kept
    assert work.exists() == bool(kept)
    assert fetch(dataset, tmp_path / "shop").is_dir()
    assert [one.name for one in tmp_path.iterdir()] == ["shop"]


def test_a_file_saved_by_hand_is_not_downloaded(server, tmp_path):
    dataset = packed(server)
    (tmp_path / ".shop.download").mkdir()
    (tmp_path / ".shop.download" / dataset.files[0].name).write_bytes(server.content)
    assert fetch(dataset, tmp_path / "shop").is_dir()
    assert server.requests == []


def test_a_stopped_fetch_says_how_to_go_on(server, tmp_path):
    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(Interrupted, match=r"the partial download is kept in .*\.shop\.download; run the same command"):
        fetch(packed(server), tmp_path / "shop", progress=lambda name: stop)
    assert not (tmp_path / "shop").exists()


def test_a_disk_that_is_too_small_is_said_before(server, tmp_path):
    with pytest.raises(StorageError, match=r"MB are free, shop may take"):
        fetch(packed(server, at_most_mb=10**9), tmp_path / "shop")
    assert server.requests == []


def test_the_list_is_complete_and_keeps_its_rules():
    known = published()
    recipes = {path.stem for path in (ROOT / "recipes").glob("*.toml")}
    folders = {path.name for path in (ROOT / "src" / "lanner" / "bundled").iterdir()}
    assert {name for name in recipes if not any(name.startswith(f"{one}-") for one in known)} <= known.keys()
    assert {name for name, one in known.items() if one.bundled} == folders
    for name, one in known.items():
        assert bool(one.files) != bool(one.by_hand), f"{name}: either downloaded, or by hand"
        assert one.format in ("", *SOURCES), name
        assert one.format or one.bundled or name in recipes, f"{name}: nothing reads it"
        for file in one.files:
            assert file.url.startswith("https://"), name
            assert file.sha256 == "" or len(file.sha256) == 64, name


def test_what_no_program_may_download_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="cannot be downloaded by a program: Agree to the terms"):
        fetch(published()["yelp"], tmp_path / "yelp")
