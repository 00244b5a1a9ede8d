"""From uint8 images to batches of features: dequantise, augment, represent, shuffle.

Data that fit in memory need no worker processes. The projection of an image (PCA) is computed once per draw of the
noise, and a batch is a slice of all projections; an elementwise representation (pixels) is computed per batch from the
uint8 images, which are a quarter of its size. All of it, training's noise included, happens on the representation's
device.

Shapes: N images (N, C, H, W) uint8; x in [0, 1); a batch is Features of B images; a step trains on several batches.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from svhn_vae.errors import UserError, fraction
from svhn_vae.model.coordinates import Features, Representation
from svhn_vae.model.covariance import NUM_LEVELS
from svhn_vae.seeds import Stream, derive_seed

WHITE = NUM_LEVELS - 1
CHUNK = 1000  # images dequantised and projected at a time: bounds memory
PROJECTED_ON_CPU, PROJECTED_ON_GPU = 500, 10_000  # for training, where it bounds how long an update may have to wait
ON_CPU, ON_GPU = 4, 50  # batches of a step: what is done around it takes 0.4 ms, as an update on a fast GPU


def dequantise(images: Tensor, seed: int) -> Tensor:
    """uint8 (N, C, H, W) -> x = (image + u) / 256, u uniform in [0, 1) and drawn on the images' device.

    Makes a density of x a lower bound on the probability of the image (Theis et al. 2016).
    """
    if images.dtype != torch.uint8:
        raise UserError(f"expected images (N, C, H, W) of uint8 levels, got {tuple(images.shape)} {images.dtype}")
    generator = torch.Generator(images.device).manual_seed(seed)
    noise = torch.rand(images.shape, generator=generator, device=images.device)
    # 255 + u has 16 binary places in float32: a noise closer to 1 would round up into the next level.
    return (images + noise.clamp_(max=1 - 2**-16)) / NUM_LEVELS


def centred(images: Tensor, seed: int) -> Tensor:
    """uint8 (N, C, H, W) -> x at the middle of each level, without noise: the post's images, which have no density."""
    return (images + 0.5) / NUM_LEVELS


def dequantised_chunks(images: Tensor, stream: Stream) -> Iterator[Tensor]:
    """The images in order, CHUNK at a time; noise is drawn where they are: on the CPU, alike on any machine."""
    for index, chunk in enumerate(images.split(CHUNK)):
        yield dequantise(chunk, derive_seed(stream, index))


def every_nth(images: Tensor, at_most: int) -> Tensor:
    """Every n-th image, n the least that leaves `at_most` or fewer."""
    return images[:: -(-len(images) // at_most)]


class Augmentation:
    """What training images are besides themselves: moved, and in another light. Scores are of the images as they are.

    Moves an image by whole pixels, its border repeated, and changes its contrast and each colour's brightness.

    share: of the images that are changed, drawn anew for each batch; of a projection, for each draw of the noise.
    shift: at most so many pixels, up or down, left or right.
    light: the standard deviation of the contrast's factor around 1; half of it, of a colour's brightness in [0, 1).
    """

    def __init__(self, *, share: float, shift: int, light: float) -> None:
        fraction("augmentation", share=share, light=light)
        if not 0 <= shift <= 8:
            raise UserError(f"augmentation.shift must be in 0..8 pixels, got {shift}")
        self.share, self.shift, self.light = share, shift, light

    def __call__(self, images: Tensor, seed: int) -> Tensor:
        """uint8 (N, C, H, W) -> the same shape; the numbers are drawn on the images' device."""
        if not self.share:
            return images
        generator = torch.Generator(images.device).manual_seed(seed)
        num, channels = images.shape[:2]
        drawn = torch.rand(num, 1, 1, 1, generator=generator, device=images.device) < self.share
        by = torch.randint(-self.shift, self.shift + 1, (num, 2), generator=generator, device=images.device)
        factor, offset = (
            torch.randn(num, many, 1, 1, generator=generator, device=images.device) for many in (1, channels)
        )
        x = moved(images.float(), by * drawn[:, 0, 0])
        mean = x.mean((1, 2, 3), keepdim=True)
        lit = mean + (x - mean) * (1 + self.light * factor * drawn) + WHITE * self.light / 2 * offset * drawn
        return lit.round().clamp(0, WHITE).byte()


def moved(x: Tensor, by: Tensor) -> Tensor:
    """Images (N, C, H, W), each moved up and left by so many pixels (N, 2), its border repeated."""
    rows, columns = (
        (torch.arange(size, device=x.device) + step[:, None]).clamp(0, size - 1)
        for size, step in zip(x.shape[-2:], by.T, strict=True)
    )
    image, channel = (torch.arange(size, device=x.device) for size in x.shape[:2])
    return x[image[:, None, None, None], channel[:, None, None], rows[:, None, :, None], columns[:, None, None]]


class EvaluationBatches:
    """All images in order, with the same noise at every pass, for every representation and on every device.

    Projections are computed at the first pass, and kept.
    """

    def __init__(self, images: Tensor, representation: Representation) -> None:
        self.images, self.representation = images, representation

    def __len__(self) -> int:
        return -(-len(self.images) // CHUNK)

    def __iter__(self) -> Iterator[Features]:
        """A generator: Lightning makes an iterator before training, and nothing is projected before it is asked for."""
        yield from self._kept if self.representation.is_projection else self._made()

    @cached_property
    def _kept(self) -> list[Features]:
        """Copies: a view would keep what was cut off."""
        return [Features(*(array.clone() for array in made)) for made in self._made()]

    def _made(self) -> Iterator[Features]:
        device = self.representation.mean.device
        for x in dequantised_chunks(self.images, Stream.EVALUATION_NOISE):
            yield self.representation(x.to(device))


@dataclass(frozen=True, kw_only=True)
class Batching:
    """How the batches of an epoch are made.

    per_step: batches that come at a time; None: ON_CPU or ON_GPU.
    add_noise: False: x is the middle of its level, without noise.
    epochs_per_noise: how long one draw of a projection's noise is kept.
    seed: with the epoch, it gives the order; with the draw or the batch, the noise.
    """

    batch_size: int
    per_step: int | None
    augmentation: Augmentation
    add_noise: bool
    epochs_per_noise: int
    shuffle: bool
    seed: int

    def __post_init__(self) -> None:
        if self.epochs_per_noise < 1:
            raise UserError(f"epochs_per_noise must be at least 1, got {self.epochs_per_noise}")
        if self.per_step is not None and self.per_step < 1:
            raise UserError(f"updates_per_step must be at least 1, or null, got {self.per_step}")


class TrainingBatches:
    """One epoch at each pass: a permutation of the images, in batches of one size; the rest is left out.

    labels: (N,) int64, UNKNOWN where an image's is not told. epoch: gives the number of the one that begins.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        representation: Representation,
        batching: Batching,
        epoch: Callable[[], int],
    ) -> None:
        if not 1 <= batching.batch_size <= len(images):
            raise UserError(f"batch_size must be in 1..{len(images)}, the training images, got {batching.batch_size}")
        self.images, self.labels, self.representation = images, labels, representation
        self.batching, self.epoch = batching, epoch
        self._draw = -1  # of a projection's noise
        self._projected: list[Tensor] = []  # its arrays of Features, row by row those of the images

    @property
    def num_batches(self) -> int:
        return len(self.images) // self.batching.batch_size

    @property
    def per_step(self) -> int:
        return self.batching.per_step or (ON_CPU if self._device.type == "cpu" else ON_GPU)

    def __len__(self) -> int:
        """Steps of an epoch."""
        return -(-self.num_batches // self.per_step)

    def __iter__(self) -> Iterator[tuple[Features, ...]]:
        epoch = self.epoch()
        batches = self._order(epoch).split(self.batching.batch_size)[: self.num_batches]
        made = (self._slices if self.representation.is_projection else self._from_pixels)(epoch, batches)
        made = (each._replace(label=self._labels_on_device[rows]) for each, rows in zip(made, batches, strict=True))
        while several := tuple(itertools.islice(made, self.per_step)):
            yield several

    def _order(self, epoch: int) -> Tensor:
        generator = torch.Generator().manual_seed(derive_seed(Stream.ORDER, self.batching.seed, epoch))
        num = len(self.images)
        order = torch.randperm(num, generator=generator) if self.batching.shuffle else torch.arange(num)
        return order.to(self._device)

    def _slices(self, epoch: int, batches: Sequence[Tensor]) -> Iterator[Features]:
        draw, later = divmod(epoch, self.batching.epochs_per_noise)
        if draw != self._draw:  # the room of the last draw is free before the next one's is taken
            self._draw, self._num_projected, self._projected = draw, 0, []
            self._draw_order = self._order(draw * self.batching.epochs_per_noise)
        for number, indices in enumerate(batches, 1):
            self._project_first(len(self.images) if later else number * self.batching.batch_size)
            yield Features(*(array[indices] for array in self._projected))

    def _project_first(self, num: int) -> None:
        """At least the first `num` images of the draw's first epoch, in fixed groups, each when it is first needed: the
        first update waits for one group. A group's seed depends on nothing else, so that a continued run computes the
        same features."""
        group_size = PROJECTED_ON_CPU if self._device.type == "cpu" else PROJECTED_ON_GPU
        while self._num_projected < num:
            numbers = self._draw_order[self._num_projected : self._num_projected + group_size]
            group = self._num_projected // group_size
            made = self._features(numbers, derive_seed(Stream.TRAINING_NOISE, self.batching.seed, self._draw, group))
            self._projected = self._projected or [a.new_empty(len(self.images), *a.shape[1:]) for a in made]
            for whole, array in zip(self._projected, made, strict=True):
                whole[numbers] = array
            self._num_projected += len(numbers)

    def _from_pixels(self, epoch: int, batches: Sequence[Tensor]) -> Iterator[Features]:
        for index, indices in enumerate(batches):
            seed = derive_seed(Stream.TRAINING_NOISE, self.batching.seed, epoch, index)
            yield self._features(indices, seed)

    def _features(self, indices: Tensor, seed: int) -> Features:
        images = self.batching.augmentation(self._pixels_on_device[indices], derive_seed(Stream.AUGMENTATION, seed))
        return self.representation((dequantise if self.batching.add_noise else centred)(images, seed))

    @property
    def _device(self) -> torch.device:
        return self.representation.mean.device

    @cached_property
    def _labels_on_device(self) -> Tensor:
        return self.labels.to(self._device)

    @cached_property
    def _pixels_on_device(self) -> Tensor:
        return self.images.to(self._device)
