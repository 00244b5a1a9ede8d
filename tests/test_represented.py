"""What is evaluated is projected when it is first asked for, and once."""

import numpy as np
import pytest
import torch

from svhn_vae.data import represented
from svhn_vae.data.batches import EvaluationBatches
from svhn_vae.data.mat import LabelledImages
from svhn_vae.data.represented import Represented
from svhn_vae.data.sources import Dataset
from test_batches import SHAPE, full_pca, pixels

NUM = {"train": 25, "val": 4, "test": 7}


@pytest.fixture
def dataset() -> Dataset:
    rng = np.random.default_rng(0)
    images = [torch.from_numpy(rng.integers(0, 256, (num, *SHAPE), dtype=np.uint8)) for num in NUM.values()]
    return Dataset("random", True, *(LabelledImages(each, torch.zeros(len(each))) for each in images))


@pytest.mark.parametrize("make", [full_pca, pixels])
def test_splits_are_all_their_images_and_of_training_images_some(make, dataset, monkeypatch):
    monkeypatch.setattr(represented, "MAX_SEEN", 10)
    representation = make()
    found = Represented(dataset, representation)
    assert found.dataset is dataset
    due = {"test": dataset.test.images, "val": dataset.val.images, "seen": dataset.train.images[::3]}
    for name, images in due.items():
        [batch], [expected] = getattr(found, name), EvaluationBatches(images, representation)
        assert torch.equal(batch.y, expected.y), name


def test_each_is_projected_when_it_is_asked_for_and_once(dataset):
    representation, projected = full_pca(), []
    representation.register_forward_hook(lambda module, inputs, output: projected.append(len(output.y)))
    found = Represented(dataset, representation)
    assert projected == []  # the test images are left alone until they are scored
    for name in ("val", "seen", "test"):
        assert len(list(getattr(found, name))) == len(list(getattr(found, name))) == 1
    assert projected == [4, 25, 7]
