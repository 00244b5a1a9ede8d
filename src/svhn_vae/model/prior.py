"""Priors: the law p(z) of the latents. One class per file in conf/prior/.

StandardNormal; Mixture and Vamp, learnt with the bound from the first update on; GaussianMixture, Flow and TwoStage,
fitted on q(z), the posteriors of the training images, when training has ended. Training goes with N(0, I) then: an
autoencoder's latents never fill it, and a law fitted on where they are halves the distance of samples from images (two
stages: Dai and Wipf 2019; a density after the fact: Ghosh et al. 2020).

To add one: subclass Prior (or FittedPrior), write conf/prior/<name>.yaml. Nothing else changes.

Shapes: N training images, B images, Z latent dimensions, G groups of them, K components of a mixture, E = event_shape
of y. Units: log-densities in nats per image.
"""

import functools
import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from svhn_vae.errors import UserError, at_least
from svhn_vae.model.coordinates import Features
from svhn_vae.model.elbo import kl_to_standard_normal
from svhn_vae.model.networks import Networks, OneLevel

NUM_DRAWS = 10_000  # for the moments of a prior that has none in closed form: their errors are near 1 %


class Prior(nn.Module, ABC):
    """The law p(z) of the latents z (B, Z) of some networks."""

    is_bound = False  # True: log_prob is a lower bound, on average over its noise
    is_fitted_last = False  # True: by `fit`, when all else is learnt
    is_fitted: bool

    def __init__(self, name: str, networks: Networks, **counts: int) -> None:
        """Raises UserError for networks whose latents are N(0, I) by construction, and for counts below 1."""
        super().__init__()
        if networks.needs_standard_prior and name != "standard":
            raise UserError(
                f"prior={name} needs one level of latents, sampled with their own standard deviation, got "
                f"{type(networks).__name__}: use prior=standard, or model=dense without model.sampling_bug"
            )
        at_least("prior", 1, **counts)
        self.latent_dim = networks.latent_dim

    @abstractmethod
    def log_prob(self, z: Tensor) -> Tensor:
        """z (B, Z) -> log p(z) (B,)."""

    @abstractmethod
    def sample(self, num: int, generator: torch.Generator, temperature: float) -> Tensor:
        """(num, Z), drawn with a generator of the CPU, alike on any device; `temperature` multiplies the standard
        deviation of the noise that they are made of: 1 gives samples of p(z), 0 its most typical points."""

    def kl(self, mean: Tensor, log_variance: Tensor, z: Tensor) -> Tensor:
        """A posterior N(mean, exp(log_variance)) and its sample z, (B, Z) each -> (B, G), whose sum over G has the mean
        KL(q || p): here log q(z) - log p(z) of the sample, with G = 1."""
        log_q = -0.5 * ((z - mean).square() * (-log_variance).exp() + log_variance + math.log(2 * math.pi))
        return (log_q.sum(1) - self.log_prob(z))[:, None]

    def start(self, batches: Iterable[Features]) -> None:
        """Called once before training, with some training images: priors may begin from data."""

    @property
    def device(self) -> torch.device:
        return next(iter([*self.parameters(), *self.buffers()])).device

    def moments(self) -> tuple[Tensor, Tensor]:
        """The mean and the standard deviation of each latent, (Z,) each."""
        z = self.sample(NUM_DRAWS, torch.Generator().manual_seed(0), 1.0)
        return z.mean(0), z.std(0)


class StandardNormal(Prior):
    """N(0, I), whose KL has a closed form, a number per latent: G = Z."""

    def __init__(self, networks: Networks) -> None:
        super().__init__("standard", networks)
        self.origin: Tensor
        self.register_buffer("origin", torch.zeros(self.latent_dim), persistent=False)

    def log_prob(self, z: Tensor) -> Tensor:
        return standard_log_prob(z)

    def sample(self, num: int, generator: torch.Generator, temperature: float) -> Tensor:
        return temperature * torch.randn(num, self.latent_dim, generator=generator).to(self.device)

    def kl(self, mean: Tensor, log_variance: Tensor, z: Tensor) -> Tensor:
        return kl_to_standard_normal(mean, log_variance)

    def moments(self) -> tuple[Tensor, Tensor]:
        return self.origin, torch.ones_like(self.origin)


def standard_log_prob(z: Tensor) -> Tensor:
    """log N(z; 0, I) of z (B, Z) -> (B,)."""
    return -0.5 * (z.square() + math.log(2 * math.pi)).sum(1)


class DiagonalMixture(Prior):
    """A mixture of K Gaussians with independent latents; a subclass says which."""

    def components(self) -> tuple[Tensor, Tensor, Tensor]:
        """Log-weights (K,), means and log-variances (K, Z)."""
        raise NotImplementedError

    def log_prob(self, z: Tensor) -> Tensor:
        log_weights, mean, log_variance = self.components()
        # Differences of all pairs (B, K, Z): products of matrices would lose narrow components' digits in float32.
        terms = (z[:, None] - mean).square() * (-log_variance).exp() + log_variance + math.log(2 * math.pi)
        return (log_weights - 0.5 * terms.sum(2)).logsumexp(1)

    @torch.no_grad()
    def sample(self, num: int, generator: torch.Generator, temperature: float) -> Tensor:
        log_weights, mean, log_variance = self.components()
        chosen = torch.multinomial(log_weights.exp().cpu(), num, replacement=True, generator=generator).to(mean.device)
        noise = torch.randn(num, self.latent_dim, generator=generator).to(mean.device)
        return mean[chosen] + temperature * (0.5 * log_variance[chosen]).exp() * noise


class Mixture(DiagonalMixture):
    """K Gaussians with weights, means and variances of their own, all learnt (Dilokthanakul et al. 2016)."""

    def __init__(self, networks: OneLevel, *, num_components: int) -> None:
        super().__init__("mixture", networks, num_components=num_components)
        self.logits = nn.Parameter(torch.zeros(num_components))
        self.mean = nn.Parameter(torch.randn(num_components, self.latent_dim))  # alike, they would learn alike
        self.log_variance = nn.Parameter(torch.zeros(num_components, self.latent_dim))

    def components(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.logits.log_softmax(0), self.mean, self.log_variance


class Vamp(DiagonalMixture):
    """The mixture of the posteriors of K learnt pseudo-inputs (Tomczak and Welling 2018), which begin as training
    images."""

    def __init__(self, networks: OneLevel, *, num_components: int) -> None:
        super().__init__("vamp", networks, num_components=num_components)
        if not isinstance(networks, OneLevel):
            raise UserError(
                "prior=vamp needs an encoder that sees images alone: with condition=digit use prior=mixture"
            )
        self.pseudo_inputs = nn.Parameter(torch.randn(num_components, *networks.event_shape))
        self._networks = (networks,)  # in a tuple: they are the VAE's, and no part of this module's state

    @torch.no_grad()
    def start(self, batches: Iterable[Features]) -> None:
        y = next(iter(batches)).y
        evenly = torch.linspace(0, len(y) - 1, len(self.pseudo_inputs)).round().long()
        self.pseudo_inputs.copy_(y[evenly])

    def components(self) -> tuple[Tensor, Tensor, Tensor]:
        [networks] = self._networks
        was_training = networks.training
        networks.eval()  # p(z) has no dropout, and does not depend on which batch it is asked for
        mean, log_variance = (out.to(self.pseudo_inputs) for out in networks.encode(self.pseudo_inputs))
        networks.train(was_training)
        return mean.new_full((len(mean),), -math.log(len(mean))), mean, log_variance


class FittedPrior(Prior):
    """N(0, I) until it is fitted. None of its numbers are learnt by the bound."""

    is_fitted_last = True
    is_fitted = False
    num_noises = 1  # for a sample, Z numbers each

    @abstractmethod
    def learn(self, mean: Tensor, log_variance: Tensor) -> None:
        """Fits the density to draws of the posteriors N(mean, exp(log_variance)), (N, Z) each, from torch's default
        generator."""

    @abstractmethod
    def fitted_log_prob(self, z: Tensor) -> Tensor:
        """log_prob, once it is fitted."""

    @abstractmethod
    def from_noise(self, noise: Tensor, generator: torch.Generator) -> Tensor:
        """noise (B, num_noises * Z) of N(0, I) -> samples (B, Z), once it is fitted."""

    def fit(self, mean: Tensor, log_variance: Tensor, seed: int) -> None:
        """On the posteriors of training images, (N, Z) each; the same for the same seed."""
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.learn(mean, log_variance)
        self.is_fitted = True

    def log_prob(self, z: Tensor) -> Tensor:
        return self.fitted_log_prob(z) if self.is_fitted else standard_log_prob(z)

    @torch.no_grad()
    def sample(self, num: int, generator: torch.Generator, temperature: float) -> Tensor:
        noise = torch.randn(num, self.num_noises * self.latent_dim, generator=generator)
        noise = temperature * noise.to(self.device)
        return self.from_noise(noise, generator) if self.is_fitted else noise[:, : self.latent_dim]

    def kl(self, mean: Tensor, log_variance: Tensor, z: Tensor) -> Tensor:
        return super().kl(mean, log_variance, z) if self.is_fitted else kl_to_standard_normal(mean, log_variance)


class GaussianMixture(FittedPrior):
    """K Gaussians with full covariances, by scikit-learn's EM.

    num_components: K, or fewer where a component would have fewer than Z draws.
    num_draws: of each posterior, to fit it on: they keep a component of few images as wide as their posteriors.
    floor: added to the covariances' diagonals; the posterior's own variance is in the draws.
    """

    def __init__(
        self, networks: OneLevel, *, num_components: int, num_draws: int, floor: float, max_iterations: int
    ) -> None:
        counts = {"num_components": num_components, "num_draws": num_draws, "max_iterations": max_iterations}
        super().__init__("gaussian_mixture", networks, **counts)
        self.max_components, self.num_draws = num_components, num_draws
        self.floor, self.max_iterations = floor, max_iterations
        self.log_weights: Tensor
        self.mean: Tensor
        self.factor: Tensor
        self.register_buffer("log_weights", torch.full((num_components,), -math.log(num_components)))
        self.register_buffer("mean", torch.zeros(num_components, self.latent_dim))
        # Covariances by their lower triangular factors.
        self.register_buffer("factor", torch.eye(self.latent_dim).expand(num_components, -1, -1).contiguous())

    def learn(self, mean: Tensor, log_variance: Tensor) -> None:
        from sklearn import exceptions, mixture  # takes a second to import, and most runs do without

        sigma = (0.5 * log_variance).exp()
        draws = [mean + sigma * torch.randn_like(mean) for _ in range(self.num_draws)]
        z = torch.cat(draws).double().cpu().numpy()
        num, seed = max(1, min(self.max_components, len(z) // self.latent_dim)), int(torch.randint(2**31, ()))
        settings = {"reg_covar": self.floor, "max_iter": self.max_iterations, "random_state": seed}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", exceptions.ConvergenceWarning)  # a density all the same
            found = mixture.GaussianMixture(num, **settings).fit(z)
        weights, means, covariances = (torch.tensor(of) for of in (found.weights_, found.means_, found.covariances_))
        self.log_weights.fill_(-math.inf)  # the components that are left over
        self.log_weights[:num].copy_(weights.log())
        self.mean[:num].copy_(means)
        self.factor[:num].copy_(torch.linalg.cholesky(covariances))

    def fitted_log_prob(self, z: Tensor) -> Tensor:
        errors = (z[None] - self.mean[:, None]).mT  # (K, Z, B)
        square = torch.linalg.solve_triangular(self.factor, errors, upper=False).square().sum(1)  # (K, B)
        log_det = 2 * self.factor.diagonal(dim1=1, dim2=2).log().sum(1, keepdim=True)
        log_norm = log_det + self.latent_dim * math.log(2 * math.pi)
        return (self.log_weights[:, None] - 0.5 * (square + log_norm)).logsumexp(0)

    def from_noise(self, noise: Tensor, generator: torch.Generator) -> Tensor:
        weights = self.log_weights.exp().cpu()
        chosen = torch.multinomial(weights, len(noise), replacement=True, generator=generator).to(noise.device)
        return self.mean[chosen] + (self.factor[chosen] @ noise[:, :, None])[:, :, 0]


class Trained(FittedPrior):
    """Learnt by AdamW with a cosine schedule, on fresh draws of the posteriors; a subclass says how likely standardised
    latents are."""

    def __init__(
        self,
        name: str,
        networks: OneLevel,
        num_steps: int,
        batch_size: int,
        learning_rate: float,
        weight_decay: float,
        **counts: int,
    ) -> None:
        super().__init__(name, networks, num_steps=num_steps, batch_size=batch_size, **counts)
        self.num_steps, self.batch_size = num_steps, batch_size
        self.learning_rate, self.weight_decay = learning_rate, weight_decay
        self.shift: Tensor
        self.scale: Tensor
        self.register_buffer("shift", torch.zeros(self.latent_dim))
        self.register_buffer("scale", torch.ones(self.latent_dim))

    @abstractmethod
    def standardised_log_prob(self, z: Tensor) -> Tensor:
        """z (B, Z) with mean 0 and variance 1 -> (B,)."""

    def objective(self, z: Tensor) -> Tensor:
        """What is maximised, of standardised z (B, Z) -> (B,)."""
        return self.standardised_log_prob(z)

    def fitted_log_prob(self, z: Tensor) -> Tensor:
        return self.standardised_log_prob((z - self.shift) / self.scale) - self.scale.log().sum()

    @torch.enable_grad()
    def learn(self, mean: Tensor, log_variance: Tensor) -> None:
        sigma = (0.5 * log_variance).exp()
        self.shift.copy_(mean.mean(0))
        self.scale.copy_((mean.var(0, correction=0) + sigma.square().mean(0)).sqrt())
        weights = list(self.requires_grad_(True).parameters())
        optimizer = torch.optim.AdamW(weights, self.learning_rate, weight_decay=self.weight_decay)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.num_steps)
        for _ in range(self.num_steps):
            drawn = torch.randint(len(mean), (self.batch_size,)).to(mean.device)
            z = mean[drawn] + sigma[drawn] * torch.randn_like(mean[drawn])
            optimizer.zero_grad()
            (-self.objective((z - self.shift) / self.scale).mean()).backward()
            optimizer.step()
            schedule.step()
        self.requires_grad_(False)


class Flow(Trained):
    """An autoregressive neural spline flow (Durkan et al. 2019; zuko's)."""

    def __init__(
        self,
        networks: OneLevel,
        *,
        num_transforms: int,
        widths: Sequence[int],
        num_steps: int,
        batch_size: int,
        learning_rate: float,
        weight_decay: float,
    ) -> None:
        import zuko  # what most runs do without

        learning = (num_steps, batch_size, learning_rate, weight_decay)
        super().__init__("flow", networks, *learning, num_transforms=num_transforms)
        with torch.device("cpu"):  # zuko compares the rows of its masks: meta tensors have no values
            self.flow = zuko.flows.NSF(self.latent_dim, transforms=num_transforms, hidden_features=tuple(widths))
        self.flow.requires_grad_(False)  # the bound does not learn it

    def standardised_log_prob(self, z: Tensor) -> Tensor:
        return self.flow().log_prob(z)

    def from_noise(self, noise: Tensor, generator: torch.Generator) -> Tensor:
        return self.flow().transform.inv(noise) * self.scale + self.shift


class TwoStage(Trained):
    """A second VAE, of the latents: u ~ N(0, I), as many as z has, and one learnt sigma (Dai and Wipf 2019).

    log_prob is a bound on the log-density: importance-weighted with num_samples, whose noise is evenly spread, and the
    same for every z.
    """

    is_bound = True
    num_noises = 2  # u, and the errors of z

    def __init__(
        self,
        networks: OneLevel,
        *,
        width: int,
        num_samples: int,
        num_steps: int,
        batch_size: int,
        learning_rate: float,
        weight_decay: float,
    ) -> None:
        learning = (num_steps, batch_size, learning_rate, weight_decay)
        super().__init__("two_stage", networks, *learning, width=width, num_samples=num_samples)
        self.num_samples, size = num_samples, self.latent_dim
        self.encoder = perceptron(size, width, 2 * size)
        self.decoder = perceptron(size, width, size)
        self.log_variance = nn.Parameter(torch.zeros(()))  # of z given u
        self.requires_grad_(False)  # the bound does not learn it

    def standardised_log_prob(self, z: Tensor) -> Tensor:
        uniform = torch.quasirandom.SobolEngine(self.latent_dim, scramble=True, seed=0).draw(self.num_samples)
        draws = torch.special.ndtri(uniform.clamp(1e-6, 1 - 1e-6)).to(z)
        mean, log_variance = self.encoder(z).chunk(2, dim=1)
        weights = (self._log_weight(z, mean, log_variance, noise.expand_as(z)) for noise in draws)
        return functools.reduce(torch.logaddexp, weights) - math.log(self.num_samples)

    def objective(self, z: Tensor) -> Tensor:
        mean, log_variance = self.encoder(z).chunk(2, dim=1)
        return self._log_weight(z, mean, log_variance, torch.randn_like(mean))

    def _log_weight(self, z: Tensor, mean: Tensor, log_variance: Tensor, noise: Tensor) -> Tensor:
        """log p(z | u) + log p(u) - log q(u | z) at u = mean + sigma * noise."""
        u = mean + (0.5 * log_variance).exp() * noise
        error = (z - self.decoder(u)) * (-0.5 * self.log_variance).exp()
        size = 0.5 * (log_variance - self.log_variance).sum(1)
        return standard_log_prob(error) + standard_log_prob(u) - standard_log_prob(noise) + size

    def from_noise(self, noise: Tensor, generator: torch.Generator) -> Tensor:
        u, errors = noise.chunk(2, dim=1)
        return (self.decoder(u) + (0.5 * self.log_variance).exp() * errors) * self.scale + self.shift


def perceptron(inputs: int, width: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, outputs)
    )
