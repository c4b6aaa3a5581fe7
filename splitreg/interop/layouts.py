"""How other projects name the tensors of their checkpoints: one ``CheckpointLayout`` per family."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from torch import Tensor

from splitreg.assembly.labels import COCO_GAPS, class_names
from splitreg.tasks import CLASSIFICATION, DETECTION, SEGMENTATION

#: Value there, labels of the head (none for the model itself) -> value here.
Convert = Callable[[Tensor, Sequence[str]], Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointLayout:
    """Names there -> names here. A name there is first made plain (``wrappers``, ``renamed``), then moved.

    Args:
        name: what it is called in reports.
        source: where the layout is described.
        wrappers: prefixes that are taken off, one of them at most.
        renamed: pattern -> replacement, for names of older versions.
        moves: prefix there -> (head plugin, or "" for the model itself; prefix here). The first that fits counts.
        derived: pattern of what is computed from the rest, on both sides; it is neither read nor missed.
        converted: pattern of a name here -> what makes the value here from the value there.
        sizes: option of the bottleneck -> (tensor, axis) that tells it.
        classes: head plugin -> (task, tensor, entries of its first axis that are not classes).
        options: head plugin -> options that its weights were trained with, where a recipe does not say otherwise.
    """

    name: str
    source: str
    wrappers: tuple[str, ...] = ()
    renamed: Mapping[str, str] = field(default_factory=dict)
    moves: Mapping[str, tuple[str, str]]
    derived: str
    converted: Mapping[str, Convert] = field(default_factory=dict)
    sizes: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    classes: Mapping[str, tuple[str, str, int]] = field(default_factory=dict)
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def plain(self, name: str) -> str:
        """Return a name there as the newest version of that project has it, without a wrapper's prefix.

        >>> SC2BENCH.plain("backbone.body.bottleneck_layer.entropy_bottleneck._matrix0")
        'bottleneck_layer.entropy_bottleneck.matrices.0'
        """
        name = next((name.removeprefix(wrapper) for wrapper in self.wrappers if name.startswith(wrapper)), name)
        for pattern, replacement in self.renamed.items():
            name = re.sub(pattern, replacement, name)
        return name

    def target(self, plain: str, heads: Mapping[str, str]) -> str | None:
        """Return a plain name's name here, None where there is none; ``heads``: plugin -> name of the model's head.

        >>> SC2BENCH.target("fc.weight", {"cls": "animals"})
        'branches.animals.head.layers.3.weight'
        """
        for prefix, (plugin, here) in self.moves.items():
            if plain.startswith(prefix) and (not plugin or plugin in heads):
                return (f"branches.{heads[plugin]}.head." if plugin else "") + here + plain.removeprefix(prefix)
        return None

    def is_derived(self, name: str) -> bool:
        """Tell whether a tensor, there or here, is computed from the others."""
        return re.search(self.derived, name) is not None

    def convert(self, target: str, value: Tensor, labels: Sequence[str] = ()) -> Tensor:
        """Return the value that the tensor of this name here has; ``labels``: of the head that it belongs to."""
        return next(
            (make(value, labels) for pattern, make in self.converted.items() if re.search(pattern, target)), value
        )


_PEDESTAL = 2.0**-36  # of compressai's NonNegativeParametrizer
_LEAST_BETA = 1e-6  # of compressai's GDN, and of the GDN1 here, where it is added outside the square


def _gdn_gamma(there: Tensor, _: Sequence[str]) -> Tensor:
    """max(g, 2**-18)**2 - 2**-36 there is g**2 here."""
    there = there.double()
    return (there.clamp(min=_PEDESTAL**0.5) ** 2 - _PEDESTAL).clamp(min=0).sqrt()


def _gdn_beta(there: Tensor, _: Sequence[str]) -> Tensor:
    """max(b, (1e-6 + 2**-36)**0.5)**2 - 2**-36 there is b**2 + 1e-6 here."""
    return ((there.double() ** 2).where(there > 0, 0) - _PEDESTAL - _LEAST_BETA).clamp(min=0).sqrt()


def _coco_order(there: Tensor, labels: Sequence[str]) -> Tensor:
    """Background and COCO's ids 1 to 90 there; here background, the 80 as datasets count them, the gaps."""
    if tuple(labels) != class_names(DETECTION, 90):
        return there
    ids = [index for index in range(91) if index not in COCO_GAPS]
    rows = there.reshape(91, -1, *there.shape[1:])  # one score a class, or four sides
    return rows[[*ids, *COCO_GAPS]].reshape(there.shape)


SC2BENCH = CheckpointLayout(
    name="sc2bench",
    source="Matsubara et al. 2022, arXiv:2108.11898; 2023, arXiv:2203.08875; 2025, arXiv:2501.01420; PyPI sc2bench 0.1.1",
    wrappers=("backbone.body.", "backbone."),
    renamed=MappingProxyType({
        r"(entropy_bottleneck\.)_matrix(\d)$": r"\1matrices.\2",  # compressai before 1.2.7
        r"(entropy_bottleneck\.)_bias(\d)$": r"\1biases.\2",
        r"(entropy_bottleneck\.)_factor(\d)$": r"\1factors.\2",
        r"^(fpn\.\w+_blocks\.\d)\.(weight|bias)$": r"\1.0.\2",  # torchvision before 0.13
        r"^(rpn\.head\.conv)\.(weight|bias)$": r"\1.0.0.\2",
    }),
    moves=MappingProxyType({
        # The encoder here begins with its padding.
        **{f"bottleneck_layer.encoder.{i}.": ("", f"bottleneck.encoder.{i + 1}.") for i in range(5)},
        "bottleneck_layer.decoder.": ("", "bottleneck.decoder."),
        "bottleneck_layer.entropy_bottleneck.": ("", "bottleneck.prior."),
        **{f"layer{i}.": ("", f"body.net.layer{i}.") for i in (2, 3, 4)},
        "fc.": ("cls", "layers.3."),
        "fpn.": ("det-fasterrcnn", "pyramid."),
        "rpn.": ("det-fasterrcnn", "rpn."),
        "roi_heads.": ("det-fasterrcnn", "regions."),
        "classifier.": ("seg-deeplabv3", "classify."),
        "aux_classifier.": ("seg-deeplabv3", "assist."),
    }),
    # Constants, integer tables (frozen anew) and the counters of batch normalisation, which has a momentum.
    derived=r"(^|\.)(_offset|_quantized_cdf|_cdf_length|target|bound|pedestal|num_batches_tracked)$",
    converted=MappingProxyType({
        r"^bottleneck\..*\.gamma$": _gdn_gamma,
        r"^bottleneck\..*\.beta$": _gdn_beta,
        r"\.regions\.box_predictor\.": _coco_order,
    }),
    sizes=MappingProxyType({
        "channels": ("bottleneck_layer.encoder.4.weight", 0),
        "hidden": ("bottleneck_layer.encoder.0.weight", 0),
        "decoder_hidden": ("bottleneck_layer.decoder.0.weight", 0),
    }),
    classes=MappingProxyType({
        "cls": (CLASSIFICATION, "fc.weight", 0),
        "det-fasterrcnn": (DETECTION, "roi_heads.box_predictor.cls_score.weight", 1),  # the first is the background
        "seg-deeplabv3": (SEGMENTATION, "classifier.4.weight", 0),
    }),
    # torchvision's anchors, and its rule by which a region of 112 pixels is read at stride 8, a smaller one at 4.
    options=MappingProxyType({"det-fasterrcnn": {"anchor_scale": 8.0, "region_scale": 112 / 32**0.5}}),
)  # fmt: skip

#: All that are known.
LAYOUTS: tuple[CheckpointLayout, ...] = (SC2BENCH,)
