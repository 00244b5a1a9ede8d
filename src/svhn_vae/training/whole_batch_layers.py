"""The layer whose training depends on the other images of a batch. torch.nn.SyncBatchNorm is for GPUs alone.

Shapes: x (B, C, ...), of a part of the batch.
"""

from lightning.pytorch.plugins.layer_sync import LayerSync
from torch import Tensor, nn

from svhn_vae.model.whole_batch import mean_over_parts, num_parts


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


INSTEAD = (nn.BatchNorm1d, nn.BatchNorm2d)


class WholeBatchLayers(LayerSync):
    """Lightning applies this when a run begins to train in several processes. Weights and their names stay."""

    def apply(self, model: nn.Module) -> nn.Module:
        self._changed = [(module, type(module)) for module in model.modules() if type(module) in INSTEAD]
        for module, _ in self._changed:
            module.__class__ = WholeBatchNorm
        return model

    def revert(self, model: nn.Module) -> nn.Module:
        for module, kind in self._changed:
            module.__class__ = kind
        return model
