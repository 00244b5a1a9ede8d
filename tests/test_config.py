"""Every YAML file composes, and every one that names a class builds it."""

import pytest
from hydra.errors import ConfigCompositionException
from hydra.utils import instantiate

from conftest import CONF, composed, options
from svhn_vae.build import build_module, build_trainer, build_vae
from svhn_vae.commandline import help_text
from svhn_vae.runs import RunFolder, run_name

GROUPS = sorted(path.name for path in CONF.iterdir() if path.is_dir())
CHOICES = [(group, choice) for group in GROUPS for choice in options(group)]
SMALL = ("network_scale=0.03125", "pca.n_components=20")


@pytest.mark.parametrize(("group", "choice"), CHOICES)
def test_choice_builds_a_whole_run(group, choice, tmp_path):
    """Everything but the data, which the data's own tests read."""
    small = [setting for setting in SMALL if not (choice in ("conv", "none") and setting.startswith("pca"))]
    model = ["model=dense"] if group == "pca" else []
    cfg = composed(f"{group}={choice}", *model, *small)
    module = build_module(cfg)
    optimizer = module.configure_optimizers()
    assert sum(len(parameters["params"]) for parameters in optimizer.param_groups) == len(list(module.parameters()))
    trainer = build_trainer(cfg, RunFolder(tmp_path))
    assert trainer.max_epochs == cfg.trainer.max_epochs
    assert instantiate(cfg.data, _convert_="all").splits == ("train",)


@pytest.mark.parametrize(("group", "choice"), CHOICES)
def test_every_file_describes_itself_in_the_help(group, choice):
    section = help_text(CONF).split(f"\n{group}=\n")[1].split("\n\n")[0]
    [line] = [line for line in section.splitlines() if line.startswith(f"  {choice} ")]
    assert len(line.split(maxsplit=1)[1]) > 10


@pytest.mark.parametrize("pca", ["default"])
@pytest.mark.parametrize("variance", options("variance"))
def test_every_cell_of_the_ablation_builds(pca, variance):
    for whiten in ("false", "true"):
        build_vae(composed(f"pca={pca}", f"pca.whiten={whiten}", f"variance={variance}", *SMALL))


@pytest.mark.parametrize("variance", options("variance"))
def test_every_head_goes_with_convolutions(variance):
    build_vae(composed("model=conv", f"variance={variance}", "network_scale=0.0625"))


def test_no_argument_is_the_real_thing():
    cfg = composed()
    chosen = cfg.hydra.runtime.choices
    assert (chosen.data, chosen.model, cfg.pca.n_components, cfg.model.width) == ("svhn", "dense", 500, 2048)
    assert (cfg.batch_size, cfg.optimizer.lr, cfg.trainer.max_epochs) == (1000, 1e-4, 2000)


@pytest.mark.parametrize(
    ("override", "name"), [("variance.sigmaa=1", "sigmaa"), ("varience=fixed", "varience"), ("model=resnet", "resnet")]
)
def test_unknown_names_are_errors_that_name_them(override, name):
    with pytest.raises(ConfigCompositionException, match=name):
        composed(override)


def test_a_preset_does_not_undo_what_the_user_sets():
    cfg = composed("trainer=demo", "batch_size=77", "optimizer.lr=0.5", "trainer.max_epochs=3")
    assert (cfg.batch_size, cfg.optimizer.lr, cfg.trainer.max_epochs) == (77, 0.5, 3)


def test_weights_depend_on_the_seed_alone():
    first, again, other = (build_vae(composed(f"seed={seed}", *SMALL)).networks for seed in (0, 0, 1))
    weights = [networks.mean.weight for networks in (first, again, other)]
    assert (weights[0] == weights[1]).all()
    assert not (weights[0] == weights[2]).all()


def test_several_devices_are_refused_in_a_line(tmp_path):
    with pytest.raises(ValueError, match=r"trainer\.devices must be 1, got 2"):
        build_trainer(composed("trainer.devices=2"), RunFolder(tmp_path))


def test_the_run_folder_is_named_by_the_configuration():
    cfg = composed("variance=logvar", "pca.whiten=true", "seed=3", "study=try")
    folder = cfg.hydra.run.dir
    assert folder.startswith("outputs/try/dense-logvar-pca500-white-spectrum-seed3-")
    assert composed("seed=3", "pca.whiten=true", "variance=logvar", "study=try").hydra.run.dir == folder
    assert composed("seed=4", "pca.whiten=true", "variance=logvar", "study=try").hydra.run.dir != folder
    pixels = {"model": "conv", "variance": "shared", "pca": "none", "data": "synthetic"}
    assert run_name({"pca": {}, "seed": 0}, pixels).startswith("conv-shared-synthetic-pixels-seed0-")
