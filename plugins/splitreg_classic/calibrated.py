"""Bottleneck ``calibrated``: the feature of a finished model, rotated, reduced and quantised without training."""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from splitreg.coding import POSITIONS, SymbolModel, VariableModel
from splitreg.errors import InvalidTables, RecipeError
from splitreg.interfaces import Bottleneck, FeatureSpec, SymbolSpec
from splitreg.networks import ContextNetwork, decision_logits, level_of

#: Position if no rate is given.
DEFAULT = POSITIONS // 2
#: Stored quantiles per channel, from which the tables of all rates are computed.
QUANTILES = 129
#: Weight of a batch in the quantiles, in training.
MOMENTUM = 0.05
#: Tables, at evenly spaced rates.
TABLES = 9
#: Share of the Laplace distribution that gives values beyond the quantiles a probability.
TAIL_SHARE = 0.01
#: A row has at most this many symbols on either side of zero.
REACH = 255
#: Default step: its squared error is this share of the feature's weighted variance.
DEFAULT_ERROR = 0.1
#: Weight of the plain squared error in the sensitivity, so that no direction is free.
FLOOR = 0.01


class Calibrated(Bottleneck):
    """Principal components of the feature, one step for all of them, a choice of rates; no training.

    ``splitreg build --calibrate IMAGES`` measures the covariance of the feature and how strongly the
    outputs of the heads react to it (the sensitivity). The rotation makes components independent, in
    a scale in which an equal error of any component does equal harm; so one step for all is the best
    quantiser, and components that vary less than the step cost almost nothing. A rate from 0 to 1
    chooses the step. Rotation and its inverse are 1x1 convolutions, so they can be trained later.

    Args:
        source: the feature at the cut.
        target: the same.
        channels: components to send; 0: as many as the feature has channels.
        rate_range: largest step over the smallest.
        context: width of a network that predicts each symbol from those coded before it, e.g. 64; 0: none. It makes
            packets smaller and leaves the latent as it is. ``splitreg fit-context`` trains it; only codec ``rans`` uses it.
        context_units: units of this network for each channel.

    Raises:
        RecipeError: an option is out of range, or the source is not the feature at the cut.

    Source: Goyal 2001, doi:10.1109/79.952802 (transform coding); the sensitivity is the Fisher
    information of the outputs, as in Kirkpatrick et al. 2017, arXiv:1612.00796.
    """

    name: ClassVar[str] = "calibrated"
    source_default: ClassVar[str] = "feature"
    quantiles: Tensor

    def __init__(
        self, source: FeatureSpec, target: FeatureSpec, *, channels: int = 0, rate_range: float = 32.0, context: int = 0,
        context_units: int = 8,
    ) -> None:  # fmt: skip
        super().__init__()
        if source != target:
            raise RecipeError(
                f"bottleneck calibrated sends the feature at the cut ({target.channels} channels, stride "
                f"{target.stride}) and cannot read {source.channels} channels at stride {source.stride}; set "
                "from = 'feature'"
            )
        if not 0 <= channels <= source.channels:
            raise RecipeError(f"bottleneck calibrated: channels must be 0 to {source.channels}, got {channels}")
        if not 1 < rate_range <= 1e4:
            raise RecipeError(f"bottleneck calibrated: rate_range must be above 1 and at most 1e4, got {rate_range}")
        if not 0 <= context <= 1024 or not 1 <= context_units <= 64:
            raise RecipeError(
                f"bottleneck calibrated: context must be 0 to 1024 and context_units 1 to 64, got {context} and {context_units}"
            )
        kept = channels or source.channels
        self.rate_range = rate_range
        self.latent = FeatureSpec(channels=kept, stride=source.stride)
        self.symbol_spec = SymbolSpec(bits=0, tables=True, exact=True)
        self.encoder = nn.Conv2d(source.channels, kept, 1)
        self.decoder = nn.Conv2d(kept, source.channels, 1)
        with torch.no_grad():  # before calibration: the first channels, in steps of 1/8
            eye = torch.eye(kept, source.channels)
            _set(self.encoder, 8 * eye, torch.zeros(kept))
            _set(self.decoder, eye.T / 8, torch.zeros(source.channels))
        normal = 8 * torch.special.ndtri(torch.linspace(1e-3, 1 - 1e-3, QUANTILES))
        self.register_buffer("quantiles", normal.expand(kept, -1).clone())
        self.context = ContextNetwork(kept, context, context_units) if context else None
        self._logits: tuple[Tensor, Tensor] | None = None  # quantiles, and the logits of their tables

    @torch.no_grad()
    def calibrate(self, features: Tensor, sensitivity: Tensor) -> None:
        """Set rotation, step and tables.

        Args:
            features: (B, C, h, w), the feature at the cut of some images.
            sensitivity: (C, C), mean outer product of the outputs' gradients for the feature.

        Raises:
            InvalidTables: the feature is constant, or not finite.
        """
        rows = features.double().transpose(0, 1).flatten(1)  # (C, N)
        mean = rows.mean(1)
        centred = rows - mean[:, None]
        covariance = centred @ centred.T / rows.shape[1]
        power = float(covariance.diagonal().sum())
        if not 0 < power < math.inf:
            raise InvalidTables("the feature at the cut is constant or not finite; calibrate with real images")
        metric = sensitivity.double()
        trace = float(metric.diagonal().mean())
        metric = metric + (FLOOR * trace if trace > 0 else 1.0) * torch.eye(len(rows), dtype=torch.float64)
        root, inverse = _square_roots(metric)
        values, vectors = torch.linalg.eigh(root @ covariance @ root)
        order = values.argsort(descending=True)[: self.latent.channels]
        vectors, values = vectors[:, order], values.clamp(min=0)
        step = _step(values, DEFAULT_ERROR)
        analysis, synthesis = vectors.T @ root / step, inverse @ vectors * step
        _set(self.encoder, analysis, -(analysis @ mean))
        _set(self.decoder, synthesis, mean)
        self.quantiles.copy_(_quantiles(analysis @ centred))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the restored feature and the bits per image of a Laplace model, with noise in training.

        Training draws a rate per image and returns its bits times the rate's weight, which grows with
        the square of the step. It also follows the quantiles, for the tables.
        """
        latent = self.analyse(x)
        if self.training and self.encoder.weight.requires_grad:
            self._follow(latent.detach())
        received, bits = self._transmit(latent)
        return self.synthesise(received), bits

    def rate(self, latent: Tensor) -> Tensor:
        """Return the bits per image, see ``Bottleneck.rate``."""
        return self._transmit(latent)[1]

    def _transmit(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        """Return the latent that the decoder gets, and the bits per image."""
        count = len(latent)
        gain = latent.new_full((count,), float(np.float32(self.rate_range ** (DEFAULT / (POSITIONS - 1) - 0.5))))
        weight = latent.new_ones(count)
        spread = self.quantiles.abs().mean(1)
        if self.training:
            rates = (torch.arange(count, device=latent.device) + torch.rand((), device=latent.device)) / count
            gain = self.rate_range ** (rates - 0.5)
            weight = self.rate_range ** (1 - 2 * rates)
            spread = latent.abs().mean((0, 2, 3))
        steps = gain[:, None, None, None]
        scaled = latent * steps
        noise = torch.rand_like(scaled) - 0.5 if self.training else (scaled.round() - scaled).detach()
        coded = scaled + noise
        scale = (spread[:, None, None] * steps).clamp(min=0.05)
        mass = _laplace(0.5 - coded.abs(), scale) - _laplace(-0.5 - coded.abs(), scale)
        alone = -mass.clamp(min=1e-9).log2()
        bits = alone.sum((1, 2, 3))
        if self.context is not None:
            nearest = ((gain.log() / math.log(self.rate_range) + 0.5) * (TABLES - 1)).round().long()
            levels = torch.tensor([level_of(i, TABLES) for i in range(TABLES)]).to(latent)
            tables = self._decision_logits().to(latent)
            bits = self.context.bits(scaled, tables[nearest], levels[nearest], alone.detach())
        return coded / steps, bits * weight

    def _follow(self, latent: Tensor) -> None:
        rows = latent.transpose(0, 1).flatten(1)
        if torch.isfinite(rows).all():
            self.quantiles.lerp_(_quantiles(rows).to(self.quantiles), MOMENTUM)

    def freeze(self) -> VariableModel:
        """Return the tables: ``TABLES`` steps, from the coarsest to the finest.

        Raises:
            InvalidTables: the quantiles are not finite.
        """
        models = self._models()
        if self.context is not None:
            models = self.context.freeze(models)
        channels = self.latent.channels
        places = np.arange(POSITIONS) / (POSITIONS - 1)
        gains = np.asarray(self.rate_range ** (places - 0.5), np.float32)
        gains = np.ascontiguousarray(np.broadcast_to(gains[:, None], (POSITIONS, channels)))
        chosen = np.rint(places * (TABLES - 1)).astype(np.uint8)
        return VariableModel(
            models=tuple(models), chosen=chosen, gains=gains, inverses=np.asarray(1 / gains, np.float32),
            shift=np.zeros(channels, np.float32), default=DEFAULT,
        )  # fmt: skip

    def _decision_logits(self) -> Tensor:
        """Return the logits of the tables; they are computed again only for other quantiles, because that takes long."""
        quantiles = self.quantiles.detach().cpu()
        if self._logits is None or not torch.equal(self._logits[0], quantiles):
            self._logits = quantiles.clone(), decision_logits(self._models())
        return self._logits[1]

    def _models(self) -> list[SymbolModel]:
        """Return tables of ``TABLES`` steps, from the coarsest to the finest."""
        quantiles = self.quantiles.detach().cpu().double().numpy()
        if not np.isfinite(quantiles).all():
            raise InvalidTables("the quantiles of bottleneck calibrated are not finite; calibrate it again")
        steps = self.rate_range ** (np.arange(TABLES) / (TABLES - 1) - 0.5)
        return [_tables(quantiles * step) for step in steps]


def _quantiles(rows: Tensor) -> Tensor:
    """(C, N) -> (C, QUANTILES), evenly spaced."""
    shares = (torch.arange(QUANTILES, dtype=torch.float64, device=rows.device) + 0.5) / QUANTILES
    index = (shares * (rows.shape[1] - 1)).round().long()
    return rows.sort(1).values[:, index]


def _set(convolution: nn.Module, weight: Tensor, bias: Tensor) -> None:
    """Copy a matrix and a bias into a 1x1 convolution."""
    convolution.load_state_dict({"weight": weight[..., None, None].float(), "bias": bias.float()})


def _square_roots(metric: Tensor) -> tuple[Tensor, Tensor]:
    """Return the symmetric square root of a positive matrix, and its inverse."""
    values, vectors = torch.linalg.eigh(metric)
    roots = values.clamp(min=float(values.max()) * 1e-9).sqrt()
    return vectors * roots @ vectors.T, vectors / roots @ vectors.T


def _step(variances: Tensor, error: float) -> float:
    """Return the step whose squared error is a share of the variances: min(variance, step^2 / 12) per component."""
    wanted, low, high = error * float(variances.sum()), 0.0, float(variances.max())
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if float(variances.clamp(max=middle).sum()) < wanted else (low, middle)
    return math.sqrt(12 * high)


def _laplace(x: Tensor, spread: Tensor) -> Tensor:
    """Return the cumulative Laplace distribution with mean absolute value ``spread``."""
    scaled = x / spread
    return torch.where(scaled < 0, 0.5 * scaled.clamp(max=0).exp(), 1 - 0.5 * (-scaled.clamp(min=0)).exp())


def _tables(quantiles: NDArray[np.float64]) -> SymbolModel:
    """Return tables of rounded values with these quantiles per channel, (C, QUANTILES)."""
    reach = int(min(REACH, math.ceil(np.abs(quantiles).max()) + 1))
    edges = np.arange(-reach - 0.5, reach + 1.0)
    shares = (np.arange(QUANTILES) + 0.5) / QUANTILES
    rows = []
    for row in quantiles:
        row = row + np.arange(QUANTILES) * 1e-9  # np.interp needs rising values
        inner = np.interp(edges, row, shares, left=0.0, right=1.0)
        spread = max(float(np.abs(row).mean()), 0.02)
        outside = 0.5 * np.exp(-np.abs(edges) / spread)
        tail = np.where(edges < 0, outside, 1 - outside)
        rows.append(np.diff((1 - TAIL_SHARE) * inner + TAIL_SHARE * tail))
    return SymbolModel.from_probabilities(np.stack(rows), -reach)
