"""Finding and downloading the files: a real server on this machine that also misbehaves; nothing leaves the machine."""

import hashlib
import os
import signal
import socket
import stat
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pooch
import pytest

from svhn_vae.data import download
from svhn_vae.data.download import official_file
from svhn_vae.errors import DataError
from svhn_vae.runs.files import umask

CONTENT = os.urandom(200_000)
NAME = "train_32x32.mat"
MD5 = hashlib.md5(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves CONTENT; `answer` says how badly."""

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


def locate(url: str = "http://127.0.0.1:9", verify: str = "official", *, root: str | None) -> Path:
    return official_file(NAME, f"{url.rstrip('/')}/{NAME}", MD5, 182_000_000, root=root, verify=verify)


def error_of(**arguments) -> str:
    """The one line about why there is no file."""
    with pytest.raises(DataError) as caught:
        locate(**arguments)
    assert str(caught.value).count("\n") == 0
    return str(caught.value)


def assert_says_what_to_do(message: str, folder: Path, url: str) -> None:
    assert message.startswith(f"could not download {url}/{NAME} to {folder}: ")
    assert "download it by hand" in message
    assert "data.root=FOLDER" in message
    assert "data=synthetic" in message


def test_missing_file_is_downloaded(server, root, capsys):
    path = locate(root=str(root), url=server.url)
    assert path == root / NAME
    assert path.read_bytes() == CONTENT
    assert os.listdir(root) == [NAME]
    assert server.requests == [f"/housenumbers/{NAME}"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask()
    printed = capsys.readouterr()
    assert printed.out == ""
    assert f"downloading {server.url}/{NAME} (182 MB) to {root}\n" in printed.err
    assert "200k/200k" in printed.err  # the bar
    assert printed.err.count(NAME) == 1  # pooch does not repeat it


def test_missing_file_is_downloaded_into_the_cache(server, cache):
    for _ in range(2):
        path = locate(root=None, url=server.url + "/")
    assert path == cache / NAME
    assert path.read_bytes() == CONTENT
    assert len(server.requests) == 1


def test_empty_root_is_the_cache(server, cache):
    assert locate(root="", url=server.url) == cache / NAME


def test_home_is_expanded(server, root, monkeypatch):
    monkeypatch.setenv("HOME", str(root.parent))
    (root / NAME).write_bytes(CONTENT)
    assert locate(root="~/data", url=server.url) == root / NAME


def test_whole_file_is_neither_requested_nor_hashed_again(server, root, monkeypatch):
    (root / NAME).write_bytes(CONTENT)
    digests = []
    hashed = hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda *args: digests.append(args) or hashed(*args))
    for _ in range(3):
        assert locate(root=str(root), url=server.url) == root / NAME
    assert server.requests == []
    assert len(digests) == 1


def test_changed_file_is_hashed_again(server, root):
    (root / NAME).write_bytes(CONTENT)
    locate(root=str(root), url=server.url)
    (root / NAME).write_bytes(CONTENT[:1000])
    assert "md5" in error_of(root=str(root), url=server.url)


def test_interrupted_file_of_the_user_stays_untouched(server, root):
    (root / NAME).write_bytes(CONTENT[:1000])
    message = error_of(root=str(root), url=server.url)
    assert message.startswith(f"{root / NAME}: md5 {hashlib.md5(CONTENT[:1000]).hexdigest()} of 1,000 bytes")
    assert MD5 in message
    assert "data.verify=none if it is your own" in message
    assert "delete it to download it again" in message
    assert "data.verify=none if it is your own" in message
    assert (root / NAME).read_bytes() == CONTENT[:1000]
    assert server.requests == []


def test_interrupted_file_in_the_cache_is_replaced(server, cache):
    cache.mkdir(parents=True)
    (cache / NAME).write_bytes(CONTENT[:1000])
    assert locate(root=None, url=server.url).read_bytes() == CONTENT
    assert os.listdir(cache) == [NAME]


def test_interrupted_file_in_the_cache_is_never_taken_for_a_whole_one(server, cache):
    cache.mkdir(parents=True)
    (cache / NAME).write_bytes(CONTENT[:1000])
    server.status = 503
    for _ in range(2):
        assert "503 Server Error" in error_of(root=None, url=server.url)


def test_folder_in_place_of_the_file(server, root):
    (root / NAME).mkdir()
    assert "cannot be read" in error_of(root=str(root), url=server.url)


@pytest.mark.parametrize(
    ("attributes", "telling"),
    [
        ({"status": 404}, "404 Client Error: Not Found"),
        ({"status": 500}, "500 Server Error"),
        ({"num_sent": 100_000}, "100000 bytes read, 100000 more expected"),
        ({"num_sent": 0}, "0 bytes read, 200000 more expected"),
        ({"content": b"<html>log in to the hotel's network</html>"}, "does not match the known hash"),
        ({"content": CONTENT[:-1]}, "does not match the known hash"),
        ({"content": b""}, "does not match the known hash"),
    ],
    ids=["404", "500", "dropped half-way", "dropped at once", "hotel", "short", "empty"],
)
def test_failed_download_leaves_nothing(server, root, attributes, telling):
    vars(server).update(attributes)
    message = error_of(root=str(root), url=server.url)
    assert telling in message
    assert_says_what_to_do(message, root, server.url)
    assert os.listdir(root) == []


def test_success_after_a_failure(server, root):
    server.num_sent = 100_000
    error_of(root=str(root), url=server.url)
    server.num_sent = len(CONTENT)
    assert locate(root=str(root), url=server.url).read_bytes() == CONTENT


def test_silent_server(server, root, monkeypatch):
    released = threading.Event()
    monkeypatch.setattr(download, "TIMEOUT_S", 0.2)
    server.num_sent, server.half_way = 100_000, lambda: released.wait(10)
    try:
        message = error_of(root=str(root), url=server.url)
    finally:
        released.set()
    assert "timed out" in message
    assert_says_what_to_do(message, root, server.url)
    assert os.listdir(root) == []


def test_refused_connection(server, root):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
    message = error_of(root=str(root), url=url)
    assert "Connection refused" in message
    assert_says_what_to_do(message, root, url)
    assert os.listdir(root) == []


@pytest.mark.parametrize("url", ["", "nowhere", "ftp://127.0.0.1/x", "http://", "http://[::1"])
def test_senseless_url(server, root, url):
    assert "could not download" in error_of(root=str(root), url=url)
    assert os.listdir(root) == []


def test_ctrl_c_leaves_nothing(server, root):
    """The signal comes when more than half of the file is written."""
    released = threading.Event()

    def interrupt():
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline and sum(file.stat().st_size for file in root.iterdir()) < 2**17:
            time.sleep(0.005)
        os.kill(os.getpid(), signal.SIGINT)
        released.wait(10)

    server.num_sent, server.half_way = 150_000, interrupt
    try:
        with pytest.raises(KeyboardInterrupt):
            locate(root=str(root), url=server.url)
    finally:
        released.set()
    assert os.listdir(root) == []


@pytest.mark.parametrize("number", [13, 28, 30], ids=["no permission", "disk full", "read-only"])
def test_disk_that_refuses(server, root, monkeypatch, number):
    """Simulated, because root may write everywhere."""

    def refuse(*_, **__):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("tempfile.NamedTemporaryFile", refuse)
    message = error_of(root=str(root), url=server.url)
    assert os.strerror(number) in message
    assert_says_what_to_do(message, root, server.url)
    assert os.listdir(root) == []


def test_two_at_the_same_time(server, root):
    """Both are half-way when the first goes on; a third sees no file until one is whole."""
    both = threading.Barrier(2)
    server.num_sent = 100_000
    seen, paths = [], []

    def half_way():
        both.wait(10)
        seen.append((root / NAME).exists())

    original = Handler.do_GET

    def serve(handler):
        original(handler)
        handler.wfile.write(CONTENT[100_000:])

    server.half_way = half_way
    server.RequestHandlerClass = type("Whole", (Handler,), {"do_GET": serve})
    arguments = {"root": str(root), "url": server.url}
    threads = [threading.Thread(target=lambda: paths.append(locate(**arguments))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen[0] is False
    assert paths == [root / NAME] * 2
    assert os.listdir(root) == [NAME]
    assert (root / NAME).read_bytes() == CONTENT


def test_typo_in_root_starts_no_download(server, root):
    message = error_of(root=f"{root}s", url=server.url)
    assert message.startswith(f"data.root={root}s: expected a folder, there is none")
    assert not Path(f"{root}s").exists()
    assert server.requests == []


def test_home_of_nobody(server):
    assert "expected a folder" in error_of(root="~nobody-of-that-name/data", url=server.url)


def test_own_files_are_not_verified(server, root):
    (root / NAME).write_bytes(b"mine")
    assert locate(root=str(root), verify="none", url=server.url) == root / NAME
    assert server.requests == []


@pytest.mark.parametrize("folder", ["root", "cache"])
def test_own_files_are_never_downloaded(server, root, cache, folder):
    (root / "other.mat").touch()
    message = error_of(root=str(root) if folder == "root" else None, verify="none", url=server.url)
    assert message.startswith(f"data.verify=none uses your own files: expected {NAME} in ")
    assert ("which holds other.mat:" if folder == "root" else "which holds no files:") in message
    assert server.requests == []


def test_choices(root):
    assert "official or none, got 'md5'" in error_of(root=str(root), verify="md5")
