"""Images of another kind: areas against scikit-learn, PNG's bits against files, a model that likes smooth images."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import roc_auc_score

from svhn_vae.commands.scores import outlier_table
from svhn_vae.data.batches import EvaluationBatches
from svhn_vae.data.digits import draw_digits
from svhn_vae.data.sources import Dataset, LabelledImages
from svhn_vae.evaluation.bound import evaluation_pass
from svhn_vae.evaluation.samples import share_of_pairs
from svhn_vae.evaluation.score import SCORES, outliers, plain_outliers, png_bits, strangeness
from svhn_vae.model.elbo import bits_per_dim
from test_images import cifar
from test_lit import fitted


def test_the_area_is_scikit_learns_with_ties_too():
    rng = np.random.default_rng(0)
    own, outlying = rng.integers(0, 20, 50).astype(float), rng.integers(5, 30, 40).astype(float)
    due = roc_auc_score([0] * 50 + [1] * 40, [*own, *outlying])
    assert share_of_pairs(outlying, own) == pytest.approx(due)
    assert share_of_pairs(own + 100, own) == 1
    assert share_of_pairs(own, own) == pytest.approx(0.5)


def test_bits_of_a_png_are_those_of_its_file():
    images = plain_outliers(3, torch.Size((3, 32, 32)))
    for of_kind in images.values():
        file = io.BytesIO()
        Image.fromarray(of_kind[0].permute(1, 2, 0).numpy()).save(file, "PNG", optimize=True)
        assert png_bits(of_kind)[0] == pytest.approx(8 * len(file.getvalue()) / 3072)
    assert png_bits(images["noise"]).min() > 8  # nothing to compress, and a header
    assert png_bits(images["constant images"]).max() < 0.4


def test_scores_are_those_of_each_image_beside_the_test_images():
    vae = fitted("model=conv", "variance=fixed", "network_scale=0.03125").vae.eval()
    test, others = torch.from_numpy(draw_digits(40, seed=0)[0]), plain_outliers(30, torch.Size((3, 32, 32)))
    state = torch.get_rng_state()
    found = outliers(vae, test, others)
    assert torch.equal(torch.get_rng_state(), state)
    assert list(found) == ["test images", *others]
    assert found["test images"].auroc == {}
    own, noise = strangeness(vae, test), strangeness(vae, others["noise"])
    assert found["noise"].auroc == {name: share_of_pairs(noise[name], own[name]) for name in SCORES}
    assert found["noise"].means == {name: pytest.approx(noise[name].mean()) for name in SCORES}
    np.testing.assert_allclose(own["bits_per_dim"] - own["bits_less_png"], png_bits(test))
    terms = evaluation_pass(vae, next(iter(EvaluationBatches(test, vae.representation))), 0).terms
    np.testing.assert_allclose(own["bits_per_dim"], bits_per_dim(terms.elbo.detach().numpy(), 3072), rtol=1e-5)
    np.testing.assert_allclose(own["kl"], terms.kl.detach().numpy())


def test_the_table_of_the_command_has_files_of_other_data(tmp_path):
    """CIFAR-10 from an archive in its format, whose settings follow its name."""
    cifar(tmp_path)
    vae = fitted("model=conv", "variance=fixed", "network_scale=0.03125").vae.eval()
    images, labels = (torch.from_numpy(array) for array in draw_digits(20, seed=0))
    own = Dataset("synthetic", True, *[LabelledImages(images, labels)] * 3)
    asked = ["synthetic data.num_test=30 data.num_train=30", f"cifar10 data.root={tmp_path} data.verify=none"]
    table = outlier_table(vae, own, asked)
    names, *columns = zip(*table.rows, strict=True)
    assert [*names] == ["test images", "synthetic", "cifar10", "noise", "constant images"]
    assert [area for column in columns[1::2] for area in column[1:] if not 0 <= float(area) <= 1] == []
    due = strangeness(vae, cifar(tmp_path).load().test.images)["bits_per_dim"].mean()
    assert columns[0][names.index("cifar10")] == f"{due:.2f}"
