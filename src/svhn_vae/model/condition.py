"""A VAE whose encoder, decoder and prior see the digit, and that says log p(x) without being told it.

    p(x) = sum over the labels c of p(c) p(x | c)
    log p(x) >= log sum of p(c) exp(elbo_c) >= sum of r(c) (elbo_c + log p(c) - log r(c)),  any shares r

p(c) is learnt with the bound, so that it becomes the frequencies of the training labels.

Shapes: B images, Z latent dimensions, L labels, n passes of an image; a label (B,) is a whole number.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812  its usual name
from torch import Tensor, nn

from svhn_vae.errors import UserError, at_least, fraction
from svhn_vae.model.coordinates import Features, Representation
from svhn_vae.model.elbo import ElboTerms
from svhn_vae.model.networks import Inferred, Networks, OneLevel
from svhn_vae.model.prior import Prior
from svhn_vae.model.vae import VAE, Pass
from svhn_vae.model.variance import VarianceHead


class Seen(NamedTuple):
    """What an encoder makes of B images, whatever their labels are."""

    mean: Tensor  # (B, Z)
    log_variance: Tensor  # (B, Z)
    logits: Tensor  # (B, L): of q(c | y)

    def repeated(self, num: int) -> "Seen":
        return Seen(*(array.repeat_interleave(num, 0) for array in self))


class LabelledNetworks(Networks):
    """Networks of one level that were built with L latents more than Z.

    The decoder is given the label's one-hot in the place of these, and the encoder's means of them are the logits of
    q(c | y). The posterior's mean and log-variance are shifted by what is learnt for each label. z (B, Z + L) has the
    one-hot at its end; all else of Inferred is of the Z latents.
    """

    needs_standard_prior = False

    def __init__(self, inner: OneLevel, num_labels: int) -> None:
        super().__init__()
        if not isinstance(inner, OneLevel) or inner.needs_standard_prior:
            raise UserError(
                f"condition=digit needs one level of latents, sampled with their own standard deviation, got "
                f"{type(inner).__name__}: use condition=none, or model=dense without model.sampling_bug"
            )
        self.inner, self.num_labels = inner, num_labels
        self.latent_dim = inner.latent_dim - num_labels
        self.shift = nn.Parameter(torch.zeros(num_labels, 2 * self.latent_dim))

    def see(self, y: Tensor) -> Seen:
        mean, log_variance = (output.float() for output in self.inner.encode(y))
        return Seen(mean[:, : self.latent_dim], log_variance[:, : self.latent_dim], mean[:, self.latent_dim :])

    def infer(self, seen: Seen, label: Tensor, noise: Tensor) -> Inferred:
        """q(z | y, c), its sample, and what the decoder makes of both."""
        mean, log_variance = (of + shift for of, shift in zip(seen, self.shift[label].chunk(2, dim=1), strict=False))
        z = torch.cat([mean + (0.5 * log_variance).exp() * noise, F.one_hot(label, self.num_labels)], dim=1)
        return Inferred(mean, log_variance, log_variance, z, *self.decode(z))

    def encode(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """z (B, Z + L) at the posterior's mean, its log-variance (B, Z)."""
        inferred = self(y, torch.zeros(len(y), self.latent_dim, device=y.device))
        return inferred.z, inferred.log_variance

    def forward(self, y: Tensor, noise: Tensor) -> Inferred:
        """With the label that q(c | y) finds most likely."""
        seen = self.see(y)
        return self.infer(seen, seen.logits.argmax(1), noise)

    def decode(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return self.inner.decode(z)

    def shrink(self, factor: float) -> None:
        self.inner.shrink(factor)


class LabelledPrior(Prior):
    """p(c) p(z | c), with a prior of each label for its latents: the law of z (B, Z + L)."""

    def __init__(self, priors: list[Prior]) -> None:
        nn.Module.__init__(self)
        self.latent_dim, self.is_fitted_last = priors[0].latent_dim, priors[0].is_fitted_last
        self.priors = nn.ModuleList(priors)
        self.logits = nn.Parameter(torch.zeros(len(priors)))  # of p(c)

    @property
    def is_fitted(self) -> bool:
        return self.priors[0].is_fitted  # pyright: ignore[reportReturnType]

    @is_fitted.setter
    def is_fitted(self, value: bool) -> None:
        for prior in self.priors:
            prior.is_fitted = value  # pyright: ignore[reportArgumentType]

    def log_prob(self, z: Tensor) -> Tensor:
        latents, label = self._parts(z)
        given = self._by_label(label, lambda prior, rows: prior.log_prob(latents[rows]))
        return given + self.logits.log_softmax(0)[label]

    def kl(self, mean: Tensor, log_variance: Tensor, z: Tensor) -> Tensor:
        """As in Prior, of the Z latents; the last of G is -log p(c)."""
        latents, label = self._parts(z)
        kl = self._by_label(label, lambda prior, rows: prior.kl(mean[rows], log_variance[rows], latents[rows]))
        return torch.cat([kl, -self.logits.log_softmax(0)[label, None]], dim=1)

    def sample(self, num: int, generator: torch.Generator, temperature: float) -> Tensor:
        chances = self.logits.detach().softmax(0).cpu()
        label = torch.multinomial(chances, num, replacement=True, generator=generator)
        return self.sample_of(label.to(self.logits.device), generator, temperature)

    @torch.no_grad()
    def sample_of(self, label: Tensor, generator: torch.Generator, temperature: float) -> Tensor:
        """(B, Z + L) of these labels (B,)."""
        z = self._by_label(label, lambda prior, rows: prior.sample(len(rows), generator, temperature))
        return torch.cat([z, F.one_hot(label, len(self.priors))], dim=1)

    def moments(self) -> tuple[Tensor, Tensor]:
        """Of the latents of the most frequent label."""
        label = self.logits.argmax()
        mean, spread = self.priors[int(label)].moments()  # pyright: ignore[reportCallIssue]
        one_hot = F.one_hot(label, len(self.priors))
        return torch.cat([mean, one_hot]), torch.cat([spread, torch.zeros_like(one_hot)])

    def fit(self, mean: Tensor, log_variance: Tensor, seed: int) -> None:
        """Each on the posteriors of the images with its label; of too few, on all. As `LabelledNetworks.encode` has
        them: mean (N, Z + L), log_variance (N, Z)."""
        mean, label = self._parts(mean)
        for number, prior in enumerate(self.priors):
            rows = (label == number).nonzero()[:, 0]
            rows = rows if len(rows) > 1 else torch.arange(len(label), device=label.device)
            prior.fit(mean[rows], log_variance[rows], seed + number)  # pyright: ignore[reportCallIssue]

    def _parts(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return z[:, : self.latent_dim], z[:, self.latent_dim :].argmax(1)

    def _by_label(self, label: Tensor, found: Callable[[Prior, Tensor], Tensor]) -> Tensor:
        """Label (B,), and what a prior says of some rows -> that of all rows, each by its label's prior."""
        rows = [(label == number).nonzero()[:, 0] for number in range(len(self.priors))]
        parts = [found(prior, own) for prior, own in zip(self.priors, rows, strict=True) if len(own)]  # pyright: ignore[reportArgumentType]
        return torch.cat(parts)[torch.cat(rows).argsort()]


class DigitVAE(VAE):
    """alpha: nats of the bound that a nat of log q(c | y) is worth, the mean over the images whose label is known.
    labels: the share of training images whose label is known.

    Where all are known, training maximises the bound on log p(x, c). Of an image without a label it takes the mean
    over c ~ q(c | y), and adds the entropy of q: M2 of Kingma et al. 2014.
    """

    networks: LabelledNetworks
    prior: LabelledPrior
    needs_labels = True

    def __init__(
        self,
        representation: Representation,
        networks: LabelledNetworks,
        variance: VarianceHead,
        prior: LabelledPrior,
        *,
        alpha: float,
        labels: float,
    ) -> None:
        super().__init__(representation, networks, variance, prior)
        at_least("condition", 0, alpha=alpha)
        fraction("condition", labels=labels)
        self.alpha, self.labels, self.num_labels = alpha, labels, networks.num_labels

    def forward(self, features: Features, *, hold_mean: bool = False) -> Pass:
        return self._learn(features, hold_mean) if self.training else self._marginal(features)

    def inferences(self, y: Tensor, noise: Tensor) -> Iterator[Inferred]:
        seen = self.networks.see(y)
        for number in range(self.num_labels):
            yield self.networks.infer(seen, torch.full((len(y),), number, device=y.device), noise)

    def labels_of(self, y: Tensor) -> Tensor:
        return self.networks.see(y).logits.argmax(1)

    def _marginal(self, features: Features) -> Pass:
        """The bound on log p(x), its terms the means over the labels by their shares; the likelihood, and what is
        inferred, are those of the label with the largest share.

        The shares are those at the posteriors' means. If they came from the samples of z that the terms are taken at,
        labels with a lucky sample would count more, and the figure would be no bound.
        """
        noise = self._noise(len(features.y))
        share = torch.stack([terms.elbo for terms in self._terms(features, 0 * noise)], dim=1).softmax(1)  # (B, L)
        sampled = (torch.stack(each, dim=1) for each in zip(*self._terms(features, noise), strict=True))
        terms = ElboTerms(*((share * each).sum(1) for each in sampled))
        terms = terms._replace(kl=terms.kl - torch.special.entr(share).sum(1))
        likely = self.networks.infer(self.networks.see(features.y), share.argmax(1), noise)
        return self.bound(features, likely)._replace(terms=terms, kl_in_loss=terms.kl)

    def _terms(self, features: Features, noise: Tensor) -> list[ElboTerms]:
        """Of the bound on log p(x, c), for each label."""
        return [self.bound(features, inferred).terms for inferred in self.inferences(features.y, noise)]

    def _learn(self, features: Features, hold_mean: bool) -> Pass:
        """n = 1 pass of each image where all labels are known, else n = L; see Pass.weight."""
        seen, label = self.networks.see(features.y), features.label
        is_known, given = label >= 0, F.one_hot(label.clamp(min=0), self.num_labels).float()
        wrong = F.cross_entropy(seen.logits, label.clamp(min=0), reduction="none")
        cost = self.alpha / self.labels * (wrong * is_known).mean()
        n = 1 if self.labels == 1 else self.num_labels
        repeated = Features(*(array.repeat_interleave(n, 0) for array in features))
        if n == 1:
            weight = torch.ones_like(seen.logits[:, 0])
        else:
            weight = torch.where(is_known[:, None], given, seen.logits.softmax(1)).flatten()
            label = torch.arange(n, device=label.device).repeat(len(label))
        inferred = self.networks.infer(seen.repeated(n), label, self._noise(len(label)))
        likely = weight.view(-1, n).argmax(1) + n * torch.arange(len(features.y), device=label.device)
        self.variance.observe(inferred.params[likely], features.y)
        result = self.bound(repeated, inferred, hold_mean)
        uncertain = result.terms._replace(kl=result.terms.kl + weight.clamp(min=1e-12).log())
        kl = uncertain.kl
        return Pass(inferred, result.likelihood, uncertain, kl[:, None], kl, weight, cost)
