"""A learned density per channel (the factorised prior), without compressai.

Parameters, buffers, arithmetic and random draws are those of ``EntropyBottleneck`` in compressai 1.2.7
and later, so bundles and checkpoints do not change; tests compare the two. compressai itself takes
seconds to import, and other versions of it name the parameters differently.
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from splitreg.networks import bounded

#: Likelihoods are not smaller than this: a logarithm of zero has no gradient.
MIN_LIKELIHOOD = 1e-9
#: Probability mass outside the outer two quantiles.
TAIL_MASS = 1e-9
#: Half the distance between the outer two quantiles before training.
INITIAL_SCALE = 10.0
#: Widths of the cumulative distribution's network.
WIDTHS = (1, 3, 3, 3, 3, 1)


class FactorizedDensity(nn.Module):
    """The cumulative distribution of each channel, as a small network that is monotone in its input.

    Args:
        channels: C.

    Attributes:
        quantiles: (C, 1, 3) lower tail, median and upper tail; only ``loss`` trains them.

    Source: Ballé et al. 2018, arXiv:1802.01436, appendix 6.1.
    """

    target: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self._register_unused()
        self.matrices, self.biases, self.factors = nn.ParameterList(), nn.ParameterList(), nn.ParameterList()
        scale = INITIAL_SCALE ** (1 / (len(WIDTHS) - 1))
        for before, after in itertools.pairwise(WIDTHS):
            slope = math.log(math.expm1(1 / scale / after))
            self.matrices.append(nn.Parameter(torch.full((channels, after, before), slope)))
            self.biases.append(nn.Parameter(nn.init.uniform_(torch.empty(channels, after, 1), -0.5, 0.5)))
            if len(self.matrices) < len(WIDTHS) - 1:
                self.factors.append(nn.Parameter(torch.zeros(channels, after, 1)))
        initial = torch.tensor([-INITIAL_SCALE, 0.0, INITIAL_SCALE])
        self.quantiles = nn.Parameter(initial.repeat(channels, 1, 1))
        logit = math.log(2 / TAIL_MASS - 1)
        self.register_buffer("target", torch.tensor([-logit, 0.0, logit]))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the latent with noise (training) or rounded around the medians, and its likelihoods.

        Args:
            x: (B, C, h, w).

        Returns:
            Both (B, C, h, w).
        """
        rows = x.transpose(0, 1).contiguous()  # (C, B, h, w)
        values = rows.reshape(len(rows), 1, -1)
        if self.training:
            values = values + torch.empty_like(values).uniform_(-0.5, 0.5)
        else:
            medians = self.quantiles[:, :, 1:2]
            values = (values - medians).round() + medians
        likelihood = bounded(self.masses(values), MIN_LIKELIHOOD, math.inf)
        received, likelihood = (y.reshape(rows.shape).transpose(0, 1).contiguous() for y in (values, likelihood))
        return received, likelihood

    def masses(self, centres: Tensor) -> Tensor:
        """(C, 1, N) -> (C, 1, N): the probability of the unit interval around each value."""
        lower, upper = self.logits(centres - 0.5), self.logits(centres + 0.5)
        return torch.sigmoid(upper) - torch.sigmoid(lower)

    def logits(self, x: Tensor, *, detach: bool = False) -> Tensor:
        """(C, 1, N) -> (C, 1, N): the logit of the cumulative distribution.

        Args:
            x: values.
            detach: give the network's parameters no gradient.
        """
        for index, (matrix, bias) in enumerate(zip(self.matrices, self.biases, strict=True)):
            x = torch.matmul(functional.softplus(_parameter(matrix, detach)), x) + _parameter(bias, detach)
            if index < len(self.factors):
                x = x + torch.tanh(_parameter(self.factors[index], detach)) * torch.tanh(x)
        return x

    def loss(self) -> Tensor:
        """Return the loss that moves the quantiles to the median and to the tails."""
        return (self.logits(self.quantiles, detach=True) - self.target).abs().sum()

    def _register_unused(self) -> None:
        """Register what compressai's layer has in its state dict beside parameters and target."""
        self.likelihood_lower_bound = nn.Module()
        self.likelihood_lower_bound.register_buffer("bound", torch.tensor([MIN_LIKELIHOOD]))
        for name in ("_offset", "_quantized_cdf", "_cdf_length"):
            self.register_buffer(name, torch.zeros(0, dtype=torch.int32))


def _parameter(parameter: Tensor, detach: bool) -> Tensor:
    return parameter.detach() if detach else parameter
