"""The layers whose training depends on the whole batch: batch normalisation and dropout.

torch.nn.SyncBatchNorm does the first on GPUs alone, and nothing does the second.
Shapes: x (B, C, ...), of a part of the batch.
"""

from lightning.pytorch.plugins.layer_sync import LayerSync
from torch import Tensor, nn

from svhn_vae.whole_batch import mean_over_parts, num_parts, own_rows


class WholeBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch normalisation by the mean and variance of the whole batch."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        dims, shape = [0, *range(2, x.ndim)], [1, -1, *[1] * (x.ndim - 2)]
        mean = mean_over_parts(x.float().mean(dims))
        centred = x - mean.view(shape)
        variance = mean_over_parts(centred.square().mean(dims))
        self._track(mean.detach(), variance.detach(), num_parts() * x.numel() // x.shape[1])
        y = centred * (variance + self.eps).rsqrt().view(shape)
        if self.affine:
            y = y * self.weight.view(shape) + self.bias.view(shape)
        return y.to(x.dtype)

    def _track(self, mean: Tensor, variance: Tensor, num: int) -> None:
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance * (num / (num - 1)), self.momentum)

    def _check_input_dim(self, x: Tensor) -> None:
        """Whatever the layer took whose place this has."""


class WholeBatchDropout(nn.Dropout):
    """Dropout by the whole batch's mask; on a CPU that is the mask of a single process."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not 0 < self.p < 1:
            return super().forward(x)
        whole = x.new_empty(num_parts() * len(x), *x.shape[1:]).bernoulli_(1 - self.p)
        return x * own_rows(whole.div_(1 - self.p))


INSTEAD = {nn.BatchNorm1d: WholeBatchNorm, nn.BatchNorm2d: WholeBatchNorm, nn.Dropout: WholeBatchDropout}


class WholeBatchLayers(LayerSync):
    """Lightning applies this when a run begins to train in several processes. Weights and their names stay."""

    def apply(self, model: nn.Module) -> nn.Module:
        self._changed = [(module, type(module)) for module in model.modules() if type(module) in INSTEAD]
        for module, kind in self._changed:
            module.__class__ = INSTEAD[kind]
        return model

    def revert(self, model: nn.Module) -> nn.Module:
        for module, kind in self._changed:
            module.__class__ = kind
        return model
