"""A training batch that is divided among the processes of a run, treated as one.

What depends on the other images of a batch (means over it, and its random numbers) is that of the whole batch, so that
a run comes to the same result in one process and in several. In one process all of this does nothing.

Shapes: W images of the whole batch, B of this process's part, the same in each: W / B processes.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def num_parts() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def own_rows(whole: Tensor) -> Tensor:
    """Of the whole batch (W, ...), those of this process (B, ...)."""
    return whole.chunk(num_parts())[dist.get_rank()] if num_parts() > 1 else whole


@torch.compiler.disable
def mean_over_parts(values: Tensor) -> Tensor:
    """The mean over the processes, with its gradient: of means over B images, the one over W. Called by all of them."""
    return MeanOverParts.apply(values) if num_parts() > 1 else values


class MeanOverParts(torch.autograd.Function):
    """Each process's loss depends on every other's values: the gradients come back by the same mean."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        total = values.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total / num_parts()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return MeanOverParts.forward(ctx, gradient)
