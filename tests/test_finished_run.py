"""A finished run in a program's hands: `svhn_vae.load_run` answers what the run's result says. What `export` writes
answers the same, decodes elsewhere, and trusts nobody."""

import functools
import importlib.util
import json
import re
import shlex
import shutil
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

import svhn_vae
from conftest import CONF, composed, options
from stress import malice
from svhn_vae.commands import export as exporting
from svhn_vae.commands.export import Decoder, without_places
from svhn_vae.data.batches import centred, dequantise
from svhn_vae.data.digits import draw_digits
from svhn_vae.errors import Damaged, UserError
from svhn_vae.evaluation.finished_run import FinishedRun, pixels
from svhn_vae.experiment.attempt import run_job
from svhn_vae.experiment.build import Request, make
from svhn_vae.experiment.configuration import choices
from svhn_vae.experiment.loading import load_dataset
from svhn_vae.model.variance.head import VarianceHead
from svhn_vae.pictures.sheet import grid
from svhn_vae.runs.folder import RunFolder
from svhn_vae.runs.tensors import load_tensors
from test_lit import fitted

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
        outcome = run_job(Request(own, choices(cfg.hydra), folder), lambda: None)
    assert outcome.status == "done", outcome.reason
    return folder


@pytest.fixture(scope="module")
def colour(tmp_path_factory):
    return finished(tmp_path_factory.mktemp("colour"), 3)


@pytest.fixture(scope="module", params=["colour", "grey"])
def folder(request, tmp_path_factory):
    if request.param == "colour":
        return request.getfixturevalue("colour")
    return finished(tmp_path_factory.mktemp("grey"), 1)


@pytest.fixture(scope="module")
def run(folder):
    return svhn_vae.load_run(folder.path)


@pytest.fixture(scope="module")
def test_images(folder):
    return images_of(folder.path)


def images_of(path: Path, data_root: str | None = None) -> torch.Tensor:
    return load_dataset(path, data_root, other_images=False).test.images


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


def test_every_form_of_images_is_the_same_images_and_floating_point_is_taken_as_it_is(run, test_images):
    z, bits = run.encode(test_images), run.bits_per_dim(test_images)
    first = run.encode(test_images[:1])
    for form, given in spellings(test_images).items():
        assert torch.equal(run.encode(given), z), form
        assert torch.equal(run.bits_per_dim(given), bits), form
        assert torch.equal(run.encode(given[:1]), first), form
        assert torch.equal(run.encode(given[0]), first), form
    x = dequantise(test_images, 5)
    due = run.vae.networks(run.vae.representation(x).y, torch.zeros(len(x), run.latent_dim)).mean.detach()
    assert torch.equal(run.encode(x), due)
    assert not torch.equal(run.log_prob(x, k=2), run.log_prob(test_images, k=2))


BAD = {
    "another size": np.zeros((2, 9, 9, 3), np.uint8),
    "SVHN's own order": np.zeros((8, 8, 3, 5), np.uint8),
    "grey for colour": np.zeros((2, 8, 8), np.uint8),
    "no image": np.zeros((0, 3, 8, 8), np.uint8),
    "an empty list": [],
    "integers": np.zeros((2, 3, 8, 8), np.int64),
    "16 bits": torch.zeros(2, 3, 8, 8).half(),
    "brain floats": torch.zeros(2, 3, 8, 8).bfloat16(),
    "long doubles": np.zeros((2, 3, 8, 8), np.longdouble),
    "complex array": np.zeros((2, 3, 8, 8), complex),
    "complex tensor": torch.zeros(2, 3, 8, 8, dtype=torch.complex64),
    "booleans": torch.zeros(2, 3, 8, 8, dtype=torch.bool),
    "nothing": None,
    "beyond 1": np.full((2, 3, 8, 8), 7.5),
    "not a number": np.full((2, 3, 8, 8), np.nan),
    "a mixed list": [np.zeros((3, 8, 8), np.uint8), np.full((3, 8, 8), 0.3)],
    "words": "picture.png",
    "PIL with alpha": Image.new("RGBA", (8, 8)),
}


@pytest.mark.parametrize("name", BAD)
def test_other_images_are_refused_in_a_line(name):
    with pytest.raises(UserError, match=r"^expected .*got") as error:
        pixels(BAD[name], (3, 8, 8))
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="both orders fit"):
        pixels(np.zeros((2, 3, 3, 3), np.uint8), (3, 3, 3))
    for shape in ((4, 6), (5, 4, 6), (5, 1, 4, 6), (5, 4, 6, 1)):  # grey images may have no axis of channels
        levels = torch.randint(256, shape, dtype=torch.uint8)
        assert torch.equal(pixels(levels.numpy(), (1, 4, 6)).flatten(), levels.flatten())


def test_other_arguments_are_refused_in_a_line(colour):
    run = svhn_vae.load_run(colour.path)
    other, own = np.zeros((1, 4, 9, 9), np.uint8), np.zeros((1, *run.image_shape), np.uint8)
    of_images = (run.encode, run.reconstruct, run.log_prob, run.bits_per_dim)
    for call in (
        *(functools.partial(method, other) for method in of_images),
        lambda: run.decode(torch.zeros(2, run.latent_dim + 1)),
        lambda: run.decode(torch.zeros(run.latent_dim)),
        lambda: run.decode(torch.zeros(0, run.latent_dim)),
        lambda: run.decode(torch.zeros(2, run.latent_dim).long()),
        lambda: run.decode(torch.zeros(2, run.latent_dim).cfloat()),
        lambda: run.decode("a"),
        lambda: run.decode(None),
        *(functools.partial(run.sample, n) for n in (0, 2.5, "a", None, True, np.array([2, 3]))),
        *(functools.partial(run.sample, 2, temperature=value) for value in (-1.0, "a", None, np.nan, np.inf)),
        *(functools.partial(run.sample, 2, seed=value) for value in (-1, 1.5, "a", None)),
        *(functools.partial(run.log_prob, own, k=value) for value in (0, 2.5, "a", None)),
        *(functools.partial(svhn_vae.load_run, colour.path, device=value) for value in ("cuda:99", "gpu", 2.5)),
    ):
        with pytest.raises(UserError, match=r"^expected [^\n]*got[^\n]*$"):
            call()
    assert torch.equal(run.sample(np.int64(2), np.uint8(3), np.float32(1)), run.sample(2, 3, 1))


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


# --- a model to take along ------------------------------------------------------------------------------------------


def settings(**given) -> OmegaConf:
    return OmegaConf.merge(OmegaConf.load(CONF / "export.yaml"), given)


@pytest.fixture(scope="module")
def exported(colour):
    to = colour.path.parent / "model"
    exporting.exported(settings(run=str(colour.path), to=str(to)))
    return to


def test_an_exported_folder_answers_as_its_run(exported, colour):
    found, run = svhn_vae.load_run(exported), svhn_vae.load_run(colour.path)
    images = images_of(colour.path)
    assert torch.equal(found.encode(images), run.encode(images))
    assert torch.equal(found.sample(5, seed=2), run.sample(5, seed=2))
    assert torch.equal(found.log_prob(images, k=3), run.log_prob(images, k=3))
    assert found.result["metrics"] == run.result["metrics"]
    assert torch.equal(images_of(exported, run.result["config"]["data"]["root"]), images)
    onnx.checker.check_model(exported / "decoder.onnx", full_check=True)
    session = onnxruntime.InferenceSession(exported / "decoder.onnx", providers=["CPUExecutionProvider"])
    graph = torch.export.load(exported / "decoder.pt2").module()
    for num in (1, 2, 7):
        z = torch.randn(num, run.latent_dim)
        due = run.decode(z)
        torch.testing.assert_close(graph(z), due, rtol=0, atol=1e-4)
        np.testing.assert_allclose(session.run(["x"], {"z": z.numpy()})[0], due, rtol=0, atol=1e-4)


def test_the_card_has_both_sides_and_what_made_them_and_no_path(exported, colour):
    given = {"root": "/home/a", "cache": "~/b", "name": "a/b", "list": [1, "/c", {"d": "~"}], "none": None}
    due = {"root": None, "cache": None, "name": "a/b", "list": [1, None, {"d": None}], "none": None}
    assert without_places(given) == due
    card, result = (exported / "README.md").read_text(encoding="utf-8"), colour.result
    metrics, data = result["metrics"], result["data"]
    assert re.search(rf"bits/dim \(test images\) \| {metrics['test/bits_per_dim']:.4f} ± \d\.\d+ \(30\)", card)
    assert "seeds of its study" not in card  # it is the only one
    assert all(str(fact) in card for fact in (data["digest"], data["num_train"], result["commit"]))
    assert "ask whoever made them" in card
    for picture in re.findall(r"\]\((figures/.*)\)", card):
        assert (exported / picture).read_bytes() == (colour.path / picture).read_bytes()
    assert card.count("](figures/") == 2
    made = card.split("```bash")[1]
    assert "python src/train.py data=images" in made
    assert made.split("```")[0].rstrip().endswith("data.root=FOLDER")
    for path in exported.rglob("*"):  # a place on this machine is nobody's business
        if path.suffix in (".md", ".json", ".yaml"):
            assert str(colour.path.parent) not in path.read_text(encoding="utf-8"), path


def test_the_cards_command_is_what_was_typed_but_for_places(tmp_path):
    path = tmp_path / ".hydra" / "overrides.yaml"
    path.parent.mkdir()
    typed = ["~callbacks.pictures", "+a=b", "data.root='/my data'", "question='a b=c'"]
    path.write_text(json.dumps(typed), encoding="utf-8")
    due = ["python", "src/train.py", *typed[:2], "data.root=FOLDER", typed[3]]
    assert shlex.split(exporting.command(RunFolder(tmp_path))) == due


def test_what_cannot_be_exported_says_so_and_leaves_no_folder(colour, tmp_path, monkeypatch):
    given = {"run": str(colour.path), "to": str(tmp_path / "to")}
    for changed, message in (({"run": None}, "run=FOLDER is missing"), ({"to": None}, "to=FOLDER is missing"),
                             ({"to": "."}, "is there already")):  # fmt: skip
        with pytest.raises(UserError, match=message):
            exporting.exported(settings(**given | changed))
    with monkeypatch.context() as patch:
        patch.setattr(importlib.util, "find_spec", lambda name: None)
        with pytest.raises(UserError, match=r"pip install .*\[export\].*onnx=false"):
            exporting.exported(settings(**given))
    monkeypatch.setattr(Decoder, "forward", lambda self, z: self.vae.decode_mean(z).clamp(0, 1) * 0.999)
    with pytest.raises(RuntimeError, match="differs from the decoder"):
        exporting.exported(settings(**given, onnx=False))
    assert not list(tmp_path.iterdir())


def is_a_graph(module: torch.nn.Module, *shape: int) -> None:
    """Of any number of latents, or of the parameters of images."""
    number = torch.export.Dim("number", min=1)
    with torch.no_grad():
        graph = torch.export.export(module, (torch.randn(3, *shape),), dynamic_shapes=({0: number},)).module()
        for num in (1, 5):
            given = torch.randn(num, *shape)
            torch.testing.assert_close(graph(given), module(given), rtol=0, atol=1e-5)


@pytest.mark.parametrize("model", options("model"))
def test_every_decoder_is_a_graph(model):
    own = ["experiment=spectral"] if model == "spectral" else [f"model={model}", "variance=relu_eps"]
    run = FinishedRun(fitted(*own, "network_scale=0.03", "data=synthetic").vae, {})
    is_a_graph(Decoder(run).eval(), run.latent_dim)


class Mean(torch.nn.Module):
    def __init__(self, head: VarianceHead) -> None:
        super().__init__()
        self.head = head

    def forward(self, params: torch.Tensor) -> torch.Tensor:
        return self.head(params).mean


@pytest.mark.parametrize("variance", options("variance"))
def test_every_heads_mean_is_in_it(variance):
    shape = (3, 8, 8)
    head = make("variance", composed(f"variance={variance}").variance, event_shape=torch.Size(shape))
    is_a_graph(Mean(head).eval(), head.params_per_element, *shape)


# --- a stranger's folder --------------------------------------------------------------------------------------------


def test_its_weights_are_not_unpickled_and_checked(exported, tmp_path):
    stranger = shutil.copytree(exported, tmp_path / "stranger")
    path = stranger / "model.safetensors"
    content = path.read_bytes()
    for bad in (*malice.pickles(tmp_path).values(), content[:-5], content[:-1] + bytes([content[-1] ^ 1])):
        path.write_bytes(bad)
        with pytest.raises(Damaged):
            svhn_vae.load_run(stranger)
    assert not (tmp_path / malice.MARK).exists()
    path.write_bytes(content)
    config = OmegaConf.load(stranger / "config.yaml")
    config.pca.n_components = 19
    OmegaConf.save(config, stranger / "config.yaml")
    with pytest.raises(Damaged, match="of the shape"):  # another model's
        svhn_vae.load_run(stranger)
