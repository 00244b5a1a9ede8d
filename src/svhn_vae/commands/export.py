"""Exports the model of a finished run, with a card: python src/export.py run=outputs/STUDY/RUN to=FOLDER

The new folder has weights, configuration, result, pictures, a README.md made from them, and the decoder as a graph from
z (N, Z) to images (N, C, H, W) in [0, 1]: decoder.pt2 of torch.export and decoder.onnx. `svhn_vae.load_run` reads it.
"""

import importlib.util
import logging
import math
import secrets
import shlex
import shutil
import warnings
from pathlib import Path
from typing import Any

import jinja2
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from svhn_vae.errors import UserError, how_to_install
from svhn_vae.evaluation.finished_run import FinishedRun
from svhn_vae.experiment.build import make
from svhn_vae.experiment.loading import BASES, load_run, trusted
from svhn_vae.experiment.preflight import from_command_line
from svhn_vae.model.elbo import bits_per_dim
from svhn_vae.report.collect import FRECHET, METRIC, read_runs, variants
from svhn_vae.report.statistics import Estimate, error_of_mean, estimate, in_blocks, with_error
from svhn_vae.runs.files import PARTIAL, write_json
from svhn_vae.runs.folder import RunFolder
from svhn_vae.runs.identity import is_decisive
from svhn_vae.runs.tensors import load_tensors
from svhn_vae.training.checkpoints import save_model

SHOWN = ("samples", "reconstructions")
TOLERANCE = 1e-4  # of a graph's images, which lie in [0, 1]
CARD = Path(__file__).with_name("card.md.j2")
PLACES, QUOTES = ("/", "~"), "'\""  # how a path of one machine begins, and what may stand before it
MODULES = ("onnx", "onnxscript", "onnxruntime")


class Decoder(nn.Module):
    """z (N, Z) -> images x (N, C, H, W) in [0, 1]: the decoder's mean, through the inverse of the coordinates."""

    def __init__(self, run: FinishedRun) -> None:
        super().__init__()
        self.vae = run.vae

    def forward(self, z: Tensor) -> Tensor:
        return self.vae.decode_mean(z).clamp(0, 1)


def export() -> None:
    exported(from_command_line("export", __doc__))


def exported(cfg: DictConfig) -> None:
    for name in ("run", "to"):
        if cfg[name] is None:
            raise UserError(f"{name}=FOLDER is missing: run=outputs/STUDY/RUN to=FOLDER")
    if cfg.onnx and (missing := [name for name in MODULES if importlib.util.find_spec(name) is None]):
        raise UserError(f"decoder.onnx needs {', '.join(missing)}: {how_to_install('export')}, or onnx=false")
    folder, to = RunFolder(Path(cfg.run)), Path(cfg.to)
    if to.exists():
        raise UserError(f"to={to} is there already: name a new folder")
    run = load_run(folder.path)
    if not run.result:
        raise FileNotFoundError(f"{folder.path} is not a finished run: there is no result.json")
    beside = to.with_name(f"{to.name}.{secrets.token_hex(8)}{PARTIAL}")
    try:
        write_all(run, folder, beside, with_onnx=cfg.onnx)
        beside.rename(to)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    print(to, flush=True)


def write_all(run: FinishedRun, folder: RunFolder, to: Path, *, with_onnx: bool) -> None:
    (to / "figures").mkdir(parents=True)
    save_model(run.vae, RunFolder(to).exported)
    config = trusted(folder.config, *BASES)
    OmegaConf.save(OmegaConf.create(without_places(OmegaConf.to_container(config))), RunFolder(to).config)
    write_json(to / "result.json", without_places(run.result))
    pictures = [name for name in SHOWN if (folder.figures / f"{name}.png").is_file()]
    for name in pictures:
        shutil.copyfile(folder.figures / f"{name}.png", to / "figures" / f"{name}.png")
    graphs = write_graphs(run, to, with_onnx=with_onnx)
    licence = make("data", config.data).licence
    (to / "README.md").write_text(card(run, folder, licence, pictures, graphs), encoding="utf-8")


def without_places(content: Any) -> Any:
    """The same settings and figures, with None for each path that means something on one machine alone."""
    if isinstance(content, dict):
        return {key: without_places(value) for key, value in content.items()}
    if isinstance(content, list):
        return [without_places(value) for value in content]
    return None if isinstance(content, str) and content.startswith(PLACES) else content


def write_graphs(run: FinishedRun, to: Path, *, with_onnx: bool) -> list[str]:
    """Returns their names. Raises RuntimeError if a graph's images are not the decoder's to TOLERANCE."""
    decoder, z = Decoder(run).eval(), torch.randn(3, run.latent_dim, generator=torch.Generator().manual_seed(0))
    num_images = torch.export.Dim("num_images", min=1)
    with torch.no_grad():
        graph = torch.export.export(decoder, (z,), dynamic_shapes={"z": {0: num_images}})
    torch.export.save(graph, to / "decoder.pt2")
    made = {"decoder.pt2": torch.export.load(to / "decoder.pt2").module()}
    if with_onnx:
        made["decoder.onnx"] = onnx_graph(graph, to / "decoder.onnx")
    for name, decode in made.items():
        error = max((decode(part) - run.decode(part)).abs().max().item() for part in (z, z[:1], z.repeat(5, 1)))
        if not error <= TOLERANCE:
            raise RuntimeError(f"{name} differs from the decoder by {error:.2g}, expected at most {TOLERANCE:g}")
    return list(made)


def onnx_graph(graph: torch.export.ExportedProgram, path: Path) -> Any:
    """Writes it; returns what onnxruntime makes of the file, a function of z."""
    import onnxruntime

    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it says that torchvision is not there
    with warnings.catch_warnings(action="ignore"):  # of what torch calls itself
        torch.onnx.export(graph, f=path, input_names=["z"], output_names=["x"], external_data=False, verbose=False)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda z: torch.from_numpy(session.run(None, {"z": z.numpy()})[0])


# --- the card -------------------------------------------------------------------------------------------------------


def card(run: FinishedRun, folder: RunFolder, licence: str, pictures: list[str], graphs: list[str]) -> str:
    environment = jinja2.Environment(keep_trailing_newline=True, undefined=jinja2.StrictUndefined)
    return environment.from_string(CARD.read_text(encoding="utf-8")).render(
        result=run.result,
        choices={group: choice for group, choice in run.result["choices"].items() if is_decisive(group)},
        shape=run.image_shape,
        latent_dim=run.latent_dim,
        licence=licence,
        figures=figures(run, folder),
        pictures=pictures,
        graphs=graphs,
        command=command(folder),
    )


def figures(run: FinishedRun, folder: RunFolder) -> dict[str, str]:
    """Both sides of the run, as text: the density's and the pictures'."""
    metrics, of_seeds = run.result["metrics"], over_seeds(folder)
    found = {
        "bits/dim (test images)": with_interval(over_images(run, folder), 4),
        "bits/dim, mean (seeds of its study)": with_interval(of_seeds[METRIC], 4),
        "bits/dim by the importance-weighted bound": number(metrics.get("test/iw_bits_per_dim"), 4),
        "Frechet distance of samples": number(metrics.get(FRECHET), 2),
        "Frechet distance of samples, mean (seeds of its study)": with_interval(of_seeds[FRECHET], 2),
        "Frechet distance of real validation images": number(metrics.get("validation/frechet"), 2),
    }
    return {name: value for name, value in found.items() if value}


def over_images(run: FinishedRun, folder: RunFolder) -> Estimate:
    """The mean over test images, whose neighbours show the same pictures; a single number where they are not kept."""
    path, mean = folder.path / "per_image.safetensors", run.result["metrics"].get(METRIC, math.nan)
    if not path.is_file() or run.vae.num_dims is None:
        return Estimate(mean, math.nan, math.nan, 1)
    bits = bits_per_dim(load_tensors(path)["elbo"].double(), run.vae.num_dims).numpy()
    return with_error(mean, *error_of_mean(in_blocks(bits)), len(bits))


def over_seeds(folder: RunFolder) -> dict[str, Estimate]:
    """Of the runs of its study that differ from it in their seed alone; empty where it is the only one."""
    groups = variants(read_runs(folder.path.resolve().parent))
    own = [group for group in groups if folder.path.resolve().name in [run.name for run in group.runs]]
    scores = {name: list(own[0].scores(name).values()) if own else [] for name in (METRIC, FRECHET)}
    return {name: estimate(found if len(found) > 1 else []) for name, found in scores.items()}


def number(value: float | None, digits: int) -> str:
    return "" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def with_interval(found: Estimate, digits: int) -> str:
    """Empty where there is nothing to be said."""
    if not math.isfinite(found.mean):
        return ""
    reach = f" ± {found.high - found.mean:.{digits}f} ({found.num:,})" if found.num > 1 else ""
    return f"{found.mean:.{digits}f}{reach}"


def command(folder: RunFolder) -> str:
    """As it was typed, but for places of the machine; the commit in the card has the defaults."""
    path = folder.path / ".hydra" / "overrides.yaml"
    words = [str(word).partition("=") for word in OmegaConf.load(path)] if path.is_file() else []
    typed = (key + sep + ("FOLDER" if value.strip(QUOTES).startswith(PLACES) else value) for key, sep, value in words)
    return f"python src/train.py {shlex.join(typed)}"
