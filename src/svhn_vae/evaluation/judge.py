"""The judge: a small classifier of the digit, trained here and kept on disk, whose features measure other images.

It replaces the downloaded network of the usual FID. Its last layer alone overlooks what it was trained to overlook:
blurred, darker or reddish images are to it as good as real ones. So the features are of all depths, to the same scale.

Shapes: N images (N, 3, 32, 32) uint8; x (B, 3, 32, 32) in [0, 1) of a batch; F features.
"""

import dataclasses
import hashlib
import json
import time
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from svhn_vae.data.batches import centred, every_nth
from svhn_vae.data.sources import Dataset, LabelledImages
from svhn_vae.errors import Damaged, UserError
from svhn_vae.runs.weights import load_tensors, save_tensors

FORMAT = 1  # to be raised with any change of the network or its training, so that older files are not read
NUM_DIGITS = 10
MAX_IMAGES = 10_000  # for the scales of channels and features
CHUNK = 500  # images in the network at a time, when it does not learn: bounds memory


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """All that decides what a judge learns from given images; conf/judge.yaml holds the numbers.

    max_shift: pixels that an image is moved by, at most. contrast: it is multiplied by 1 - contrast to 1 + contrast,
    and in half of the images by the negative of it, because digits are as often dark on light as light on dark.
    """

    width: int
    dropout: float
    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    label_smoothing: float
    max_shift: int
    contrast: float
    seed: int

    def __post_init__(self) -> None:
        for name in ("width", "epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise UserError(f"judge.{name} must be at least 1, got {getattr(self, name)}")
        if self.max_shift < 0:
            raise UserError(f"judge.max_shift must be 0 or more pixels, got {self.max_shift}")

    @property
    def digest(self) -> str:
        return hashlib.sha256(json.dumps(dataclasses.asdict(self), sort_keys=True).encode()).hexdigest()[:8]


class Opinion(NamedTuple):
    """What the judge makes of N images."""

    features: Tensor  # (N, F) float32, F = 7 width, in standard deviations of the training images
    digits: Tensor  # (N,) int64, the likeliest of each


class Judge(nn.Module):
    """Seven layers: a pair of convolutions at each of 32, 16 and 8 pixels, the mean over space, a linear one."""

    def __init__(self, width: int, dropout: float, num_channels: int) -> None:
        super().__init__()
        self.stages = nn.ModuleList(
            [
                nn.Sequential(*convolution_pair(num_channels, width)),
                nn.Sequential(nn.MaxPool2d(2), *convolution_pair(width, 2 * width)),
                nn.Sequential(nn.MaxPool2d(2), *convolution_pair(2 * width, 4 * width)),
            ]
        )
        self.dropout = nn.Dropout(dropout)
        self.to_logits = nn.Linear(4 * width, NUM_DIGITS)
        for name in ("mean", "stddev"):  # of each channel of the training images
            self.register_buffer(name, torch.ones(num_channels, 1, 1))
        self.register_buffer("feature_stddev", torch.ones(7 * width))  # of the training images
        for name in ("val_accuracy", "test_accuracy", "seconds"):  # of training, on the machine that did it
            self.register_buffer(name, torch.zeros(()))

    def stage_means(self, x: Tensor) -> list[Tensor]:
        """x -> the mean over space of each stage: (B, width), (B, 2 width), (B, 4 width)."""
        maps, means = (x - self.mean) / self.stddev, []
        maps = maps.contiguous(memory_format=torch.channels_last)  # faster on CPUs
        for stage in self.stages:
            maps = stage(maps)
            means.append(maps.mean((2, 3)))
        return means

    def forward(self, x: Tensor) -> Tensor:
        """x -> logits (B, 10)."""
        return self.to_logits(self.dropout(self.stage_means(x)[-1]))

    @torch.no_grad()
    def opinion(self, images: Tensor) -> Opinion:
        """Images -> their features and digits, on the CPU; in evaluation mode."""
        device, opinions = self.mean.device, []
        for chunk in images.split(CHUNK):
            means = self.stage_means(centred(chunk.to(device), 0))
            features = torch.cat(means, 1) / self.feature_stddev
            opinions.append((features.cpu(), self.to_logits(means[-1]).argmax(1).cpu()))
        return Opinion(*(torch.cat(arrays) for arrays in zip(*opinions, strict=True)))


def convolution_pair(num_in: int, num_out: int) -> list[nn.Module]:
    pairs = ((num_in, num_out), (num_out, num_out))
    layers = [[nn.Conv2d(i, o, 3, padding=1, bias=False), nn.BatchNorm2d(o), nn.ReLU()] for i, o in pairs]
    return [layer for three in layers for layer in three]


def judge_once(dataset: Dataset, settings: Settings, cache: Path, device: str) -> Judge:
    """The judge of these images, in evaluation mode; from `cache`, or trained on `device` and put there."""
    judge = kept_judge(dataset, settings, cache, device)
    if judge is None:
        judge = fit(dataset, settings, device)
        _write(judge, settings, _path(dataset, settings, cache))
    return judge


def kept_judge(dataset: Dataset, settings: Settings, cache: Path, device: str) -> Judge | None:
    """None if there is none, or a damaged one."""
    judge, path = Judge(settings.width, settings.dropout, dataset.image_shape[0]), _path(dataset, settings, cache)
    try:
        judge.load_state_dict(load_tensors(path))
    except FileNotFoundError:
        return None
    except (Damaged, RuntimeError, OSError) as error:
        print(f"  {path} is damaged ({' '.join(str(error).split())}): to be trained anew", flush=True)
        return None
    return judge.to(device).eval()


def fit(dataset: Dataset, settings: Settings, device: str) -> Judge:
    """A judge that learnt from the training images, with its accuracy on the others, which chose nothing."""
    check(dataset, settings)
    with torch.random.fork_rng():
        torch.manual_seed(settings.seed)
        judge = Judge(settings.width, settings.dropout, dataset.image_shape[0])
        x = centred(every_nth(dataset.train.images, MAX_IMAGES), 0)
        judge.mean.copy_(x.mean((0, 2, 3))[:, None, None])
        judge.stddev.copy_(x.std((0, 2, 3))[:, None, None])
        _learn(judge.to(device, memory_format=torch.channels_last), dataset.train, settings)
    judge.eval()
    stddev = judge.opinion(every_nth(dataset.train.images, MAX_IMAGES)).features.std(0)
    judge.feature_stddev.copy_(torch.where(stddev > 0, stddev, 1))
    judge.val_accuracy.fill_(accuracy(judge, dataset.val))
    judge.test_accuracy.fill_(accuracy(judge, dataset.test))
    return judge


def check(dataset: Dataset, settings: Settings) -> None:
    """Raises UserError for images that this network cannot learn to read."""
    highest, side = int(dataset.train.labels.max()), min(dataset.image_shape[1:])
    if not 1 <= highest < NUM_DIGITS:
        raise UserError(
            f"the judge needs images of 2 to {NUM_DIGITS} labels, the highest of {dataset.name} is {highest}"
        )
    if side < 4 or settings.max_shift >= side:
        raise UserError(f"judge.max_shift={settings.max_shift} needs larger images, these have {side} pixels a side")


def _learn(judge: Judge, train: LabelledImages, settings: Settings) -> None:
    start, device = time.monotonic(), judge.mean.device
    images, labels = train.images.to(device), train.labels.to(device).long()
    num_steps = settings.epochs * -(-len(labels) // settings.batch_size)
    optimizer = torch.optim.AdamW(judge.parameters(), settings.learning_rate, weight_decay=settings.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings.learning_rate, total_steps=num_steps)
    judge.train()
    for epoch in range(settings.epochs):
        for indices in torch.randperm(len(labels)).to(device).split(settings.batch_size):
            x = augmented(centred(images[indices], 0), settings.max_shift, settings.contrast)
            loss = functional.cross_entropy(judge(x), labels[indices], label_smoothing=settings.label_smoothing)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        judge.seconds.fill_(time.monotonic() - start)
        done = f"epoch {epoch + 1} of {settings.epochs}"
        print(f"  judge: {done}, loss of its last batch {loss.item():.2f}, {judge.seconds:.0f} s", flush=True)


def augmented(x: Tensor, max_shift: int, contrast: float) -> Tensor:
    """x, each image moved by whole pixels, so that none is blurred, and its contrast changed: see Settings."""
    size, device = x.shape[-1], x.device
    padded = functional.pad(x, [max_shift] * 4, mode="reflect")
    starts = torch.randint(2 * max_shift + 1, (2, len(x), 1), device=device)
    rows, columns = starts + torch.arange(size, device=device)  # (B, size) each
    image = torch.arange(len(x), device=device)[:, None, None]
    moved = padded[image, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    factor = 1 + contrast * torch.empty(len(x), 1, 1, 1, device=device).uniform_(-1, 1)
    factor = factor * (2 * torch.randint_like(factor, 2) - 1)
    mean = moved.mean((1, 2, 3), keepdim=True)
    return mean + factor * (moved - mean)


def accuracy(judge: Judge, part: LabelledImages) -> float:
    return (judge.opinion(part.images).digits == part.labels).double().mean().item()


def _path(dataset: Dataset, settings: Settings, cache: Path) -> Path:
    return cache / f"judge-{FORMAT}-{settings.digest}-{dataset.digest}.safetensors"


def _write(judge: Judge, settings: Settings, path: Path) -> None:
    """A notice where it cannot be written."""
    state = {name: value.contiguous() for name, value in judge.state_dict().items()}
    try:
        save_tensors(state, path, settings=json.dumps(dataclasses.asdict(settings)))
    except OSError as error:  # this judge is there all the same
        print(f"  {path} cannot be written ({error}): the next use trains it anew; cache=FOLDER is another place")
