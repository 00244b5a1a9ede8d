"""Seeds of places: no two places share one, and drawing from them leaves the caller's generator alone."""

import itertools

import pytest
import torch

from svhn_vae.seeds import Stream, derive_seed, seed_device, seeded

CPU = torch.device("cpu")


def test_no_two_places_share_a_seed():
    """Zeros at the end, and numbers beyond 32 bits, are what numpy's SeedSequence takes for the same."""
    numbers = (0, 1, 2, 10, 2**32, 2**32 + 1, 2**40)
    places = [place for length in range(4) for place in itertools.product(numbers, repeat=length)]
    found = [derive_seed(stream, *place) for stream in Stream for place in places]
    assert len(set(found)) == len(found) == len(Stream) * 400
    assert all(0 <= seed < 2**63 for seed in found)


def test_a_seed_is_the_same_everywhere():
    assert derive_seed(Stream.STEP, 5, 0) == derive_seed(Stream(2), True + 4, False)
    assert derive_seed(Stream.STEP, 5, 0) == 8885042257709924259


@pytest.mark.parametrize("seed", [0, 1, 2**63 - 1])
def test_seeded_draws_leave_the_generator_as_it_was(seed):
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    with pytest.raises(RuntimeError), seeded(CPU, seed):
        torch.rand(-1)
    with seeded(CPU, seed):
        drawn = torch.rand(5)
    assert torch.equal(torch.rand(2), expected)
    seed_device(CPU, seed)
    assert torch.equal(torch.rand(5), drawn)
