"""A draw's projection, made group by group: the same as all at once, and no sooner than it is wanted."""

import pytest
import torch

from svhn_vae.data.projected import Projected
from svhn_vae.model.coordinates import Features

NUM_IMAGES = 25


@pytest.fixture
def made() -> list[int]:
    """The groups that were made, in order."""
    return []


def projected_by(made: list[int], order: torch.Tensor) -> Projected:
    """Image n has features n; of its group, the number is its log_det."""

    def make(numbers: torch.Tensor, group: int) -> Features:
        made.append(group)
        y = numbers[:, None].float()
        return Features(y, -y, torch.tensor(float(group)).expand(len(y)))

    return Projected(order, 10, make, torch.empty)


def test_what_is_wanted_first_is_made_first(made):
    order = torch.randperm(NUM_IMAGES)
    found = projected_by(made, order)
    assert made == []
    for wanted, groups in ((1, [0]), (10, [0]), (11, [0, 1]), (4, [0, 1]), (25, [0, 1, 2]), (25, [0, 1, 2])):
        y, residual, log_det = found.with_first(wanted)
        assert made == groups
        assert y.shape == residual.shape == (NUM_IMAGES, 1)
        assert log_det.shape == (NUM_IMAGES,)
        assert torch.equal(y[order[:wanted], 0], order[:wanted].float())
        assert torch.equal(residual[order[:wanted], 0], -order[:wanted].float())
        assert torch.equal(log_det[order[:wanted]], (torch.arange(wanted) // 10).float())


def test_it_does_not_matter_when_they_are_wanted(made):
    order = torch.randperm(NUM_IMAGES)
    by_and_by, at_once = projected_by(made, order), projected_by(made, order)
    by_and_by.with_first(3)
    for array, due in zip(by_and_by.with_first(NUM_IMAGES), at_once.with_first(NUM_IMAGES), strict=True):
        assert torch.equal(array, due)
