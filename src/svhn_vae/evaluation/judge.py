"""The judge: a small classifier of the digit, trained here and kept on disk, whose features measure other images.

It replaces the downloaded network of the usual FID. Its last layer alone overlooks what it was trained to overlook:
blurred, darker or reddish images are to it as good as real ones. So the features are of all depths, to the same scale.

Shapes: N images (N, 3, 32, 32) uint8; x (B, 3, 32, 32) in [0, 1) of a batch; F features.
"""

import dataclasses
import functools
import hashlib
import json
import math
import time
from pathlib import Path
from typing import NamedTuple

import torch
from scipy.optimize import minimize_scalar
from torch import Tensor, nn
from torch.nn import functional
from torchmetrics.functional.classification import multiclass_calibration_error

from svhn_vae.data.batches import centred, every_nth
from svhn_vae.data.cache import cached
from svhn_vae.data.sources import Dataset, LabelledImages
from svhn_vae.errors import UserError, above_zero, at_least, fraction

FORMAT = 4  # to be raised with any change of the network or its training, so that older files are not read
NUM_DIGITS = 10
MAX_IMAGES = 2_000  # for the scales of channels and features
CHUNK = 100  # images in the network at a time, when it does not learn: more are slower on a CPU
CONFIDENT = 0.9  # probability of a digit from which an image counts as legible
MIN_SIDE = 4  # pixels, which are halved twice
MIN_IMAGES = 4  # of each part of a data set, for recall among three neighbours


@dataclasses.dataclass(frozen=True, kw_only=True)
class JudgeSettings:
    """All that decides what a judge learns from given images; conf/judge.yaml holds the numbers.

    epochs: at most, and fewer where `images` have been seen before or where the judge reads `enough` of the validation
    images. max_shift: pixels that an image is moved by, at most. contrast: it is multiplied by 1 - contrast to
    1 + contrast, and in half of the images by the negative of it, because digits are as often dark on light as light
    on dark.
    """

    width: int
    dropout: float
    epochs: int
    images: int
    enough: float
    batch_size: int
    learning_rate: float
    weight_decay: float
    label_smoothing: float
    max_shift: int
    contrast: float
    seed: int

    def __post_init__(self) -> None:
        counts = {name: getattr(self, name) for name in ("width", "epochs", "images", "batch_size")}
        at_least("judge", 1, **counts)
        at_least("judge", 0, max_shift=self.max_shift, enough=self.enough, seed=self.seed)
        fraction("judge", dropout=self.dropout, label_smoothing=self.label_smoothing, contrast=self.contrast)
        fraction("judge", weight_decay=self.weight_decay)
        above_zero("judge", learning_rate=self.learning_rate)

    @property
    def digest(self) -> str:
        return hashlib.sha256(json.dumps(dataclasses.asdict(self), sort_keys=True).encode()).hexdigest()[:8]


class Opinion(NamedTuple):
    features: Tensor  # (N, F) float32, F = 7 width, in standard deviations of the training images
    digits: Tensor  # (N,) int64, the likeliest of each
    confidence: Tensor  # (N,) float32, its probability


class Judge(nn.Module):
    """Seven layers: a pair of convolutions at each of 32, 16 and 8 pixels, the mean over space, a linear one."""

    mean: Tensor
    stddev: Tensor
    feature_stddev: Tensor
    temperature: Tensor
    val_accuracy: Tensor
    accuracy: Tensor
    calibration_error: Tensor
    legible: Tensor
    legible_accuracy: Tensor
    seconds: Tensor

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
        self.register_buffer("temperature", torch.ones(()))  # that logits are divided by, for calibrated confidence
        # Of test images: digits read right, distance of confidence and accuracy, share of confidence 0.9 and more, and
        # how many of those are read right; seconds: of training, on the machine that did it.
        for name in ("val_accuracy", "accuracy", "calibration_error", "legible", "legible_accuracy", "seconds"):
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
            confidence, digits = (self.to_logits(means[-1]) / self.temperature).softmax(1).max(1)
            opinions.append(((torch.cat(means, 1) / self.feature_stddev).cpu(), digits.cpu(), confidence.cpu()))
        return Opinion(*(torch.cat(arrays) for arrays in zip(*opinions, strict=True)))

    @property
    def metrics(self) -> dict[str, float]:
        names = ("accuracy", "calibration_error", "legible", "legible_accuracy")
        return {f"judge/{name}": getattr(self, name).item() for name in names}


def convolution_pair(num_in: int, num_out: int) -> list[nn.Module]:
    pairs = ((num_in, num_out), (num_out, num_out))
    layers = [[nn.Conv2d(i, o, 3, padding=1, bias=False), nn.BatchNorm2d(o), nn.ReLU()] for i, o in pairs]
    return [layer for three in layers for layer in three]


def why_no_judge(dataset: Dataset) -> str:
    """Why samples of these data cannot be judged, or nothing."""
    if len(dataset.train.labels.unique()) < 2:
        return "the training images have no two different labels"
    if (highest := int(dataset.train.labels.max())) >= NUM_DIGITS:
        return f"a judge reads labels below {NUM_DIGITS}, the highest of the training images is {highest}"
    few = min(len(part.labels) for part in (dataset.train, dataset.val, dataset.test))
    if few < MIN_IMAGES:
        return f"a judge needs at least {MIN_IMAGES} training, validation and test images each, got {few}"
    if min(dataset.image_shape[1:]) < MIN_SIDE:
        return f"a judge needs images of at least {MIN_SIDE} pixels a side, got {tuple(dataset.image_shape)}"
    return ""


class Learnt(NamedTuple):
    numbers: Tensor  # (P,) float32: its state, one after the other


@functools.lru_cache(maxsize=1)
def judge_once(dataset: Dataset, settings: JudgeSettings, cache: Path, device: torch.device) -> Judge:
    """The judge of these images, in evaluation mode; from `cache`, or trained on `device` and put there."""
    path = cache / f"judge-{FORMAT}-{settings.digest}-{dataset.digest}.safetensors"

    def learnt() -> Learnt:
        state = fit(dataset, settings, device).state_dict()
        return Learnt(torch.cat([value.cpu().flatten().float() for value in state.values()]))

    numbers = cached(path, Learnt, learnt).numbers
    judge = Judge(settings.width, settings.dropout, dataset.image_shape[0])
    state = judge.state_dict()
    parts = numbers.split([value.numel() for value in state.values()])
    judge.load_state_dict({n: part.view(v.shape) for (n, v), part in zip(state.items(), parts, strict=True)})
    return judge.to(device).eval()


def fit(dataset: Dataset, settings: JudgeSettings, device: torch.device) -> Judge:
    """A judge that learnt from the training images. Validation images end its training and choose its temperature, test
    images choose nothing. Raises UserError if its loss is not finite."""
    with torch.random.fork_rng():
        torch.manual_seed(settings.seed)
        judge = Judge(settings.width, settings.dropout, dataset.image_shape[0])
        x = centred(every_nth(dataset.train.images, MAX_IMAGES), 0)
        judge.mean.copy_(x.mean((0, 2, 3))[:, None, None])
        judge.stddev.copy_(x.std((0, 2, 3)).clamp(min=1e-6)[:, None, None])
        learn(judge.to(device, memory_format=torch.channels_last), dataset, settings)  # pyright: ignore[reportCallIssue]
    stddev = judge.opinion(every_nth(dataset.train.images, MAX_IMAGES)).features.std(0)
    judge.feature_stddev.copy_(torch.where(stddev > 0, stddev, 1))
    judge.val_accuracy.fill_(accuracy(judge, dataset.val))
    judge.temperature.fill_(best_temperature(judge, dataset.val))
    measure(judge, dataset.test)
    return judge


def learn(judge: Judge, dataset: Dataset, settings: JudgeSettings) -> None:
    """Leaves it in evaluation mode."""
    start, device = time.monotonic(), judge.mean.device
    has_bf16_units = device.type == "cpu" and torch.cpu.get_capabilities().get("amx_bf16", False)  # halves the time
    max_shift = min(settings.max_shift, min(dataset.image_shape[1:]) - 1)
    images, labels = dataset.train.images.to(device), dataset.train.labels.to(device).long()
    num_steps = -(-min(settings.epochs * len(labels), settings.images) // settings.batch_size)
    optimizer = torch.optim.AdamW(judge.parameters(), settings.learning_rate, weight_decay=settings.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings.learning_rate, total_steps=num_steps)
    epoch = 0
    while schedule.last_epoch < num_steps:
        epoch += 1
        judge.train()
        batches = torch.randperm(len(labels)).to(device).split(settings.batch_size)
        for indices in batches[: num_steps - schedule.last_epoch]:
            x = augmented(centred(images[indices], 0), max_shift, settings.contrast)
            with torch.autocast(device.type, torch.bfloat16, enabled=has_bf16_units):
                logits = judge(x)
            loss = functional.cross_entropy(logits.float(), labels[indices], label_smoothing=settings.label_smoothing)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        if not loss.isfinite():
            raise UserError(f"the judge's loss is {loss.item()} in epoch {epoch}: lower judge.learning_rate")
        read = accuracy(judge.eval(), dataset.val)
        judge.seconds.fill_(time.monotonic() - start)
        print(f"  judge: epoch {epoch}, {read:.1%} of validation images right, {judge.seconds:.0f} s", flush=True)
        if read >= settings.enough:
            return


def augmented(x: Tensor, max_shift: int, contrast: float) -> Tensor:
    """x, each image moved by whole pixels, so that none is blurred, and its contrast changed: see JudgeSettings."""
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


@torch.no_grad()
def logits_of(judge: Judge, images: Tensor) -> Tensor:
    """(N, 10) float64, on the CPU, before the temperature."""
    return torch.cat([judge(centred(x.to(judge.mean.device), 0)).cpu() for x in images.split(CHUNK)]).double()


def best_temperature(judge: Judge, part: LabelledImages) -> float:
    """That of the highest likelihood of the labels (Guo et al. 2017)."""
    logits, labels = logits_of(judge, part.images), part.labels.long()
    found = minimize_scalar(
        lambda log: functional.cross_entropy(logits / math.exp(log), labels).item(), bounds=(-4.0, 4.0)
    )
    return math.exp(found.x)


def measure(judge: Judge, test: LabelledImages) -> None:
    probabilities = (logits_of(judge, test.images) / judge.temperature.item()).softmax(1)
    confidence, digits = probabilities.max(1)
    right, legible = (digits == test.labels).double(), confidence >= CONFIDENT
    judge.accuracy.fill_(right.mean().item())
    error = multiclass_calibration_error(probabilities, test.labels.long(), num_classes=NUM_DIGITS)
    judge.calibration_error.fill_(error.item())
    judge.legible.fill_(legible.double().mean().item())
    judge.legible_accuracy.fill_(right[legible].mean().item() if legible.any() else 0.0)
