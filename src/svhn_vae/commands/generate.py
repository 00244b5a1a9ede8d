"""Draws pictures of a finished run: python src/generate.py run=outputs/STUDY/RUN pictures=[samples,analogies]

They lie in its figures/ folder and in its TensorBoard, under generated/.
"""

# ruff: noqa: E402
import signal

signal.signal(signal.SIGINT, signal.SIG_DFL)  # no traceback while libraries are imported

import math
from pathlib import Path

from omegaconf import DictConfig
from torch.utils.tensorboard import SummaryWriter

from svhn_vae.errors import UserError
from svhn_vae.experiment.loading import load_dataset, load_run
from svhn_vae.experiment.script import run_script
from svhn_vae.pictures.gallery import Subject, draw, possible
from svhn_vae.pictures.sheet import write_png
from svhn_vae.runs.folder import RunFolder


def generate(cfg: DictConfig) -> None:
    if cfg.run is None:
        raise UserError("run=FOLDER is missing, a finished run's folder: run=outputs/STUDY/RUN")
    if not isinstance(cfg.seed, int) or cfg.seed < 0:
        raise UserError(f"seed must be a whole number, 0 or more, got {cfg.seed}")
    if not isinstance(cfg.temperature, int | float) or not 0 <= cfg.temperature < math.inf:
        raise UserError(f"temperature must be 0 or more, got {cfg.temperature}")
    folder = RunFolder(Path(cfg.run))
    vae = load_run(folder.path).vae
    names = chosen(cfg.pictures, possible(vae))
    dataset = load_dataset(folder.path, cfg.data_root, other_images=False)
    subject = Subject(vae, dataset, folder.path.resolve().name, cfg.seed, cfg.temperature)
    with SummaryWriter(folder.path / "tensorboard") as board:
        for name in names:
            picture, path = draw(subject, name), folder.figures / f"{name}.png"
            write_png(picture, path)
            board.add_image(f"generated/{name}", picture, cfg.seed, dataformats="HWC")
            print(path, flush=True)


def chosen(wanted: str | list[str] | None, there_are: list[str]) -> list[str]:
    """Raises UserError if a picture is wanted that there is not."""
    names = [wanted] if isinstance(wanted, str) else list(wanted or there_are)
    for name in names:
        if name not in there_are:
            raise UserError(f"pictures must be among {', '.join(there_are)}, those of this run, got {name}")
    return names


def main() -> None:
    run_script("generate", __doc__, generate)


if __name__ == "__main__":
    main()
