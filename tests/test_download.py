"""Finding and downloading the files: a real server on this machine that also misbehaves; nothing leaves the machine.

That several processes may download a file at once, and that Ctrl-C and a full disk leave nothing, is pooch's to test.
"""

import gc
import hashlib
import os
import stat
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pooch
import pytest

from svhn_vae.data import download
from svhn_vae.data.download import Official
from svhn_vae.errors import DataError
from svhn_vae.runs.files import umask

# pooch leaves the connection of an answer that is an error to the garbage collector, which `server` calls.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
CONTENT = os.urandom(200_000)
NAME = "train_32x32.mat"
MD5 = hashlib.md5(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves CONTENT, or does so badly."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}/housenumbers"
        self.requests: list[str] = []
        self.status = 200
        self.content = CONTENT
        self.num_sent = len(CONTENT)  # of the bytes that Content-Length promises
        self.half_way = lambda: None  # called when those are sent


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        server.requests.append(self.path)
        self.send_response(server.status)
        self.send_header("Content-Length", str(len(server.content)))
        self.end_headers()
        self.wfile.write(server.content[: server.num_sent])
        self.wfile.flush()
        server.half_way()

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()
    gc.collect()


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    return folder


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The default cache folder, which does not exist yet."""
    monkeypatch.setattr(pooch, "os_cache", lambda name: tmp_path / "cache" / name)
    return tmp_path / "cache" / "svhn-vae"


class One(Official):
    """A data set of one file."""

    files: ClassVar = {NAME: (MD5, 182_000_000)}
    name = image_shape = read = None


def locate(root: Path | str | None, url: str = "http://127.0.0.1:9", verify: str = "official") -> Path:
    division = {"splits": ["train"], "limit": None, "held_out": 0.1, "division": "contiguous"}
    return One(**division, root=None if root is None else str(root), url=url, verify=verify).file(NAME)


def error_of(root: Path | str | None, **settings: str) -> str:
    """The one line about why there is no file."""
    with pytest.raises(DataError) as caught:
        locate(root, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def assert_nothing_is_left(message: str, folder: Path, url: str) -> None:
    assert message.startswith(f"could not download {url}/{NAME} to {folder}: ")
    assert "download it by hand into a folder and set data.root=FOLDER, or try data=synthetic" in message
    assert os.listdir(folder) == []


def test_missing_file_is_downloaded_once(server, root, cache, capfd):
    for folder, due in ((root, root), (None, cache), ("", cache)):
        for _ in range(2):
            path = locate(folder, server.url + "/")
            assert path == due / NAME
            assert path.read_bytes() == CONTENT
        assert os.listdir(due) == [NAME]
        assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask()
    assert server.requests == [f"/housenumbers/{NAME}"] * 2
    assert capfd.readouterr().out == ""


def test_interrupted_file_of_the_user_stays_untouched(server, root):
    (root / NAME).write_bytes(CONTENT[:1000])
    message = error_of(root, url=server.url)
    assert message.startswith(f"{root / NAME}: its md5 is not the official {MD5}: data.verify=none if it is your own")
    assert "delete it to download it again (it has 1,000 bytes; the official file has 182,000,000)" in message
    assert (root / NAME).read_bytes() == CONTENT[:1000]
    (root / NAME).unlink()
    (root / NAME).mkdir()
    assert "cannot be read" in error_of(root, url=server.url)
    assert server.requests == []


def test_interrupted_file_in_the_cache_is_replaced_and_never_taken_for_a_whole_one(server, cache):
    cache.mkdir(parents=True)
    (cache / NAME).write_bytes(CONTENT[:1000])
    server.status = 503
    for _ in range(2):
        assert "503 Server Error" in error_of(None, url=server.url)
    server.status = 200
    assert locate(None, server.url).read_bytes() == CONTENT
    assert os.listdir(cache) == [NAME]


@pytest.mark.parametrize(
    ("attributes", "telling"),
    [
        ({"status": 404}, "404 Client Error: Not Found"),
        ({"num_sent": 100_000}, "100000 bytes read, 100000 more expected"),
        ({"num_sent": 0}, "0 bytes read, 200000 more expected"),
        ({"content": b"<html>log in to the hotel's network</html>"}, "does not match the known hash"),
        ({"num_sent": 100_000, "half_way": lambda: threading.Event().wait(0.5)}, "timed out"),
    ],
    ids=["404", "dropped half-way", "dropped at once", "hotel", "silent"],
)
def test_failed_download_leaves_nothing_and_may_be_tried_again(server, root, attributes, telling, monkeypatch):
    monkeypatch.setattr(download, "TIMEOUT_S", 0.2)
    good = {name: vars(server)[name] for name in attributes}
    vars(server).update(attributes)
    message = error_of(root, url=server.url)
    assert telling in message
    assert_nothing_is_left(message, root, server.url)
    vars(server).update(good)
    assert locate(root, server.url).read_bytes() == CONTENT


def test_refused_connection_and_senseless_urls(root):
    for url in ("http://127.0.0.1:9", "", "nowhere", "ftp://127.0.0.1/x", "http://[::1"):
        assert_nothing_is_left(error_of(root, url=url), root, url)


def test_home_is_expanded_and_a_typo_in_root_starts_no_download(server, root, monkeypatch):
    monkeypatch.setenv("HOME", str(root.parent))
    (root / NAME).write_bytes(CONTENT)
    assert locate("~/data", server.url) == root / NAME
    message = error_of(f"{root}s", url=server.url)
    assert message.startswith(f"data.root={root}s: expected a folder, there is none")
    assert not Path(f"{root}s").exists()
    assert "expected a folder" in error_of("~nobody-of-that-name/data")
    assert server.requests == []


def test_own_files_are_neither_verified_nor_downloaded(server, root, cache):
    (root / "other.mat").touch()
    for folder, holds in ((root, "other.mat"), (None, "no files")):
        message = error_of(folder, verify="none", url=server.url)
        assert message.startswith(f"data.verify=none uses your own files: expected {NAME} in ")
        assert f"which holds {holds}:" in message
    (root / NAME).write_bytes(b"mine")
    assert locate(root, server.url, "none") == root / NAME
    assert server.requests == []
    assert "official or none, got 'md5'" in error_of(root, verify="md5")
