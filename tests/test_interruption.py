"""What the first signal means in an epoch and elsewhere, and the second."""

import gc
import os
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest

from conftest import REPO
from svhn_vae import commands
from svhn_vae.errors import Interrupted
from svhn_vae.training.interruption import SIGNALS, Interruption


@pytest.fixture
def interruption():
    before = {signum: signal.getsignal(signum) for signum in SIGNALS}
    yield Interruption()
    for signum, handler in before.items():
        signal.signal(signum, handler)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGHUP])
def test_outside_an_epoch_it_leaves_at_once(interruption, signum):
    interruption.listen()
    with pytest.raises(Interrupted) as error:
        os.kill(os.getpid(), signum)
    assert error.value.signum == signum


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGUSR1])
def test_in_an_epoch_the_second_one_does(interruption, signum, capfd):
    interruption.listen()
    interruption.in_epoch = True
    os.kill(os.getpid(), signum)
    assert interruption.is_requested
    assert capfd.readouterr().out == "\n  stopping after this epoch; once more to leave at once\n"
    with pytest.raises(Interrupted):
        os.kill(os.getpid(), signum)
    assert signal.getsignal(signum) == signal.SIG_DFL  # the third one ends the process


def test_a_closed_terminal_is_no_failure(interruption, monkeypatch):
    monkeypatch.setattr(os, "write", lambda *_: exec("raise OSError(5, 'Input/output error')"))
    interruption.in_epoch = True
    interruption.receive(signal.SIGHUP, None)
    assert interruption.is_requested


def test_a_signal_that_was_switched_off_stays_so(interruption):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    interruption.listen()
    os.kill(os.getpid(), signal.SIGINT)
    assert not interruption.is_requested


MOMENTS = {
    "import": "importlib.import_module = interrupt",
    "work": "module.evaluate = interrupt",
    "end": "module.evaluate = lambda: atexit.register(interrupt) and 0",
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_ctrl_c_is_one_line_whenever_it_comes(moment):
    """To every command: one function calls them all."""
    program = f"""
import atexit, importlib, os, signal, sys, types
from svhn_vae import commands
interrupt = lambda *_: os.kill(os.getpid(), signal.SIGINT)
module = sys.modules["svhn_vae.commands.scores"] = types.ModuleType("scores")
{MOMENTS[moment]}
commands.run("evaluate")
"""
    environment = {**os.environ, "PYTHONPATH": str(REPO / "src")}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, encoding="utf-8", env=environment
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")


def test_the_end_does_not_wait_for_the_objects_of_libraries(monkeypatch):
    """To look for cycles in all of them takes Python a second."""
    gc.unfreeze()
    monkeypatch.setattr(commands, "on_ctrl_c", lambda act: None)
    monkeypatch.setitem(sys.modules, "svhn_vae.commands.scores", SimpleNamespace(evaluate=lambda: 3))
    try:
        with pytest.raises(SystemExit) as left:
            commands.run("evaluate")
        assert left.value.code == 3
        assert gc.get_freeze_count() > 10_000
    finally:
        gc.unfreeze()


def test_little_is_imported_before_ctrl_c_is_listened_for():
    """Because it shows a traceback where it comes in an import."""
    program = "before = set(sys.modules); import svhn_vae.commands; print(*set(sys.modules) - before)"
    done = subprocess.run(
        [sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, {str(REPO / 'src')!r}); {program}"],
        capture_output=True,
        encoding="utf-8",
    )
    imported = {name for name in done.stdout.split() if name.partition(".")[0] not in sys.stdlib_module_names}
    assert imported == {"svhn_vae", "svhn_vae.commands"}
