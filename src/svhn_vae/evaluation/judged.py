"""What a judge says of a model: its samples with and without the decoder's noise, and its analogies."""

from typing import NamedTuple

from svhn_vae.data.sources import Dataset
from svhn_vae.evaluation.judge import Judge
from svhn_vae.evaluation.samples import Agreement, agreement, generated, judge_scores, references, to_levels
from svhn_vae.model.vae import VAE
from svhn_vae.pictures.gallery import Subject, analogy_rows


class Judged(NamedTuple):
    """The figures of as many images of each kind as there are validation images."""

    scores: dict[str, dict[str, float]]  # samples, noisy_samples, validation (real images) -> figure -> value
    analogies: Agreement
    accuracy: float  # the judge's own, on test images

    @property
    def metrics(self) -> dict[str, float]:
        scores = {f"{kind}/{name}": value for kind, found in self.scores.items() for name, value in found.items()}
        return {**scores, **self.analogies.metrics, "judge/accuracy": self.accuracy}


def judged(vae: VAE, dataset: Dataset, judge: Judge) -> Judged:
    """The same at every call."""
    num, against = len(dataset.val.labels), references(judge, dataset.test.images, dataset.train.images)
    images = {
        "samples": generated(vae, num, noisy=False),
        "noisy_samples": generated(vae, num, noisy=True),
        "validation": dataset.val.images,
    }
    rows = to_levels(analogy_rows(Subject(vae, dataset, "", seed=0, temperature=1.0))).cpu()
    return Judged(
        {kind: judge_scores(judge, shown, against) for kind, shown in images.items()},
        agreement(judge, rows[:, 0], rows[:, 1:]),
        judge.test_accuracy.item(),
    )
