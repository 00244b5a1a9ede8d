"""The images that a model is evaluated on, in its coordinates: projected once for all that look at them."""

from svhn_vae.data.batches import EvaluationBatches
from svhn_vae.data.moments import spaced
from svhn_vae.data.sources import Dataset
from svhn_vae.model.coordinates import Representation

MAX_SEEN = 2_000  # training images, evenly spaced: 500 variances estimated from them are off by 0.1 nats together


class Represented:
    """A data set with the batches of its splits `test` and `val`, and of some training images, `seen`.

    Nothing is projected before it is asked for; what was stays on the device where the model was then, unless it is not
    to be kept.
    """

    def __init__(self, dataset: Dataset, representation: Representation, *, keep: bool = True) -> None:
        self.dataset = dataset
        self.test = EvaluationBatches(dataset.test.images, representation, keep=keep)
        self.val = EvaluationBatches(dataset.val.images, representation, keep=keep)
        self.seen = EvaluationBatches(spaced(dataset.train.images, MAX_SEEN), representation, keep=keep)
