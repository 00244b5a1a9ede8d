"""`export`: the model of a finished run in one folder, which loads, decodes elsewhere, and trusts nobody."""

import functools
import importlib.util
import re
import shutil

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from omegaconf import OmegaConf

import svhn_vae
from conftest import CONF, composed, options
from stress import malice
from svhn_vae.commands import export as exporting
from svhn_vae.commands.export import Decoder, without_places
from svhn_vae.errors import Damaged, UserError
from svhn_vae.evaluation.finished_run import FinishedRun
from svhn_vae.experiment.build import make
from svhn_vae.experiment.loading import BASES, load_dataset, registered, shipped
from svhn_vae.model.variance.head import VarianceHead
from test_finished_run import finished
from test_lit import fitted


def settings(**given) -> OmegaConf:
    return OmegaConf.merge(OmegaConf.load(CONF / "export.yaml"), given)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return finished(tmp_path_factory.mktemp("finished"), 3)


@pytest.fixture(scope="module")
def run(folder):
    return svhn_vae.load_run(folder.path)


@pytest.fixture(scope="module")
def test_images(folder):
    return load_dataset(folder.path, None, other_images=False).test.images


@pytest.fixture(scope="module")
def exported(folder):
    to = folder.path.parent / "model"
    exporting.exported(settings(run=str(folder.path), to=str(to)))
    return to


def test_an_exported_folder_answers_as_its_run(exported, run, test_images):
    found = svhn_vae.load_run(exported)
    assert torch.equal(found.encode(test_images), run.encode(test_images))
    assert torch.equal(found.sample(5, seed=2), run.sample(5, seed=2))
    assert torch.equal(found.log_prob(test_images, k=3), run.log_prob(test_images, k=3))
    assert found.result["metrics"] == run.result["metrics"]
    dataset = load_dataset(exported, found_root(run), other_images=False)
    assert torch.equal(dataset.test.images, test_images)


def found_root(run) -> str:
    return run.result["config"]["data"]["root"]


def test_both_graphs_decode_any_number_of_latents(exported, run):
    onnx.checker.check_model(exported / "decoder.onnx", full_check=True)
    session = onnxruntime.InferenceSession(exported / "decoder.onnx", providers=["CPUExecutionProvider"])
    graph = torch.export.load(exported / "decoder.pt2").module()
    for num in (1, 2, 7):
        z = torch.randn(num, run.latent_dim)
        due = run.decode(z)
        torch.testing.assert_close(graph(z), due, rtol=0, atol=1e-4)
        np.testing.assert_allclose(session.run(["x"], {"z": z.numpy()})[0], due, rtol=0, atol=1e-4)


def test_the_card_has_both_sides_and_what_made_them(exported, run, folder):
    card = (exported / "README.md").read_text(encoding="utf-8")
    metrics, data = run.result["metrics"], run.result["data"]
    assert re.search(rf"bits/dim \(test images\) \| {metrics['test/bits_per_dim']:.4f} ± \d\.\d+ \(30\)", card)
    assert all(str(fact) in card for fact in (data["digest"], data["num_train"], run.result["commit"]))
    assert "ask whoever made them" in card
    for picture in re.findall(r"\]\((figures/.*)\)", card):
        assert (exported / picture).read_bytes() == (folder.path / picture).read_bytes()
    assert card.count("](figures/") == 2
    made = card.split("```bash")[1]
    assert "python src/train.py data=images" in made
    assert made.split("```")[0].rstrip().endswith("data.root=FOLDER")
    for path in exported.rglob("*"):  # a place on this machine is nobody's business
        if path.suffix in (".md", ".json", ".yaml"):
            assert str(folder.path.parent) not in path.read_text(encoding="utf-8"), path


def test_paths_are_left_out_and_nothing_else():
    given = {"root": "/home/a", "cache": "~/b", "name": "a/b", "list": [1, "/c", {"d": "~"}], "none": None}
    assert without_places(given) == {"root": None, "cache": None, "name": "a/b", "list": [1, None, {"d": None}],
                                     "none": None}  # fmt: skip


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"to": "x"}, "run=FOLDER is missing"),
        ({"run": "x"}, "to=FOLDER is missing"),
        ({"run": "x", "to": "."}, "is there already"),
    ],
)
def test_what_cannot_be_exported_says_so(given, message):
    with pytest.raises(UserError, match=message):
        exporting.exported(settings(**given))


def test_without_the_extra_it_says_what_to_install(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"svhn-vae\[export\].*onnx=false"):
        exporting.exported(settings(run=str(folder.path), to=str(tmp_path / "to")))
    assert not list(tmp_path.iterdir())


def test_a_graph_that_differs_leaves_no_folder(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(Decoder, "forward", lambda self, z: self.vae.decode_mean(z).clamp(0, 1) * 0.999)
    with pytest.raises(RuntimeError, match="differs from the decoder"):
        exporting.exported(settings(run=str(folder.path), to=str(tmp_path / "to"), onnx=False))
    assert not list(tmp_path.iterdir())


# --- every decoder --------------------------------------------------------------------------------------------------


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


@pytest.fixture
def stranger(exported, tmp_path):
    return shutil.copytree(exported, tmp_path / "stranger")


def test_nothing_of_a_strangers_configuration_is_called(stranger, tmp_path):
    """Our own functions, nested in each group; test_loading.py tries all others on the same reader."""
    config = OmegaConf.to_container(OmegaConf.load(stranger / "config.yaml"))
    payloads = {name: text for name, text in malice.configurations(config, tmp_path).items() if name.startswith("ours")}
    assert len(payloads) >= len(BASES)
    for name, text in payloads.items():
        (stranger / "config.yaml").write_text(text, encoding="utf-8")
        refused = []
        for read in (svhn_vae.load_run, lambda path: load_dataset(path, None, other_images=False)):
            try:
                read(stranger)
            except UserError as error:
                refused.append(str(error))
        assert refused, name
        assert "\n" not in "".join(refused)
        assert not (tmp_path / malice.MARK).exists(), name


@pytest.mark.parametrize("group", BASES)
def test_a_nested_target_is_refused(group, stranger):
    config = OmegaConf.load(stranger / "config.yaml")
    inner = {"_target_": next(iter(registered(shipped(group)).values()))}  # even one of its own group
    config[group] = {**config[group], "anything": {"deep": [inner]}}
    OmegaConf.save(config, stranger / "config.yaml")
    read = functools.partial(load_dataset, data_root=None, other_images=False) if group == "data" else svhn_vae.load_run
    with pytest.raises(UserError, match="must hold plain values below its class"):
        read(stranger)


def test_its_weights_are_not_unpickled_and_checked(stranger, tmp_path):
    path = stranger / "model.safetensors"
    content = path.read_bytes()
    for bad in (*malice.pickles(tmp_path).values(), content[:-5], content[:-1] + bytes([content[-1] ^ 1])):
        path.write_bytes(bad)
        with pytest.raises(Damaged):
            svhn_vae.load_run(stranger)
    assert not (tmp_path / malice.MARK).exists()


def test_another_models_weights_are_refused(stranger):
    config = OmegaConf.load(stranger / "config.yaml")
    config.pca.n_components = 19
    OmegaConf.save(config, stranger / "config.yaml")
    with pytest.raises(Damaged, match="of the shape"):
        svhn_vae.load_run(stranger)
