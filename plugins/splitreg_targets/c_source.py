"""C source of an edge half: constants, layers, and the parts of ``runtime/`` put together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

import numpy as np

from splitreg.coding import LatentCoding
from splitreg_targets.c_graph import Activation, Layer, NetworkGraph
from splitreg_targets.c_literals import Array, array_literal, float_literal, literals
from splitreg_targets.c_schedule import Ring, Schedule, plan_rows
from splitreg_targets.c_tables import CodingTables

#: Instruction set -> condition, attribute, floats per vector, pixels and vectors of a tile.
_VARIANTS: Mapping[str, tuple[str, str, str]] = {
    "v4": ("defined(SR_DISPATCH)", '__attribute__((target("arch=x86-64-v4,prefer-vector-width=512")))', "16, 8, 2"),
    "v3": ("defined(SR_DISPATCH)", '__attribute__((target("arch=x86-64-v3")))', "8, 6, 2"),
    "base": ("1", "", "SR_BASE"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class CSource:
    """Generated files.

    Args:
        source: text of the C file.
        header: text of the header.
        report: bytes of flash and RAM, and multiply-accumulates.
    """

    source: str
    header: str
    report: Mapping[str, Any]


def write_source(network: NetworkGraph, coding: LatentCoding, prefix: str, max_width: int) -> CSource:
    """Write an edge half in C.

    Args:
        network: the layers, at the size of ``coding.preprocess``.
        coding: preprocessing, tables and codec.
        prefix: of public names; also the name of the files.
        max_width: the widest image that can be encoded, unless the compiler is given another.

    Raises:
        BundleError: the codec or the tables have no equivalent in C.
    """
    schedule = plan_rows(network)
    channels, height, width = network.features[network.output]
    tables = CodingTables(coding, (channels, height, width))
    numbers = _numbers(network, coding, schedule, tables)
    weights = _Weights(network, schedule)
    names = {
        "PREFIX": prefix, "UPPER": prefix.upper(), "FILE": prefix, "MAX_WIDTH": max_width, "CHANNELS": channels,
        "HEIGHT": height, "WIDTH": width, "INPUT_HEIGHT": coding.preprocess.size[0],
        "INPUT_WIDTH": coding.preprocess.size[1], "MAX_PACKET": 256 * tables.streams + 7 * tables.symbols,
        "SUMMARY": f"Edge half of the splitreg model {coding.model_id:08x}.",
    }  # fmt: skip
    parts = [runtime_file("common.c"), numbers, tables.text, weights.text, runtime_file("state.c"), _DISPATCH]
    layers = _Layers(network, schedule).text
    for isa, (condition, attribute, tile) in _VARIANTS.items():
        body = [_variant(isa, attribute, tile)]
        coder = (
            "coder.c",
            *(("hyper.c",) if tables.streams > 1 else ()),
            "predicted.c" if tables.context else "payload.c",
        )
        body += [*map(runtime_file, ("kernels.c", "image.c", *coder)), layers, runtime_file("run.c")]
        parts.append(f"#if {condition}\n" + "\n".join(body).replace("@ISA@", isa) + f"#endif /* {isa} */\n")
    parts.append(runtime_file("api.c"))
    top = f"/* {names['SUMMARY']} Written by splitreg; see {prefix}.h. */\n"
    return CSource(
        source=_fill(top + "\n".join(parts), names), header=_fill(runtime_file("header.h"), names),
        report=_report(network, schedule, weights.nbytes, tables, (channels, height, width), max_width, coding),
    )  # fmt: skip


def _fill(text: str, names: Mapping[str, Any]) -> str:
    for name, value in names.items():
        text = text.replace(f"@{name}@", str(value))
    return text


def runtime_file(name: str) -> str:
    """Return the text of a file of ``runtime``."""
    return resources.files("splitreg_targets").joinpath("runtime").joinpath(name).read_text(encoding="utf-8")


_DISPATCH = """\
/* On x86-64 the loops exist three times, and the processor is asked once; SR_PLAIN leaves one. */
#if defined(__x86_64__) && defined(__gnu_linux__) && !defined(SR_PLAIN) && !defined(__AVX512F__)
#define SR_DISPATCH
#endif
"""


def _variant(isa: str, attribute: str, tile: str) -> str:
    if tile == "SR_BASE":
        lanes = "\n".join(
            f"#{'el' if i else ''}if {condition}\n#define SR_LANES_base {n}\n#define SR_MR_base {mr}\n#define SR_NV_base {nv}"
            for i, (condition, n, mr, nv) in enumerate(_BASES)
        )
        lanes += "\n#endif\n"
    else:
        n, mr, nv = (int(number) for number in tile.split(","))
        lanes = f"#define SR_LANES_{isa} {n}\n#define SR_MR_{isa} {mr}\n#define SR_NV_{isa} {nv}\n"
    inline = "static inline __attribute__((always_inline, unused))"
    return (
        f"{lanes}#define SR_FUNCTION_{isa} {attribute} static\n#define SR_INLINE_{isa} {attribute} {inline}\n"
        f"#define SR_TILE_{isa} (SR_LANES_{isa} * SR_NV_{isa})\n"
    )


#: Condition -> floats per vector, pixels and vectors of a tile of the only variant.
_BASES = (
    ("defined(__AVX512F__)", 16, 8, 2), ("defined(__AVX2__)", 8, 6, 2), ("defined(__aarch64__)", 4, 5, 4),
    ("defined(__SSE2__) || defined(__wasm_simd128__) || defined(__ARM_NEON)", 4, 3, 4), ("1", 1, 1, 16),
)  # fmt: skip


def _numbers(network: NetworkGraph, coding: LatentCoding, schedule: Schedule, tables: CodingTables) -> str:
    channels, height, width = network.features[network.output]
    preprocess = coding.preprocess
    kernel = max((layer.kernel[0] for layer in network.layers), default=1)
    scale = np.float32(1) / (np.float32(255) * np.asarray(preprocess.std, np.float32))
    shift = np.asarray(preprocess.mean, np.float32) / np.asarray(preprocess.std, np.float32)
    values = {
        "SR_MODEL_ID": f"{coding.model_id}u", "SR_INPUT_HEIGHT": preprocess.size[0], "SR_INPUT_WIDTH": preprocess.size[1],
        "SR_LETTERBOX": int(preprocess.mode == "letterbox"), "SR_CHANNELS": channels, "SR_HEIGHT": height,
        "SR_WIDTH": width, "SR_WIDE": (width + 31) // 32 * 32, **tables.numbers,
        "SR_ARENA": schedule.arena, "SR_MAX_KERNEL": kernel,
        "SR_SUMS": max([1, *(r.width * r.channels for r in _integer_outputs(network, schedule))]),
    }  # fmt: skip
    lines = [f"#define {name} {value}" for name, value in values.items()]
    return "\n".join(
        [*lines, array_literal("float", "sr_input_scale", scale), array_literal("float", "sr_input_shift", shift)]
    )


def _integer_outputs(network: NetworkGraph, schedule: Schedule) -> list[Ring]:
    return [schedule.rings[layer.output] for layer in network.layers if layer.int8 is not None]


class _Weights:
    """Packed weights as C."""

    def __init__(self, network: NetworkGraph, schedule: Schedule) -> None:
        self.nbytes, parts = 0, []
        for index, layer in enumerate(network.layers):
            if layer.bias is None:
                continue
            channels = schedule.rings[layer.output].channels
            arrays = {"b": _padded(layer.bias, channels)}
            weight = layer.weight if layer.int8 is None else layer.int8
            if layer.int8 is not None:
                assert layer.scales is not None
                arrays["f"] = _padded(layer.scales, channels)
                sums = layer.zero * layer.int8.reshape(len(layer.int8), -1).astype(np.int64).sum(1)
                arrays["b"] = _padded(layer.bias - sums * layer.scales.astype(np.float64), channels)
            if weight is not None and layer.kind == "conv":
                arrays["w"] = _pack(weight, schedule.rings[layer.inputs[0]].channels, channels)
            elif weight is not None:
                taps = weight.reshape(len(weight), -1).T
                arrays["w"] = np.pad(taps, ((0, 0), (0, channels - taps.shape[1])))
            for name, values in arrays.items():
                kind, size = ("int8_t", 1) if name == "w" and layer.int8 is not None else ("float", 4)
                self.nbytes += size * values.size
                parts.append("SR_ALIGNED " + array_literal(kind, f"sr_{name}{index}", values))
        self.text = "\n".join(parts)


def _padded(values: Array, channels: int) -> Array:
    """Return values per channel for padded channels too: 1, which keeps divisions finite and is never used."""
    padded = np.ones(channels, np.float32)
    padded[: len(values)] = values
    return padded


def _pack(weight: Array, inside: int, channels: int) -> Array:
    """Return a dense convolution's weights in blocks of 16 output channels, then one of 8 if there is one."""
    weight = weight.transpose(2, 3, 1, 0)  # height, width, in, out
    padded = np.zeros((*weight.shape[:2], inside, channels), weight.dtype)
    padded[:, :, : weight.shape[2], : weight.shape[3]] = weight
    blocks = [padded[..., first : first + 16].reshape(-1) for first in range(0, channels, 16)]
    return np.concatenate(blocks)


class _Layers:
    """Functions of the layers, each of which computes one row, and the loop over all rows."""

    def __init__(self, network: NetworkGraph, schedule: Schedule) -> None:
        self._network, self._rings = network, schedule.rings
        functions = [self._function(index, layer) for index, layer in enumerate(network.layers)]
        self.text = "\n".join([*functions, self._loop(schedule)])

    def _row(self, ring: Ring, row: str) -> str:
        """Return the address of a row that exists, at its first pixel."""
        index = row if ring.depth >= ring.height else f"({row}) % {ring.depth}"
        if ring.depth == 1:
            index = "0"
        inside = ring.left * ring.channels
        if ring.integers:
            return f"(uint8_t *)(sr_arena.rows + {ring.offset}) + {inside} + ({index}) * {ring.stride}"
        return f"sr_arena.rows + {ring.offset + inside} + ({index}) * {ring.stride}"

    def _function(self, index: int, layer: Layer) -> str:
        source, out = self._rings[layer.inputs[0]], self._rings[layer.output]
        lines = [f"SR_FUNCTION_@ISA@ void sr_layer{index}_@ISA@(int32_t y) {{"]
        act = _activation(layer.activation)
        kh, kw = layer.kernel
        target = self._row(out, "y")
        if layer.kind in ("conv", "depthwise", "pool"):
            pool = layer.kind == "pool"
            before, outside = (0, "0") if pool else (layer.pads[1] * source.channels, "sr_arena.rows")
            if source.integers:  # the row of borders behind the ring
                outside = f"(uint8_t *)(sr_arena.rows + {source.offset}) + {source.depth * source.stride}"
            lines += [
                f"    const {'uint8_t' if source.integers else 'float'} *rows[{kh}];",
                f"    for (int32_t k = 0; k < {kh}; k++) {{",
                f"        const int32_t r = {layer.stride[0]} * y - {layer.pads[0]} + k;",
                f"        rows[k] = (uint32_t)r < {source.height} ? {self._row(source, 'r')} - {before} : {outside};",
                "    }",
            ]
            step = layer.stride[1] * source.channels
            if layer.int8 is not None:
                lines += self._integers(index, layer, source, out)
            elif layer.kind == "conv":
                sizes = f"{kh}, {kw * source.channels}, {step}, {out.width}, {out.channels}"
                arguments = f"sr_w{index}, sr_b{index}, {sizes}, {act}"
                lines.append(f"    sr_conv_@ISA@(rows, {target}, {arguments});")
            elif layer.kind == "depthwise":
                sizes = f"{kh}, {kw}, {layer.stride[1]}, {out.width}, {out.channels}, {act}"
                lines.append(f"    sr_depthwise_@ISA@(rows, {target}, sr_w{index}, sr_b{index}, {sizes});")
            else:
                scale = float_literal(np.float32(1 / (kh * kw)))
                arguments = f"{kh}, {kw}, {layer.stride[1]}, {layer.pads[1]}, {source.width}, {target}"
                arguments += f", {out.width}, {out.channels}, {scale}"
                lines.append(f"    sr_pool_@ISA@(rows, {arguments}, {int(layer.function == 'max')});")
        elif layer.kind == "unary" and out.integers:
            numbers = f"{out.width * out.channels}, {act.partition(', ')[2]}"
            lines.append(f"    sr_to_integers_@ISA@({self._row(source, 'y')}, {target}, {numbers});")
        elif layer.kind == "unary":
            lines.append(f"    sr_unary_@ISA@({self._row(source, 'y')}, {target}, {out.width * out.channels}, {act});")
        elif layer.kind == "binary":
            other, each = f"sr_b{index}", 0
            if len(layer.inputs) == 2:
                second = self._rings[layer.inputs[1]]
                each = int((second.height, second.width) == (out.height, out.width) and out.height * out.width > 1)
                other = self._row(second, "y" if second.height > 1 else "0")
            sizes = f"{out.width}, {out.channels}, {each}, {layer.function}"
            lines.append(f"    sr_binary_@ISA@({self._row(source, 'y')}, {other}, {target}, {sizes});")
        elif layer.kind == "mean":
            scale = float_literal(np.float32(1 / (source.height * source.width)))
            lines += [
                f"    float *sums = {self._row(out, '0')};",
                f"    if (!y) memset(sums, 0, {4 * out.channels});",
                f"    sr_sum_row_@ISA@({self._row(source, 'y')}, sums, {source.width}, {source.channels});",
                f"    if (y == {source.height - 1}) for (int c = 0; c < {out.channels}; c++) sums[c] *= {scale};",
            ]
        else:
            lines += self._pad(layer, source, out)
        return "\n".join([*lines, "}\n"])

    def _integers(self, index: int, layer: Layer, source: Ring, out: Ring) -> Iterable[str]:
        """Yield the lines of a convolution of integers: sums as floats, then the steps in place, then the output."""
        kh, kw = layer.kernel
        n = out.width * out.channels
        arrays = f"rows, sr_sums, sr_w{index}, sr_f{index}, sr_b{index}"
        if layer.kind == "conv":
            step = layer.stride[1] * source.channels
            yield f"    sr_qconv_@ISA@({arrays}, {kh}, {kw * source.channels}, {step}, {out.width}, {out.channels});"
        else:
            yield f"    sr_qdepthwise_@ISA@({arrays}, {kh}, {kw}, {layer.stride[1]}, {out.width}, {out.channels});"
        steps = layer.steps[:-1] if out.integers else layer.steps
        for step_ in steps:
            yield f"    sr_inplace_@ISA@(sr_sums, {n}, {_activation(step_)});"
        if out.integers:
            scale, zero = (float_literal(np.float32(v)) for v in (layer.steps[-1].p, layer.steps[-1].q))
            yield f"    sr_to_integers_@ISA@(sr_sums, {self._row(out, 'y')}, {n}, {scale}, {zero});"
        else:
            yield f"    memcpy({self._row(out, 'y')}, sr_sums, {4 * n});"

    def _pad(self, layer: Layer, source: Ring, out: Ring) -> Iterable[str]:
        top, left, _, right = layer.pads
        c = source.channels
        yield f"    float *out = {self._row(out, 'y')};"
        yield f"    int32_t r = y - {top};"
        if layer.function == "constant":
            yield f"    memset(out, 0, {4 * out.width * c});"
            yield f"    if ((uint32_t)r >= {source.height}) return;"
        yield f"    r = r < 0 ? 0 : r > {source.height - 1} ? {source.height - 1} : r;"
        yield f"    const float *in = {self._row(source, 'r')};"
        yield f"    memcpy(out + {left * c}, in, {4 * source.width * c});"
        if layer.function == "edge":
            last = (source.width - 1) * c
            yield f"    for (int i = 0; i < {left}; i++) memcpy(out + i * {c}, in, {4 * c});"
            end = left + source.width
            yield f"    for (int i = 0; i < {right}; i++) memcpy(out + ({end} + i) * {c}, in + {last}, {4 * c});"

    def _loop(self, schedule: Schedule) -> str:
        network, count = self._network, len(self._network.layers)
        channels, height, width = network.features[network.output]
        latent, image = self._rings[network.output], self._rings[network.input]
        cases = [f"        case 0: sr_input_row_@ISA@(y, {self._row(image, 'y')}); break;"]
        cases += [f"        case {i + 1}: sr_layer{i}_@ISA@(y); break;" for i in range(count)]
        planes = f"{self._row(latent, 'y')}, sr_latent, y, {height}, {width}, {latent.channels}, {channels}"
        cases.append(f"        default: sr_planes_@ISA@({planes}); break;")
        kind = "uint8_t" if count + 1 < 256 else "uint16_t"
        return "\n".join([
            "SR_FUNCTION_@ISA@ void sr_network_@ISA@(void) {",
            f"    static const {kind} steps[{len(schedule.steps)}] = {{",
            literals(np.array(schedule.steps)),
            "    };",
            f"    int32_t rows[{count + 2}] = {{0}};",
            "    memset(sr_arena.rows, 0, sizeof sr_arena.rows);",
            *(
                f"    memset(sr_arena.rows + {ring.offset}, {ring.zero}, {4 * ring.size});"
                for ring in self._rings.values() if ring.integers
            ),
            f"    for (int32_t i = 0; i < {len(schedule.steps)}; i++) {{",
            "        const int32_t y = rows[steps[i]]++;",
            "        switch (steps[i]) {",
            *cases,
            "        }",
            "    }",
            "}\n",
        ])  # fmt: skip


def _activation(activation: Activation) -> str:
    return f"{activation.name}, {float_literal(np.float32(activation.p))}, {float_literal(np.float32(activation.q))}"


def _report(
    network: NetworkGraph, schedule: Schedule, weights: int, tables: CodingTables, latent: tuple[int, int, int],
    max_width: int, coding: LatentCoding,
) -> dict[str, Any]:  # fmt: skip
    """Return the figures of the generated code; the compiler adds its instructions to the flash."""
    channels, height, width = latent
    return {
        "macs": network.macs + tables.macs, "parameters": network.parameters, "weights_bytes": weights,
        "tables_bytes": tables.nbytes,
        "arena_bytes": 4 * schedule.arena, "latent_bytes": 4 * channels * height * width,
        "input": list(coding.preprocess.size), "latent": [channels, height, width], "max_width": max_width,
    }  # fmt: skip
