"""What the first signal means in an epoch and elsewhere, and the second."""

import os
import signal

import pytest

from svhn_vae.errors import Interrupted
from svhn_vae.training.interruption import SIGNALS, Interruption


@pytest.fixture
def interruption():
    before = {signum: signal.getsignal(signum) for signum in SIGNALS}
    yield Interruption()
    for signum, handler in before.items():
        signal.signal(signum, handler)


@pytest.mark.parametrize("signum", SIGNALS)
def test_outside_an_epoch_it_leaves_at_once(interruption, signum):
    interruption.listen()
    with pytest.raises(Interrupted) as error:
        os.kill(os.getpid(), signum)
    assert error.value.signum == signum


@pytest.mark.parametrize("signum", SIGNALS)
def test_in_an_epoch_the_second_one_does(interruption, signum, capfd):
    interruption.listen()
    interruption.in_epoch = True
    os.kill(os.getpid(), signum)
    assert interruption.is_requested
    assert capfd.readouterr().out == "\n  stopping after this epoch; once more to leave at once\n"
    with pytest.raises(Interrupted):
        os.kill(os.getpid(), signum)
    assert signal.getsignal(signum) == signal.SIG_DFL  # the third one ends the process


def test_a_signal_that_was_switched_off_stays_so(interruption):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    interruption.listen()
    os.kill(os.getpid(), signal.SIGINT)
    assert not interruption.is_requested


def test_nothing_on_its_way_takes_it_for_a_failure():
    assert not issubclass(Interrupted, Exception)
