"""Tables of the coder as C, and the integer networks of a hyperprior."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from splitreg.coding import (
    ContextModel,
    ContextTables,
    HyperModel,
    IntegerLayer,
    IntegerNetwork,
    LatentCoding,
    RansCodec,
    SymbolModel,
    VariableModel,
    context_source,
    derive_tables,
)
from splitreg.errors import BundleError
from splitreg_targets.c_literals import Array, array_literal, float_literal

#: Adaptive tables of a channel, one per context.
_CONTEXTS = 6
_BYTES = {"uint8_t": 1, "uint16_t": 2, "int16_t": 2, "int32_t": 4, "uint32_t": 4, "float": 4}
_LAYER = """\
/* A convolution of integers; weights are (outputs, kernel, kernel, inputs). */
typedef struct {
    const int16_t *weights;
    const int32_t *bias;
    int32_t inputs, outputs, kernel, shift, low, high;
} sr_layer;
"""


def hyperprior_of(coding: LatentCoding) -> HyperModel | None:
    """Return the hyperprior of a model, of one rate or of several; None if it has none.

    Raises:
        BundleError: several rates have several hyperpriors.
    """
    models = coding.tables.models if isinstance(coding.tables, VariableModel) else (coding.tables,)
    hyperpriors = [model for model in models if isinstance(model, HyperModel)]
    if hyperpriors and len(models) > 1:
        raise BundleError(
            f"the c target supports one hyperprior for all rates, this model has {len(models)} models, "
            f"{len(hyperpriors)} of them with a hyperprior; use --target onnx"
        )
    return hyperpriors[0] if hyperpriors else None


class CodingTables:
    """Tables of a model as C.

    Args:
        coding: tables and codec.
        latent: (C, h, w).

    Attributes:
        numbers: macros and their values.
        text: definitions of the constants.
        nbytes: bytes of the constants.
        symbols: symbols of all streams.
        streams: streams of a packet.
        macs: multiply-accumulates of a hyperprior's networks, or at most of a context network.
        context: whether there is a context network.

    Raises:
        BundleError: the codec or the tables have no equivalent in C.
    """

    def __init__(self, coding: LatentCoding, latent: tuple[int, int, int]) -> None:
        if type(coding.codec) is not RansCodec:
            raise BundleError(
                f"the c target needs codec 'rans', this model has {type(coding.codec).__name__}; publish it with --codec rans"
            )
        tables, hyper = coding.tables_for(context=coding.packet_context), hyperprior_of(coding)
        self._adapt = coding.codec.adapt
        self._parts: list[str] = []
        self.nbytes, self.macs, self.symbols, self.streams = 0, 0, int(np.prod(latent)), 1
        self.numbers: dict[str, Any] = {
            "SR_RATES": int(coding.has_rates), "SR_HYPER": int(hyper is not None),
            "SR_MEANS": int(hyper is not None and hyper.means is not None), "SR_HYPER_SYMBOLS": 0, "SR_CONTEXT": 0,
            "SR_NO_CONTEXT": int(not coding.packet_context),
        }  # fmt: skip
        models = tables.models if isinstance(tables, VariableModel) else (tables,)
        if hyper is not None:
            models = (hyper.hyper, hyper.scales.at(np.zeros((1, 1, 1), np.int32)))
        checked = [_checked(model) for model in models]
        self.context = checked[0].context is not None
        if any((model.context is None) == self.context for model in checked):
            raise BundleError("the c target needs a context network at all rates or at none; use --target onnx")
        entries = [self._entry(index, model) for index, model in enumerate(checked)]
        self._parts.append("static const sr_tables sr_models[] = {\n" + ",\n".join(entries) + "\n};\n")
        longest = max(int(model.lengths.max()) - 1 for model in checked if model.indexes is None)
        self.numbers |= {
            "SR_COUNT": self.symbols, "SR_SYMBOLS": longest, "SR_LONGEST": longest, "SR_TABLES": _CONTEXTS,
            "SR_BANK": _CONTEXTS * longest,
        }  # fmt: skip
        if self.context:
            self._contexts(checked, latent)
        if hyper is not None:
            self._hyperprior(hyper, hyper.hyper_shape(latent))
        if isinstance(tables, VariableModel):
            self._rates(tables)
        self.text = "\n".join(self._parts)

    def _const(self, kind: str, name: str, values: Array) -> None:
        self.nbytes += np.asarray(values).size * _BYTES[kind]
        self._parts.append(array_literal(kind, name, values))

    def _entry(self, index: int, model: SymbolModel) -> str:
        """Add the arrays of a model; return its entry in the list of models."""
        tables = derive_tables(model)
        used = np.arange(tables.frequencies.shape[1]) < tables.symbols[:, None]
        arrays: dict[str, tuple[str, Array | None]] = {
            "symbols": ("uint16_t", tables.symbols), "modes": ("uint16_t", tables.modes),
            "offsets": ("int32_t", tables.offsets),
            "start": ("int32_t", np.concatenate([[0], np.cumsum(tables.symbols)[:-1]])),
            "inverses": ("uint32_t", tables.inverses), "frequencies": ("uint16_t", tables.frequencies[used]),
            "costs": ("uint16_t", tables.costs[used]), "priors": ("uint16_t", None),
            "shift": ("float", model.shift), "scale": ("float", model.scale),
        }  # fmt: skip
        if model.context is not None:  # the context network replaces what rANS learns
            arrays |= {name: (arrays[name][0], None) for name in ("start", "frequencies", "costs")}
        adapted = model.context is None and self._adapt and (tables.priors is not None or model.indexes is not None)
        if adapted and tables.priors is not None:
            inside = np.broadcast_to(used[:, None], tables.priors.shape)
            arrays["priors"] = ("uint16_t", tables.priors[inside])
        if model.indexes is not None:
            arrays |= {name: (arrays[name][0], None) for name in ("shift", "scale")}
        names = []
        for name, (kind, values) in arrays.items():
            names.append("0" if values is None else f"sr_{name}_{index}")
            if values is not None:
                self._const(kind, names[-1], values)
        bits = model.bits if model.mode == "uniform" else 0
        return f"    {{{bits}, {int(adapted)}, {', '.join(names)}}}"

    def _contexts(self, models: list[SymbolModel], latent: tuple[int, int, int]) -> None:
        """Add the context networks of all models; models that share their layers share the arrays."""
        self._parts.append(context_source())
        entries, names = [], ("around", "hidden", "here", "output")
        previous: ContextModel | None = None
        first = space = 0
        for index, model in enumerate(models):
            context = model.context
            assert context is not None
            tables = ContextTables.of(model, context)
            space = max(space, tables.workspace(latent[2]))
            layers = (context.around, context.hidden, context.here, context.logits)
            if not context.shares_layers(previous):
                first = index
                for name, layer in zip(names, layers, strict=True):
                    self._const("int16_t", f"sr_context_{name}_{index}", getattr(tables, name))
                    self._const("int32_t", f"sr_context_{name}_bias_{index}", layer.bias)
            previous = context
            for name, values in (("cdf", model.cdf), ("lengths", model.lengths), ("logits", tables.logits)):
                self._const("int32_t", f"sr_context_{name}_{index}", values)
            arrays = [f"sr_context_{name}_{index}" for name in ("cdf", "lengths")]
            arrays += [f"sr_offsets_{index}", f"sr_context_logits_{index}"]
            arrays += [f"sr_context_{name}_{first}" for name in names]
            arrays += [f"sr_context_{name}_bias_{first}" for name in names]
            rules = ", ".join(f"{{{layer.shift}, {layer.low}, {layer.high}}}" for layer in layers)
            sizes = f"{context.channels}, {context.width}, {context.units}, {context.level}, {model.cdf.shape[1]}"
            entries.append(f"    {{{sizes}, {', '.join(arrays)}, sr_context_weights, {{{rules}}}}}")
        self._parts.append("static const sr_context sr_contexts[] = {\n" + ",\n".join(entries) + "\n};\n")
        assert previous is not None
        channels, height, width = latent
        self.numbers |= {"SR_CONTEXT": 1, "SR_CONTEXT_SPACE": space}
        # Zeros cost nothing in the layers that read symbols, so these are left out.
        self.macs += (
            height
            * width
            * (previous.width * (previous.width + channels * previous.units) + 3 * channels * previous.units)
        )

    def _rates(self, tables: VariableModel) -> None:
        self.numbers["SR_DEFAULT_RATE"] = tables.default
        if self.streams == 1:  # otherwise one hyperprior serves all rates
            self._const("uint8_t", "sr_chosen", tables.chosen)
        self._const("float", "sr_all_gains", tables.gains)
        self._const("float", "sr_gain_shift", tables.shift)
        self._parts.append("static const float *sr_gains;\n")

    def _hyperprior(self, hyper: HyperModel, shape: tuple[int, int, int]) -> None:
        """Add the networks and the sizes of what they need."""
        channels, height, width = shape
        scales = hyper.scales.lengths - 1
        networks = _Networks(height * width, self._const)
        ends = {
            "SR_ANALYSIS_END": networks.add(hyper.analysis),
            "SR_ROWS_END": networks.add(hyper.synthesis, hyper.rows),
        }
        if hyper.means is not None:
            ends["SR_MEANS_END"] = networks.add(hyper.synthesis, hyper.means)
        self._parts += [_LAYER, networks.text]
        self.macs, self.streams = networks.macs, 2
        numbers = self.numbers
        numbers |= {
            "SR_HYPER_CHANNELS": channels, "SR_HYPER_HEIGHT": height, "SR_HYPER_WIDTH": width,
            "SR_POSITIONS": height * width, "SR_FACTOR": hyper.factor, "SR_READ_LOW": hyper.analysis.low,
            "SR_READ_HIGH": hyper.analysis.high, "SR_READ_UNIT": float_literal(np.float32(2**hyper.fraction)),
            "SR_PREDICT_LOW": hyper.synthesis.low, "SR_PREDICT_HIGH": hyper.synthesis.high,
            "SR_MEAN_UNIT": float_literal(np.float32(2.0**-hyper.mean_fraction)), "SR_MAP": networks.maps[0],
            "SR_MAPS": sum(networks.maps), "SR_SCALES": "(&sr_models[1])", "SR_SCALE_ROWS": len(scales),
            "SR_SCALE_ENTRIES": int(scales.sum()), "SR_HYPER_SYMBOLS": int(np.prod(shape)), "sr_exact": networks.exact,
            **ends,
        }  # fmt: skip
        numbers["SR_COUNT"] = max(self.symbols, int(np.prod(shape)))
        numbers["SR_LONGEST"] = max(numbers["SR_SYMBOLS"], int(scales.max()))
        numbers["SR_TABLES"] = max(_CONTEXTS, len(scales))
        numbers["SR_BANK"] = max(numbers["SR_BANK"], int(scales.sum()))
        self.symbols += int(np.prod(shape))


class _Networks:
    """Layers of integer networks as one list in C; a chain of them reads and writes two maps in turn.

    Args:
        positions: of a map.
        const: adds a constant array; called with type, name and values.
    """

    def __init__(self, positions: int, const: Callable[[str, str, Array], None]) -> None:
        self._positions, self._const = positions, const
        self._names: dict[int, str] = {}
        self._entries: list[str] = []
        self.exact, self.macs, self.maps = "int32_t", 0, [0, 0]

    @property
    def text(self) -> str:
        return "static const sr_layer sr_layers[] = {\n" + ",\n".join(self._entries) + "\n};\n"

    def add(self, *chain: IntegerNetwork) -> int:
        """Add the layers of networks that read each other's output; return the number of layers so far."""
        reach = max(abs(chain[0].low), abs(chain[0].high))
        sizes = [chain[0].inputs]
        for layer, low, high in _clipped(chain):
            outputs, inputs, kernel, _ = layer.weight.shape
            if layer.bound(reach) >= 2**31:
                self.exact = "int64_t"
            reach = max(abs(low), abs(high))
            sizes.append(outputs)
            self.macs += self._positions * layer.weight.size
            names = f"sr_layer_weights_{self._name(layer)}, sr_layer_bias_{self._name(layer)}"
            self._entries.append(f"    {{{names}, {inputs}, {outputs}, {kernel}, {layer.shift}, {low}, {high}}}")
        self.maps = [max(size, self._positions * max(sizes[i::2])) for i, size in enumerate(self.maps)]
        return len(self._entries)

    def _name(self, layer: IntegerLayer) -> str:
        if id(layer) not in self._names:
            name = self._names[id(layer)] = str(len(self._names))
            self._const("int16_t", f"sr_layer_weights_{name}", layer.weight.transpose(0, 2, 3, 1))
            self._const("int32_t", f"sr_layer_bias_{name}", layer.bias)
        return self._names[id(layer)]


def _clipped(chain: tuple[IntegerNetwork, ...]) -> Iterator[tuple[IntegerLayer, int, int]]:
    """Yield layers with their bounds; a network's last one is also clipped to the range of the next network."""
    for network, following in zip(chain, (*chain[1:], None), strict=True):
        for layer in network.layers:
            low, high = layer.low, layer.high
            if following is not None and layer is network.layers[-1]:
                low, high = (min(max(bound, following.low), following.high) for bound in (low, high))
            yield layer, low, high


def _checked(model: object) -> SymbolModel:
    """Return tables that the C coder supports.

    Raises:
        BundleError: they are others.
    """
    assert isinstance(model, SymbolModel)
    if not model.has_tables or model.mode == "bits" or (model.mode == "round" and model.bits):
        raise BundleError(
            f"the c target needs frequency tables, and symbols of mode round or uniform; got {model.mode}"
        )
    return model
