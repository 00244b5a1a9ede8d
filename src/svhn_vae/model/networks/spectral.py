"""Two levels of latents for cosine coefficients: what the spectrum of an image is, then where its detail lies.

Shapes: as in interface.py; event_shape (C, H, H), y whitened coefficients, G = grid places in a row.
"""

import torch
import torch.nn.functional as F  # noqa: N812  its usual name
from torch import Tensor, nn

from svhn_vae.errors import UserError, at_least, fraction
from svhn_vae.model.coordinates import cosines, to_places
from svhn_vae.model.networks.interface import Inferred, Networks, Sizes, shrink_channels, zero_linear

ENERGY_FLOOR = 1e-3  # of whitened coefficients, whose mean energy is 1: keeps the logarithm finite
POOL = 2  # neighbouring frequencies whose energies the encoder sees together


class Spectral(Networks):
    """The first level sees the energies of an image's frequencies and says its spectrum; the second sees the energies
    of its places, once that spectrum is divided out, and says theirs. The mean is one constant for all images.

    A spectrum is the sum of a profile in each direction, a smooth map of both, and a constant: pictures were scaled
    from crops of any size and shape, so what differs most between them is where their spectrum ends in x and in y.
    """

    def __init__(
        self,
        sizes: Sizes,
        *,
        latent_dim: int,
        width: int,
        grid: int,
        place_channels: int,
        place_width: int,
        dropout: float,
    ) -> None:
        super().__init__()
        event_shape = sizes.event_shape
        if len(event_shape) != 3 or sizes.params_per_element != 3:
            raise UserError(
                f"model=spectral needs variance=spectral and its coefficients (C, H, H), got features "
                f"{tuple(event_shape)}: use variance=spectral alone, which chooses the rest"
            )
        at_least("model", 1, latent_dim=latent_dim, width=width, place_channels=place_channels, place_width=place_width)
        fraction("model", dropout=dropout)
        channels, size, _ = event_shape
        if grid < 1 or size % grid:
            raise UserError(f"model.grid must divide {size}, the features' height, got {grid}")
        self.event_shape, self.grid = event_shape, grid
        self.spectrum_dim, self.place_shape = latent_dim, (place_channels, grid, grid)
        self.latent_dim = latent_dim + place_channels * grid**2
        num_bands = channels * (size // POOL) ** 2
        num_coarse = channels * (size // 4) ** 2
        self.encode_spectrum = nn.Sequential(
            nn.BatchNorm1d(num_bands, affine=False), *perceptron(num_bands, width, 2 * latent_dim, dropout)
        )
        self.decode_spectrum = perceptron(latent_dim, width, 2 * channels * size + num_coarse, dropout)
        self.encode_place = three_convolutions(2 * channels, place_width, 2 * place_channels)
        self.decode_place = three_convolutions(place_channels, place_width, channels)
        self.image_params = zero_linear(self.latent_dim, sizes.params_per_image)
        self.mean, self.spectrum, self.place = (nn.Parameter(torch.zeros(self.event_shape)) for _ in range(3))
        self.waves: Tensor
        self.register_buffer("waves", cosines(size).float(), persistent=False)
        self.shrink(0.1)

    def shrink(self, factor: float) -> None:
        for layers in (self.encode_place, self.decode_place, self.decode_spectrum):
            shrink_channels(layers[-1], 0, factor)

    def forward(self, y: Tensor, noise: Tensor) -> Inferred:
        noise_spectrum, noise_place = noise.split([self.spectrum_dim, noise.shape[1] - self.spectrum_dim], dim=1)
        first = self.encode_spectrum(log_energy(y, POOL).flatten(1)).float()
        z_spectrum, *posterior_spectrum = sampled(first, noise_spectrum)
        spectrum = self._spectrum(z_spectrum)
        with torch.autocast(y.device.type, enabled=False):
            whitened = to_places((y.float() - self.mean) * (-0.5 * spectrum).exp(), self.waves)
        places = log_energy(whitened, self.event_shape[1] // self.grid)
        whole = log_energy(whitened, self.event_shape[1]).expand_as(places)
        second = self.encode_place(torch.cat([places, whole], dim=1)).float().flatten(1)
        z_place, *posterior_place = sampled(second, noise_place)
        mean, log_variance = (torch.cat(both, dim=1) for both in zip(posterior_spectrum, posterior_place, strict=True))
        z = torch.cat([z_spectrum, z_place], dim=1)
        return Inferred(mean, log_variance, log_variance, z, self._params(spectrum, z_place), self.image_params(z))

    def decode(self, z: Tensor) -> tuple[Tensor, Tensor]:
        z_spectrum, z_place = z.split([self.spectrum_dim, z.shape[1] - self.spectrum_dim], dim=1)
        return self._params(self._spectrum(z_spectrum), z_place), self.image_params(z)

    def _spectrum(self, z: Tensor) -> Tensor:
        """z (B, spectrum_dim) -> log-variances of the frequencies (B, C, H, H)."""
        channels, size, _ = self.event_shape
        down, across, coarse = (
            self.decode_spectrum(z)
            .float()
            .split([channels * size, channels * size, channels * (size // 4) ** 2], dim=1)
        )
        coarse = coarse.view(-1, channels, size // 4, size // 4)
        smooth = F.interpolate(coarse, size=(size, size), mode="bilinear")
        return down.view(-1, channels, size, 1) + across.view(-1, channels, 1, size) + smooth + self.spectrum

    def _params(self, spectrum: Tensor, z: Tensor) -> Tensor:
        """Spectrum (B, C, H, H), z of the places (B, .) -> mean, spectrum and places: (B, 3, C, H, H)."""
        _, size, _ = self.event_shape
        coarse = self.decode_place(z.view(-1, *self.place_shape)).float()
        place = F.interpolate(coarse, size=(size, size), mode="bilinear") + self.place
        return torch.stack([self.mean.expand_as(spectrum), spectrum, place], dim=1)


def log_energy(y: Tensor, pool: int) -> Tensor:
    """y (B, C, H, H) -> half the logarithm of the mean square of each pool x pool block."""
    return 0.5 * (F.avg_pool2d(y.float().square(), pool) + ENERGY_FLOOR).log()


def sampled(output: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Encoder output (B, 2 Z), noise (B, Z) -> z, mean and log-variance (B, Z); the log-variance is kept in -10..4."""
    mean, raw = output.chunk(2, dim=1)
    log_variance = -3 + 7 * torch.tanh((raw + 3) / 7)
    return mean + (0.5 * log_variance).exp() * noise, mean, log_variance


def perceptron(inputs: int, width: int, outputs: int, dropout: float) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before in (inputs, width):
        layers += [nn.Linear(before, width), nn.SiLU(), nn.LayerNorm(width), nn.Dropout(dropout)]
    return nn.Sequential(*layers, nn.Linear(width, outputs))


def three_convolutions(inputs: int, width: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, width, 3, padding=1), nn.SiLU(),
        nn.Conv2d(width, width, 3, padding=1), nn.SiLU(),
        nn.Conv2d(width, outputs, 3, padding=1),
    )  # fmt: skip
