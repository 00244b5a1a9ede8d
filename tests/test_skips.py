"""Updates that were left out: counted, and too many of them are divergence."""

import math

import pytest

from svhn_vae.training.skips import Skips


def noted(*losses: float, max_skips: int = 2, size: float = 0.0) -> Skips:
    skips = Skips(max_gradient_norm=None, max_skips=max_skips)
    skips.begin_epoch()
    for step, loss in enumerate(losses):
        skips.note(step, is_left_out=not math.isfinite(loss + size), loss=loss, size=size)
    return skips


def test_only_skips_in_a_row_are_too_many():
    skips = noted(*[1.0, math.nan, math.inf] * 3)
    assert (skips.num_skipped, skips.num_in_a_row, skips.are_too_many) == (6, 2, False)
    skips = noted(*[1.0, math.nan, math.inf] * 3, math.nan)
    assert skips.are_too_many
    assert skips.first_in_a_row == 7
    assert skips.in_words() == (
        "the loss was not finite at step 7, and so for 3 steps in a row; the last finite loss was 1.0 nats"
    )


def test_nothing_is_counted_after_the_one_too_many():
    """However many updates there are in a step."""
    one, other = noted(*[math.nan] * 3), noted(*[math.nan] * 9, 1.0)
    assert one.state_dict() == other.state_dict()
    assert other.are_too_many


def test_the_reason_is_the_firsts():
    assert "the gradient was not finite at step 0" in noted(1.0, size=math.inf).in_words()
    skips = Skips(max_gradient_norm=5.0, max_skips=0)
    skips.note(4, is_left_out=True, loss=1.0, size=6.0)
    assert skips.in_words().startswith("the gradient's norm was 6 at step 4, above skips.max_gradient_norm, and so")


def test_an_epoch_without_a_finite_loss():
    assert noted(math.nan).are_all_of_an_epoch
    assert not noted(math.nan, 1.0).are_all_of_an_epoch
    assert not noted().are_all_of_an_epoch


def test_its_state_goes_on():
    skips, other = noted(1.0, math.nan), noted()
    other.load_state_dict(skips.state_dict())
    assert other.state_dict() == skips.state_dict()
    assert other.in_words() == skips.in_words()


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"max_gradient_norm": 0, "max_skips": 1}, "max_gradient_norm must be above 0 or null, got 0"),
        ({"max_gradient_norm": None, "max_skips": -1}, "max_skips must be 0 or more, got -1"),
    ],
)
def test_what_cannot_be_meant_is_refused(settings, text):
    with pytest.raises(ValueError, match=text):
        Skips(**settings)
