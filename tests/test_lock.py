"""One process at a time has a lock; a killed one has none."""

import signal
import subprocess
import sys
import time

import pytest

from svhn_vae.errors import Busy
from svhn_vae.runs.lock import locked

HOLD = """
import sys, time
from pathlib import Path
from svhn_vae.runs.lock import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_process_is_told_who_has_it_and_a_killed_one_has_it_no_more(tmp_path):
    path = tmp_path / "study" / "run"
    with subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        told = rf"process {process.pid} on .* is at it, since {time.strftime('%Y')}"
        with pytest.raises(Busy, match=told), locked(path):
            pytest.fail("two have it")
        process.send_signal(signal.SIGKILL)
    with locked(path):
        pass
    assert not path.exists()  # a lock makes no run


def test_it_is_free_after_an_error(tmp_path):
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt), locked(tmp_path / "run"):
            raise KeyboardInterrupt


def test_who_has_it_may_be_unknown(tmp_path):
    with locked(tmp_path / "run"):
        (tmp_path / ".locks" / "run.json").write_text("{")
        with pytest.raises(Busy, match=r"process \? on \?"), locked(tmp_path / "run"):
            pass
