"""A finished run as a program uses it: images in any usual form go in, tensors on the CPU come out.

Shapes: N images, (C, H, W) = run.image_shape, Z = run.latent_dim. Units: x in [0, 1]; nats or bits per dimension.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from svhn_vae.data.batches import CHUNK, EvaluationBatches, centred
from svhn_vae.errors import UserError
from svhn_vae.evaluation.bound import as_double, evaluation_pass, importance_weighted
from svhn_vae.model.coordinates import Features
from svhn_vae.model.elbo import ElboTerms, bits_per_dim
from svhn_vae.model.vae import VAE
from svhn_vae.seeds import Stream, derive_seed

Images = np.ndarray | Tensor | Image.Image | Sequence[np.ndarray | Tensor | Image.Image]
TYPES = ("uint8", "float32", "float64")  # of images: 16 bits cannot tell levels / 255 from points between them


class FinishedRun:
    """A trained VAE, what its run noted, and the usual questions to them.

    Images are (N, C, H, W) or (N, H, W, C), or one of them without N: arrays or tensors of uint8 levels, or of float32
    or float64 x in [0, 1]; or PIL images; or a list of such single images. Floating point that is levels / 255
    throughout, as torchvision makes it, is read as these levels. Raises UserError for anything else.

    The same arguments give the same results, and the caller's random generators are left alone.
    """

    def __init__(self, vae: VAE, result: dict[str, Any]) -> None:
        self.vae = vae.eval()
        self.result = result  # of result.json: metrics, choices, config, data, cost; {} where there is none
        self.image_shape = tuple(vae.representation.image_shape)  # (C, H, W)
        self.latent_dim = vae.networks.latent_dim + vae.num_labels  # z may end with the label's one-hot

    def encode(self, images: Images) -> Tensor:
        """The means z (N, Z) of the posteriors."""
        return self._by_chunk(lambda x: self.vae.at_mean(self.vae.representation(x).y).z, self._x(images))

    def decode(self, z: Tensor | np.ndarray) -> Tensor:
        """Latents z (N, Z) -> the decoder's mean images x (N, C, H, W) in [0, 1]."""
        array = z if isinstance(z, Tensor) else np.asarray(z)
        is_floating = type_of(array).startswith(("float", "bfloat"))
        if array.ndim != 2 or array.shape[1] != self.latent_dim or not len(array) or not is_floating:
            expected = f"expected latents z (N, {self.latent_dim}) of floating point"
            raise UserError(f"{expected}, got {tuple(array.shape)} {array.dtype}")
        z = torch.as_tensor(array)
        return self._by_chunk(lambda part: self.vae.decode_mean(part).clamp(0, 1), z.float())

    def sample(self, n: int, seed: int = 0, temperature: float = 1.0) -> Tensor:
        """The decoder's mean images x (n, C, H, W) in [0, 1] of n draws of the run's prior; 100 of them with seed 0 are
        those of figures/samples.png. temperature: multiplies the noise that the draws are made of."""
        require_number("n", n, Integral, 1)
        require_number("seed", seed, Integral, 0)
        require_number("temperature", temperature, Real, 0)
        generator = torch.Generator().manual_seed(derive_seed(Stream.PICTURES, seed, 0))
        with torch.no_grad():
            return self.decode(self.vae.prior.sample(n, generator, temperature))

    def reconstruct(self, images: Images) -> Tensor:
        """Images x (N, C, H, W) in [0, 1], through the posterior's and the decoder's mean."""
        return self._by_chunk(lambda x: self.vae.reconstruct(self.vae.representation(x)).clamp(0, 1), self._x(images))

    def log_prob(self, images: Images, k: int = 64) -> Tensor:
        """The importance-weighted bound on log p(x), (N,) float64, in nats per image, from k samples each.

        Of a density of x, or of a probability of the levels, as the run's head has it. Of the test images, in their
        order, the mean is the result's test/iw_elbo with k = test/iw_k.
        """
        require_number("k", k, Integral, 1)
        return self._scores(images, lambda features, index: importance_weighted(self.vae, features, k, index)[k].log_px)

    def bits_per_dim(self, images: Images) -> Tensor:
        """(N,) float64, by the bound with one sample: of the test images, in their order, the mean is the result's
        test/bits_per_dim."""

        def bound(features: Features, index: int) -> Tensor:
            terms = evaluation_pass(self.vae, features, index).terms
            return ElboTerms(*map(as_double, terms)).elbo

        return bits_per_dim(self._scores(images, bound), int(np.prod(self.image_shape)))

    @torch.no_grad()
    def _scores(self, images: Images, score: Callable[[Features, int], Tensor]) -> Tensor:
        """Of each image, with the noise that evaluation draws for an image at its place."""
        if not self.vae.variance.is_density:
            raise UserError(
                f"this run's {type(self.vae.variance).__name__} is no density of pixels: it has no such score"
            )
        found = pixels(images, self.image_shape)
        batches: Iterable[Features] = EvaluationBatches(found, self.vae.representation)
        if found.is_floating_point():
            batches = (self.vae.representation(x.to(self.vae.device)) for x in found.split(CHUNK))
        return torch.cat([score(features, index).cpu() for index, features in enumerate(batches)])

    def _x(self, images: Images) -> Tensor:
        found = pixels(images, self.image_shape)
        return found if found.is_floating_point() else centred(found, 0)

    @torch.no_grad()
    def _by_chunk(self, work: Callable[[Tensor], Tensor], whole: Tensor) -> Tensor:
        return torch.cat([work(part.to(self.vae.device)).cpu() for part in whole.split(CHUNK)])


def pixels(images: Images, shape: tuple[int, ...]) -> Tensor:
    """Images as FinishedRun takes them -> (N, C, H, W) on the CPU: uint8 levels, or float32 x. Raises UserError."""
    arrays = [array_of(image, shape) for image in (images if isinstance(images, list | tuple) else [images])]
    if len({array.dtype for array in arrays}) != 1:
        raise UserError(f"expected images of one type, got {len(arrays)} images: give at least one, all alike")
    return in_levels(torch.cat([in_order(array, shape) for array in arrays]).contiguous())


def array_of(image: Any, shape: tuple[int, ...]) -> Tensor:
    mode = "L" if shape[0] == 1 else "RGB"
    if isinstance(image, Image.Image) and image.mode != mode:
        raise UserError(f"expected PIL images of mode {mode}, got {image.mode}: use image.convert({mode!r})")
    array = image if isinstance(image, Tensor) else np.array(image)
    if type_of(array) not in TYPES:
        expected = f"expected arrays or tensors of {', '.join(TYPES)}, or PIL images"
        raise UserError(f"{expected}, got {type(image).__name__} of {type_of(array)}: convert them")
    return torch.as_tensor(array).detach().cpu()


def type_of(array: np.ndarray | Tensor) -> str:
    return str(array.dtype).removeprefix("torch.")


def in_order(array: Tensor, shape: tuple[int, ...]) -> Tensor:
    """(N, C, H, W) of one image or several, in either order of their axes; grey ones may have no axis of channels."""
    channels, height, width = shape
    first, last, given = tuple(shape), (height, width, channels), tuple(array.shape)
    if channels == 1 and given[-2:] == (height, width) and array.ndim in (2, 3):
        array = array.reshape(-1, 1, height, width)
    batch = array[None] if array.ndim == 3 else array
    fits = [batch.shape[1:] == order for order in (first, last)] if batch.ndim == 4 and len(batch) else []
    if sum(fits) != 1:
        why = "both orders fit" if all(fits) and fits else "resize or rearrange them"
        raise UserError(
            f"expected images (N, {', '.join(map(str, first))}) or (N, {', '.join(map(str, last))}), the run's shape, "
            f"got {given}: {why}"
        )
    return batch if fits[0] else batch.movedim(-1, 1)


def in_levels(array: Tensor) -> Tensor:
    """uint8 as they are, and levels / 255 as levels; else float32 x in [0, 1]."""
    if array.dtype == torch.uint8:
        return array
    x = array.float()
    if not 0 <= x.min() <= x.max() <= 1:
        found = f"{array.dtype} of {x.min():g} to {x.max():g}"
        raise UserError(f"expected images of uint8, or of floating point in [0, 1], got {found}: convert them")
    levels = (255 * x).round()
    return levels.to(torch.uint8) if (255 * x - levels).abs().max() < 1e-3 else x


def require_number(name: str, value: Any, kind: type[Integral] | type[Real], minimum: int) -> None:
    """Raises UserError for what is no finite number of its kind; numpy's are."""
    if not isinstance(value, kind) or isinstance(value, bool) or not minimum <= value < math.inf:  # pyright: ignore
        number = "a whole number" if kind is Integral else "a number"
        given = " ".join(repr(value).split())
        raise UserError(f"expected {name} to be {number} of {minimum} or more, got {given:.80}")
