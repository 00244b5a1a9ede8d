"""`svhn_vae.load_run`: what a program asks of a finished run, and that the answers are those of its result."""

import functools
import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

import svhn_vae
from conftest import composed
from svhn_vae.data.batches import centred, dequantise
from svhn_vae.data.digits import draw_digits
from svhn_vae.errors import UserError
from svhn_vae.evaluation.finished_run import pixels
from svhn_vae.experiment.attempt import run_job
from svhn_vae.experiment.configuration import choices
from svhn_vae.experiment.loading import load_dataset
from svhn_vae.pictures.sheet import grid
from svhn_vae.runs.folder import RunFolder
from svhn_vae.runs.weights import load_tensors

SMALL = ("data=images", "trainer=demo", "trainer.max_epochs=1", "network_scale=0.1", "batch_size=50", "iw_samples=4",
         "pca.n_components=20", "judge=false", "prior.num_components=2")  # fmt: skip


def finished(place: Path, num_channels: int, *overrides: str) -> RunFolder:
    """A tiny run on images of 8 x 8 pixels, made in this process."""
    images, _ = draw_digits(300, seed=1)  # (N, 3, 32, 32)
    images = images.reshape(300, 3, 8, 4, 8, 4).mean((3, 5)).astype(np.uint8)[:, :num_channels]
    np.savez(place / "images.npz", images=images.transpose(0, 2, 3, 1))
    folder, cfg = RunFolder(place / "run"), composed(*SMALL, *overrides, f"data.root={place / 'images.npz'}")
    own = OmegaConf.masked_copy(cfg, [key for key in cfg if key != "hydra"])
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning's
        outcome = run_job(own, choices(cfg.hydra), folder, (), lambda: None)
    assert outcome.status == "done", outcome.reason
    return folder


@pytest.fixture(scope="module", params=[3, 1], ids=["colour", "grey"])
def folder(request, tmp_path_factory):
    return finished(tmp_path_factory.mktemp("finished"), request.param)


@pytest.fixture(scope="module")
def run(folder):
    return svhn_vae.load_run(folder.path)


@pytest.fixture(scope="module")
def test_images(folder):
    return load_dataset(folder.path, None, other_images=False).test.images


def test_the_scores_of_the_test_images_are_those_of_the_result(run, folder, test_images):
    metrics = json.loads((folder.path / "result.json").read_text(encoding="utf-8"))["metrics"]
    assert run.result["metrics"] == metrics
    weighted = run.log_prob(test_images, k=metrics["test/iw_k"])
    assert weighted.mean().item() == metrics["test/iw_elbo"]
    stored = load_tensors(folder.path / "per_image.safetensors")
    assert torch.equal(weighted.float(), stored["iw_elbo"])
    bits = run.bits_per_dim(test_images)
    assert bits.shape == (len(test_images),)
    assert bits.mean().item() == pytest.approx(metrics["test/bits_per_dim"], rel=1e-7)
    x = centred(test_images, 0)
    psnr = -10 * (run.reconstruct(test_images) - x).square().flatten(1).mean(1).log10()
    assert psnr.mean().item() == pytest.approx(metrics["test/reconstruction/psnr"], rel=1e-6)


def test_samples_are_those_of_the_runs_picture(run, folder):
    shown = np.asarray(Image.open(folder.path / "figures" / "samples.png"))
    due = grid(run.sample(100), 10)
    rows = (shown[start : start + len(due)] for start in range(len(shown) - len(due) + 1))
    assert any(np.array_equal(each[:, : due.shape[1]], due) for each in rows)


def test_shapes_and_ranges(run, test_images):
    z = run.encode(test_images)
    assert z.shape == (len(test_images), run.latent_dim)
    for images in (run.decode(z), run.decode(z.numpy()), run.reconstruct(test_images), run.sample(len(z), seed=1)):
        assert images.shape == (len(z), *run.image_shape)
        assert 0 <= images.min() <= images.max() <= 1
    assert torch.equal(run.decode(z), run.reconstruct(test_images))
    assert not torch.equal(run.sample(2, seed=1), run.sample(2, seed=2))
    assert (run.sample(2, temperature=0.0)[0] != run.sample(2)[0]).any()


def spellings(levels: torch.Tensor) -> dict[str, object]:
    """The same images (N, 3, H, W) uint8, in every form that is taken."""
    last = levels.movedim(1, -1)
    return {
        "array, channels last": last.numpy(),
        "array, channels first": levels.numpy(),
        "tensor of levels / 255": levels / 255,
        "double array of levels / 255, channels last": last.double().numpy() / 255,
        "PIL images": [Image.fromarray(image.squeeze()) for image in last.numpy()],
        "a list of arrays": list(last.numpy()),
        "a tuple of tensors": tuple(levels),
    }


@pytest.mark.parametrize("form", spellings(torch.zeros(1, 3, 2, 2, dtype=torch.uint8)))
def test_every_form_of_images_is_the_same_images(form, run, test_images):
    given = spellings(test_images)[form]
    assert torch.equal(run.encode(given), run.encode(test_images))
    assert torch.equal(run.bits_per_dim(given), run.bits_per_dim(test_images))
    assert torch.equal(run.encode(given[:1]), run.encode(test_images[:1]))
    assert torch.equal(run.encode(given[0]), run.encode(test_images[:1]))


def test_floating_point_is_taken_as_it_is(run, test_images):
    x = dequantise(test_images, 5)
    features = run.vae.representation(x)
    noise = torch.zeros(len(x), run.latent_dim)
    assert torch.equal(run.encode(x), run.vae.networks(features.y, noise).mean.detach())
    assert not torch.equal(run.log_prob(x, k=2), run.log_prob(test_images, k=2))


@pytest.mark.parametrize("shape", [(4, 6), (1, 4, 6), (5, 4, 6), (5, 1, 4, 6), (5, 4, 6, 1)])
def test_grey_images_may_have_no_axis_of_channels(shape):
    levels = torch.randint(256, shape, dtype=torch.uint8)
    assert torch.equal(pixels(levels.numpy(), (1, 4, 6)).flatten(), levels.flatten())
    assert pixels(levels, (1, 4, 6)).shape[1:] == (1, 4, 6)
    assert torch.equal(pixels(Image.fromarray(levels.numpy().reshape(-1, 6)[:4]), (1, 4, 6))[0, 0].flatten(),
                       levels.flatten()[:24])  # fmt: skip


BAD = {
    "another size": np.zeros((2, 9, 9, 3), np.uint8),
    "SVHN's own order": np.zeros((8, 8, 3, 5), np.uint8),
    "grey for colour": np.zeros((2, 8, 8), np.uint8),
    "no image": np.zeros((0, 3, 8, 8), np.uint8),
    "an empty list": [],
    "flat": np.zeros((2, 192), np.uint8),
    "integers": np.zeros((2, 3, 8, 8), np.int64),
    "beyond 1": np.full((2, 3, 8, 8), 7.5),
    "not a number": np.full((2, 3, 8, 8), np.nan),
    "boolean": np.zeros((2, 3, 8, 8), bool),
    "a mixed list": [np.zeros((3, 8, 8), np.uint8), np.full((3, 8, 8), 0.3)],
    "words": "picture.png",
    "nothing": None,
    "PIL with alpha": Image.new("RGBA", (8, 8)),
    "PIL of another size": Image.new("RGB", (9, 8)),
}


@pytest.mark.parametrize("name", BAD)
def test_other_images_are_refused_in_a_line(name):
    with pytest.raises(UserError, match=r"^expected .*got") as error:
        pixels(BAD[name], (3, 8, 8))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("method", ["encode", "reconstruct", "log_prob", "bits_per_dim"])
def test_every_method_refuses_them(method, run):
    with pytest.raises(UserError, match=r"^expected .*got"):
        getattr(run, method)(np.zeros((1, 4, 9, 9), np.uint8))


def test_an_order_that_cannot_be_told_is_refused():
    with pytest.raises(UserError, match="both orders fit"):
        pixels(np.zeros((2, 3, 3, 3), np.uint8), (3, 3, 3))


@pytest.mark.parametrize(
    "call",
    [
        lambda run: run.decode(torch.zeros(2, run.latent_dim + 1)),
        lambda run: run.decode(torch.zeros(run.latent_dim)),
        lambda run: run.decode(torch.zeros(2, run.latent_dim).long()),
        lambda run: run.sample(0),
        lambda run: run.sample(2, temperature=-1.0),
        lambda run: run.log_prob(np.zeros((1, *run.image_shape), np.uint8), k=0),
    ],
)
def test_other_arguments_are_refused_in_a_line(call, run):
    with pytest.raises(UserError, match=r"^expected .*got"):
        call(run)


def test_the_callers_generators_and_images_are_left_alone(folder, test_images):
    given = test_images.clone()

    def everything():
        run = svhn_vae.load_run(folder.path)
        run.decode(run.encode(given))
        run.sample(3), run.reconstruct(given), run.log_prob(given, k=2), run.bits_per_dim(given)

    torch.manual_seed(3)
    np.random.seed(3)
    before = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    everything()
    assert torch.equal(torch.random.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])
    assert torch.equal(given, test_images)


def test_what_is_no_density_has_no_score(run, test_images, monkeypatch):
    monkeypatch.setattr(type(run.vae.variance), "is_density", False)
    for score in (functools.partial(run.log_prob, k=2), run.bits_per_dim):
        with pytest.raises(UserError, match="is no density"):
            score(test_images)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_same_to_rounding(folder, run, test_images):
    there = svhn_vae.load_run(folder.path, device="cuda")
    assert there.vae.device.type == "cuda"
    for method in ("encode", "reconstruct", "bits_per_dim"):
        found = getattr(there, method)(test_images)
        assert found.device.type == "cpu"
        torch.testing.assert_close(found, getattr(run, method)(test_images), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(there.sample(5), run.sample(5), rtol=1e-3, atol=1e-3)
