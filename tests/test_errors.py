"""An error in a line."""

import os
import sys

import numpy as np
import pytest
import torch
from hydra.errors import InstantiationException

from svhn_vae.errors import UserError, did_you_mean, one_line, root_of, run_command
from svhn_vae.experiment.attempt import is_out_of_memory


def test_the_reason_is_found_behind_what_wraps_it():
    wrapped = InstantiationException("Error in call to target")
    wrapped.__cause__ = UserError("epsilon must be\n above 0")
    assert one_line(root_of(wrapped)) == "epsilon must be above 0"
    assert one_line(root_of(KeyError("x"))) == "KeyError: 'x'"


def test_an_error_of_a_library_is_not_taken_for_one_that_is_meant_for_a_person():
    assert one_line(ValueError("shapes do not match")) == "ValueError: shapes do not match"


@pytest.mark.parametrize("exhaust", [lambda: torch.empty(2**46), lambda: np.empty(2**46), lambda: bytes(2**46)])
def test_memory_that_there_is_not_is_known_as_such(exhaust):
    with pytest.raises((MemoryError, RuntimeError)) as error:
        exhaust()
    assert is_out_of_memory(error.value)
    assert not is_out_of_memory(RuntimeError("shapes"))


def test_a_command_goes_on_without_its_reader_and_in_any_locale(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    assert run_command(lambda: print("a")) == 0
    reader, writer = os.pipe()
    with os.fdopen(writer, "w", encoding="ascii") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        assert run_command(lambda: print("ä", flush=True)) == 0
        assert os.read(reader, 99) == rb"\xe4" + b"\n"
        os.close(reader)
        assert run_command(lambda: print("a" * 10**6) or 7) == 7


@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_a_command_goes_on_when_its_terminal_is_closed(monkeypatch, name):
    ours, its = os.openpty()
    with os.fdopen(its, "w") as terminal:
        monkeypatch.setattr(sys, name, terminal)
        os.close(ours)
        assert run_command(lambda: print("a", file=getattr(sys, name), flush=True) or 7) == 7


def test_the_nearest_name_or_none():
    assert did_you_mean("epsilom", ["sigma", "epsilon"]) == ": did you mean epsilon?"
    assert did_you_mean("xyz", ["sigma", "epsilon"]) == ""
