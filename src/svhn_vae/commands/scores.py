"""What a person scores and looks at: evaluate and generate of a finished run, baselines and judge of a data set."""

import functools
from pathlib import Path

from hydra import compose
from omegaconf import DictConfig, ListConfig
from torch.utils.tensorboard import SummaryWriter

from svhn_vae.data.cache import cached_moments
from svhn_vae.data.module import EvaluationSplits
from svhn_vae.data.sources import Dataset, concatenate, digest
from svhn_vae.errors import DataError, UserError, counted
from svhn_vae.evaluation.baselines import CausalCode, bits_of_code, fitted, score
from svhn_vae.evaluation.judge import judge_once, why_no_judge
from svhn_vae.evaluation.samples import sample_scores
from svhn_vae.evaluation.score import Score, lacks, outliers, plain_outliers, score_run
from svhn_vae.experiment.build import cache_folder, fit_device, load_data, load_judge, make
from svhn_vae.experiment.configuration import composing
from svhn_vae.experiment.loading import complete_scores, load_dataset, load_run
from svhn_vae.experiment.preflight import from_command_line
from svhn_vae.model.vae import VAE
from svhn_vae.pictures.gallery import Subject, draw, possible
from svhn_vae.pictures.sheet import write_png
from svhn_vae.report.table import Fitted, wide_console
from svhn_vae.runs.files import locked
from svhn_vae.runs.folder import RunFolder

MEANING = {
    "elbo": "nats per image, as the terms below",
    "bits_per_dim": "by the bound with one sample",
    "iw_bits_per_dim": "by the bound with iw_k samples",
    "effective_sample_size": "of iw_k samples: near 1, one decides",
    "active_units": "latents whose mean varies",
    "mutual_information": "nats, latents and image; at most log of their number",
    "aggregate_kl": "nats, aggregate posterior to prior",
    "probe_accuracy": "digit, linear in the posterior's mean",
    "neighbour_accuracy": "digit, of the nearest posterior means",
    "label_accuracy": "digit, by the encoder that was told",
    "calibration/residual_variance": "1 is right; below, sigma is too large",
}
JUDGED = {"samples": "samples", "noisy_samples": "with the decoder's noise", "validation": "validation images"}


def evaluate() -> None:
    """Scores a finished run again: python src/evaluate.py run=outputs/STUDY/RUN [iw_samples=64] [split=val]

    Its figures of test images are those of its result.json, to the last digit on the same device. If result.json
    lacks a bound from more samples, or the judge's figures, they are added to it. The training command with the same
    settings does so, too.
    """
    cfg = from_command_line("evaluate", evaluate.__doc__)
    if cfg.outliers is not None and not isinstance(cfg.outliers, ListConfig):
        raise UserError(f"outliers must be a list of files of conf/data, such as [synthetic], got {cfg.outliers}")
    folder = named_run(cfg)
    vae = load_run(folder.path, fit_device(cfg)).vae
    dataset = load_dataset(folder.path, cfg.data_root, other_images=cfg.other_images)
    is_its_own, result = dataset.digest == folder.result["data"]["digest"], folder.result
    iw_samples = result["config"]["iw_samples"] if cfg.iw_samples is None else cfg.iw_samples
    splits = EvaluationSplits(dataset, vae.representation, result["config"].get("labels", 1.0))
    score = score_run(vae, splits, split=cfg.split, iw_samples=iw_samples)
    console = wide_console()
    others = "" if is_its_own else f" that are not the run's: {dataset.name} data {dataset.digest}"
    images = counted(len(score.per_image["elbo"]), f"{cfg.split} image")
    name = f"{folder.path.resolve().name}, {images}{others}"
    console.print(score_table(name, score, result["baselines"] if cfg.split == "test" and is_its_own else {}))
    if score.details.get("iw_curve"):
        console.print(curve_table(score))
    judge = load_judge(cfg, dataset) if cfg.judge else None
    if judge is not None:
        metrics = sample_scores(vae, dataset, judge).metrics
        console.print(judge_table(metrics, len(dataset.test.labels)))
    if cfg.outliers is not None and vae.variance.is_density:
        console.print(outlier_table(vae, dataset, list(cfg.outliers)))
    if cfg.split == "test" and is_its_own and lacks(result, judge=judge is not None, iw_samples=iw_samples):
        with locked(folder.path):
            complete_scores(folder, dataset, judge, iw_samples=iw_samples, device=vae.device)
        console.print("added to its result.json", soft_wrap=True)


def named_run(cfg: DictConfig) -> RunFolder:
    """The folder that run=FOLDER names. Raises UserError if it is missing."""
    if cfg.run is None:
        raise UserError("run=FOLDER is missing, a finished run's folder: run=outputs/STUDY/RUN")
    return RunFolder(Path(cfg.run))


def score_table(title: str, score: Score, baselines: dict[str, float]) -> Fitted:
    names = {name: name.partition("/")[2] for name in score.metrics}
    rows = [(names[name], f"{value:.4f}", MEANING.get(names[name], "")) for name, value in score.metrics.items()]
    rows += [(f"bits_per_dim: {name}", f"{value:.4f}", "part of it") for name, value in score.parts.items()]
    for name, value in sorted(baselines.items(), key=lambda item: item[1]):
        rows.append((f"(-) {name}", f"{value:.4f}", "bits/dim of a model without a network"))
    return Fitted(title, ("quantity", "value", ""), rows)


def curve_table(score: Score) -> Fitted:
    rows = []
    for point in score.details["iw_curve"]:
        bits = "no density" if point["bits_per_dim"] is None else f"{point['bits_per_dim']:.4f}"
        rows.append((f"{point['k']}", f"{point['elbo']:.1f}", bits, f"{point['effective_sample_size']:.2f}"))
    headings = ("k", "elbo, nats", "bits/dim", "effective sample size")
    return Fitted("the importance-weighted bound from k samples per image", headings, rows)


def judge_table(metrics: dict[str, float], num: int) -> Fitted:
    rows = []
    for name in (name.partition("/")[2] for name in metrics if name.startswith("samples/")):
        found = (metrics.get(f"{kind}/{name}") for kind in JUDGED)
        rows.append((name, *("-" if value is None else f"{value:.3f}" for value in found)))
    others = {name: value for name, value in metrics.items() if name.startswith(("analogies/", "judge/"))}
    rows += [(name, f"{value:.3f}", "", "") for name, value in others.items()]
    title = f"{num:,} samples, by a judge that reads {metrics['judge/accuracy']:.1%} of the test images' digits"
    return Fitted(title, ("quantity", *JUDGED.values()), rows)


def outlier_table(vae: VAE, dataset: Dataset, choices: list[str]) -> Fitted:
    """Test images beside those of other data, noise and constant images."""
    test = dataset.test.images
    others = {name.split()[0]: load_choice(name).test.images for name in choices}
    found = outliers(vae, test, others | plain_outliers(len(test), test.shape[1:]))
    rows = []
    for name, (means, areas) in found.items():
        pairs = ((f"{means[score]:.2f}", f"{areas[score]:.2f}" if areas else "-") for score in means)
        rows.append((name, *(cell for pair in pairs for cell in pair)))
    headings = ("images", "bits/dim", "area", "less PNG's", "area", "KL, nats", "area")
    return Fitted("images of another kind; area: 1, each seems stranger than test images", headings, rows)


def load_choice(name: str) -> Dataset:
    """The data of a file in conf/data/, settings of which may follow: `cifar10 data.root=FOLDER`."""
    choice, *settings = name.split()
    with composing():
        cfg = compose("train", [f"data={choice}", *settings])
    try:
        return load_data(cfg)
    except DataError as error:
        raise DataError(f"outliers=['{name}']: {error}") from None


def generate() -> None:
    """Draws pictures of a finished run: python src/generate.py run=outputs/STUDY/RUN pictures=[samples,analogies]

    They lie in its figures/ folder and in its TensorBoard, under generated/.
    """
    cfg = from_command_line("generate", generate.__doc__)
    folder = named_run(cfg)
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


def baselines() -> None:
    """Scores models without a network on a data set: python src/baselines.py data.root=FOLDER data.verify=none

    Fitted on the training images, as every run's table has them, and on training and validation images together:
    baselines need no validation images, and published ones are often fitted on the whole file. causal=true adds one
    that predicts each value from the pixels before it: no density of dequantised pixels, but a probability of the 256
    levels.
    """
    cfg = from_command_line("baselines", baselines.__doc__, is_run=True)
    dataset = load_data(cfg)
    wide_console().print(baseline_table(cfg, dataset))


def baseline_table(cfg: DictConfig, dataset: Dataset) -> Fitted:
    columns = {}  # heading -> name -> bits/dim
    for images in (dataset.train, concatenate([dataset.train, dataset.val])):
        where = {"cache": cache_folder(cfg), "device": fit_device(cfg)}
        moments = functools.partial(cached_moments, images.images, digest(images), **where)
        found = score(dataset.test.images, fitted(images.images, moments, cfg.pca.n_components))
        if cfg.causal:
            code = CausalCode(images.images.shape[1:])
            code.fit(images.images)
            found["causal prediction: a probability of levels"] = bits_of_code(code, dataset.test.images)
        columns[f"fitted on {len(images.labels):,}"] = found
    rows = []
    for name in dict.fromkeys(name for column in columns.values() for name in column):
        rows.append((name, *(f"{column[name]:.3f}" if name in column else "-" for column in columns.values())))
    title = f"{dataset.name} data, bits/dim of {len(dataset.test.labels):,} test images"
    return Fitted(title, ("model without a network", *columns), rows)


def judge() -> None:
    """Trains the judge of a data set, or finds it: python src/judge.py data.root=FOLDER data.verify=none

    It is kept in the user's cache folder for every later evaluation on the same images.
    """
    cfg = from_command_line("judge", judge.__doc__, is_run=True)
    settings, dataset = make("judge", cfg.judge), load_data(cfg)
    if reason := why_no_judge(dataset):
        raise UserError(f"{dataset.name} data can have no judge: {reason}")
    found = judge_once(dataset, settings, cache_folder(cfg), fit_device(cfg))
    print(
        f"judge of {dataset.name} data: {found.accuracy:.1%} of {len(dataset.test.labels):,} test images right, "
        f"{found.val_accuracy:.1%} of {len(dataset.val.labels):,} validation images; "
        f"trained on {len(dataset.train.labels):,} in {found.seconds:.0f} s"
    )
    print(
        f"its confidence is off by {found.calibration_error:.1%} on average; it is 90 % or more for "
        f"{found.legible:.1%} of the test images, of which {found.legible_accuracy:.1%} are read right"
    )
