"""Latent -> bytes -> latent: codec ``rans`` beside compressai's, on quantised latents of photographs.

    python benchmarks/latent_coding.py --root DATA/latents

One thread, rounds interleaved in one process, medians; in a round each coder in turn takes a few whole latents from float32
to bytes and back. The peer is ``EntropyBottleneck.compress`` and ``decompress`` with the same tables. Sizes are over all
images of a set: payload bytes against the ideal code length of the tables as they are (``ideal``).
Without ``--root`` latents are drawn at random, busy in some places, which says little about sizes.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from splitreg.coding import RansCodec, SymbolModel

REPEATS = 5


def load(path):
    """Return symbols (N, C, h, w), the model, the latents of the first images."""
    data = np.load(path)
    model = SymbolModel.from_cdf(data["quantized_cdf"], data["cdf_length"], data["offset"], data["medians"])
    return data["symbols"].astype(np.int32), model, data["latent"]


def made(seed):
    """Draw latents with busy and quiet places, and fit tables to another draw."""
    generator = np.random.default_rng(seed)
    rows, columns = np.mgrid[:104, :104]
    busy = 2 * np.exp(-((rows - 40) ** 2 + (columns - 60) ** 2) / 900) + 0.3
    latents = generator.laplace(0, busy, (4, 24, 104, 104)).astype(np.float32)
    symbols = np.rint(latents).astype(np.int32)
    counts = np.bincount(np.clip(symbols, -15, 15).ravel() + 15, minlength=31) + 1
    frequencies = np.maximum(1, counts * 65000 // counts.sum())
    cdf = np.concatenate([[0], frequencies.cumsum(), [65536]])
    model = SymbolModel.from_cdf(np.tile(cdf, (24, 1)), np.full(24, len(cdf)), np.full(24, -15))
    return symbols, model, latents


def peer(model):
    """Return compress and decompress of compressai with these tables, or None."""
    try:
        import torch
        from compressai.entropy_models import EntropyBottleneck
    except ModuleNotFoundError:
        return None
    torch.set_num_threads(1)
    entropy = EntropyBottleneck(model.channels)
    entropy._quantized_cdf = torch.from_numpy(model.cdf.copy())
    entropy._cdf_length = torch.from_numpy(model.lengths.copy())
    entropy._offset = torch.from_numpy(model.offsets.copy())
    entropy.quantiles.data[:, 0, 1] = torch.from_numpy(model.shift.copy())
    return (
        lambda latent: entropy.compress(torch.from_numpy(latent[None]))[0],
        lambda payload, shape: entropy.decompress([payload], shape[1:])[0].numpy(),
    )


def measure(symbols, model, latents, rounds, slow_rounds):
    ours = {
        "rans": RansCodec(kernel="c"),
        "rans, not adapting": RansCodec(kernel="c", adapt=False),
        "rans, numpy": RansCodec(kernel="numpy"),
    }
    coders = {
        name: (
            lambda latent, codec=codec: codec.encode_latent(latent, model),
            lambda payload, shape, codec=codec: codec.decode_latent(payload, shape, model),
        )
        for name, codec in ours.items()
    }
    theirs = peer(model)
    if theirs:
        coders["compressai"] = theirs
    times = time_coders(coders, model, latents, rounds, slow_rounds)
    count = latents[0].size
    ideal = np.array([model.ideal_bits(image) / 8 for image in symbols])
    report = {}
    for name, (encoded, decoded) in times.items():
        report[name] = {
            "encode_ns_a_symbol": round(statistics.median(encoded) / count * 1e9, 2),
            "decode_ns_a_symbol": round(statistics.median(decoded) / count * 1e9, 2),
        }
    for name in ("rans", "rans, not adapting"):
        report[name] |= sizes_against_ideal([len(ours[name].encode(image, model)) for image in symbols], ideal)
    for name in ours if theirs else ():
        for direction, number in (("encode", 0), ("decode", 1)):
            ratio = statistics.median(times["compressai"][number]) / statistics.median(times[name][number])
            report[name][f"{direction}_times_faster"] = round(ratio, 1)
    return {
        "images": len(symbols),
        "symbols_an_image": count,
        "ideal_bytes_an_image": round(float(ideal.mean()), 1),
        **report,
    }


def sizes_against_ideal(sizes, ideal):
    sizes = np.array(sizes)
    small = ideal < 10_000
    return {
        "bytes_an_image": round(float(sizes.mean()), 1),
        "against_ideal": round(float(sizes.sum() / ideal.sum() - 1), 5),
        "worst_from_10_kB": round(float((sizes / ideal - 1)[~small].max()), 5) if (~small).any() else None,
        "worst_below_10_kB_bytes": round(float((sizes - ideal)[small].max()), 1) if small.any() else None,
    }


def time_coders(coders, model, latents, rounds, slow_rounds):
    """Return name -> seconds per latent of encoding and of decoding, in every round."""
    times = {name: ([], []) for name in coders}
    names = list(coders)
    for turn in range(rounds):
        names.append(names.pop(0))  # nobody always comes after the same one
        for name in names:
            if name == "rans, numpy" and turn >= slow_rounds:
                continue
            encode, decode = coders[name]
            start = time.perf_counter()
            payloads = [encode(latent) for latent in latents for _ in range(REPEATS)]
            middle = time.perf_counter()
            for payload in payloads:
                restored = decode(payload, latents[0].shape)
            end = time.perf_counter()
            times[name][0].append((middle - start) / len(payloads))
            times[name][1].append((end - middle) / len(payloads))
            if not np.array_equal(restored, model.restore(latents[-1])):
                raise SystemExit(f"{name} does not give the latents back")
    return times


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, help="folder with fp_low.npz, fp_mid.npz, fp_high.npz")
    parser.add_argument("--rounds", type=int, default=41)
    parser.add_argument("--slow-rounds", type=int, default=2, help="rounds of the numpy implementation")
    arguments = parser.parse_args()
    sets = (
        {path.stem: load(path) for path in sorted(arguments.root.glob("*.npz"))}
        if arguments.root
        else {"made": made(0)}
    )
    if not sets:
        raise SystemExit(f"no latents (*.npz) in {arguments.root}")
    results = {name: measure(*parts, arguments.rounds, arguments.slow_rounds) for name, parts in sets.items()}
    json.dump(
        {"python": platform.python_version(), "machine": platform.machine(), "threads": 1,
         "rounds": arguments.rounds, "sets": results},
        sys.stdout, indent=1,
    )  # fmt: skip
    print()


if __name__ == "__main__":
    main()
