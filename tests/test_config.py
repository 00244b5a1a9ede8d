"""Every YAML file composes, and every one that names a class builds it."""

import pytest

from conftest import CONF, REPO, composed, options
from svhn_vae.errors import UserError
from svhn_vae.experiment.build import build_module, build_trainer, build_vae, make, try_build
from svhn_vae.experiment.configuration import help_text
from svhn_vae.runs.folder import RunFolder
from test_variance import accepts

GROUPS = sorted(path.name for path in CONF.iterdir() if path.is_dir())
CHOICES = [(group, choice) for group in GROUPS for choice in options(group)]
# What a group's choices, or a single one, are built with where the defaults do not fit.
PARTNERS = {
    "pca": ("model=dense",),
    "variance": ("model=conv",),  # a head may need images
    ("variance", "spectral"): (),  # it chooses its own
    ("model", "spectral"): ("variance=spectral",),
    ("data", "images"): (f"data.root={REPO / 'docs' / 'images'}", "data.size=32"),
}
SMALL = ("network_scale=0.03125", "pca.n_components=20")


@pytest.mark.parametrize(("group", "choice"), CHOICES)
def test_choice_builds_a_whole_run(group, choice, tmp_path):
    """Everything but the data, which the data's own tests read."""
    chosen = [f"{group}={choice}", *PARTNERS.get((group, choice), PARTNERS.get(group, ()))]
    truncated = composed(*chosen).hydra.runtime.choices.pca in ("default", "dct")
    cfg = composed(*chosen, *(SMALL if truncated else SMALL[:1]))
    module = build_module(cfg)
    optimizer = module.configure_optimizers()
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    assert sum(len(parameters["params"]) for parameters in optimizer.param_groups) == len(trainable)
    trainer = build_trainer(cfg, RunFolder(tmp_path), [])
    assert trainer.max_epochs == cfg.trainer.max_epochs
    assert "train" in make("data", cfg.data).splits


def test_every_file_describes_itself_in_the_help():
    text = help_text()
    for group, choice in CHOICES:
        section = text.split(f"\n{group}=\n")[1].split("\n\n")[0]
        [line] = [line for line in section.splitlines() if line.startswith(f"  {choice} ")]
        assert len(line.split(maxsplit=1)[1]) > 10, line


@pytest.mark.parametrize("variance", options("variance"))
def test_every_head_goes_with_a_pca_or_says_in_a_line_that_it_needs_images(variance):
    cfg = composed("pca=default", f"variance={variance}", *SMALL)
    if accepts(variance, (20,)):
        build_vae(cfg)
        return
    with pytest.raises(UserError, match=r"needs .*, got .*\(20,\).*: use ") as caught:
        build_vae(cfg)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("model", "variance"), [("dense", "bernoulli"), ("conv", "logistic_mixture")])
def test_a_head_of_pixel_values_chooses_the_pixels_as_they_are(model, variance):
    cfg = composed(f"model={model}", f"variance={variance}", "network_scale=0.03125")
    assert cfg.hydra.runtime.choices.pca == "unit_pixels"
    assert not build_vae(cfg).representation.use_scale
    with pytest.raises(UserError, match="scaled: use pca=unit_pixels"):
        build_vae(composed(f"model={model}", f"variance={variance}", "pca=none", "network_scale=0.03125"))


def test_no_argument_is_the_real_thing():
    cfg = composed()
    chosen = cfg.hydra.runtime.choices
    assert (chosen.data, chosen.model, cfg.pca.n_components, cfg.model.width) == ("svhn", "dense", 500, 2048)
    assert (cfg.batch_size, cfg.optimizer.lr, cfg.trainer.max_epochs) == (1000, 1e-4, 2000)


def test_a_preset_does_not_undo_what_the_user_sets():
    cfg = composed("trainer=demo", "batch_size=77", "optimizer.lr=0.5", "trainer.max_epochs=3")
    assert (cfg.batch_size, cfg.optimizer.lr, cfg.trainer.max_epochs) == (77, 0.5, 3)


def test_weights_depend_on_the_seed_alone():
    first, again, other = (build_vae(composed(f"seed={seed}", *SMALL)).networks for seed in (0, 0, 1))
    weights = [networks.mean.weight for networks in (first, again, other)]
    assert (weights[0] == weights[1]).all()
    assert not (weights[0] == weights[2]).all()


def test_what_is_built_without_data_takes_no_memory(monkeypatch):
    monkeypatch.setattr("svhn_vae.data.sources.Source.load", lambda self: pytest.fail("read"))
    try_build(composed("network_scale=50"))  # 120 GB
