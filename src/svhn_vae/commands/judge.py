"""Trains the judge of a data set, or finds it: python src/judge.py data.root=FOLDER data.verify=none

It is kept in the user's cache folder for every later evaluation on the same images.
"""

# ruff: noqa: E402
import signal

signal.signal(signal.SIGINT, signal.SIG_DFL)  # no traceback while libraries are imported


from omegaconf import DictConfig

from svhn_vae.errors import UserError
from svhn_vae.evaluation.judge import judge_once, why_no_judge
from svhn_vae.experiment.build import cache_folder, fit_device, load_data, make
from svhn_vae.experiment.script import run_script


def train_judge(cfg: DictConfig) -> None:
    settings, dataset = make("judge", cfg.judge), load_data(cfg)
    if reason := why_no_judge(dataset):
        raise UserError(f"{dataset.name} data can have no judge: {reason}")
    judge = judge_once(dataset, settings, cache_folder(cfg), fit_device(cfg))
    print(
        f"judge of {dataset.name} data: {judge.accuracy:.1%} of {len(dataset.test.labels):,} test images right, "
        f"{judge.val_accuracy:.1%} of {len(dataset.val.labels):,} validation images; "
        f"trained on {len(dataset.train.labels):,} in {judge.seconds:.0f} s"
    )
    print(
        f"its confidence is off by {judge.calibration_error:.1%} on average; it is 90 % or more for "
        f"{judge.legible:.1%} of the test images, of which {judge.legible_accuracy:.1%} are read right"
    )


def main() -> None:
    run_script("judge", __doc__, train_judge, is_run=True)


if __name__ == "__main__":
    main()
