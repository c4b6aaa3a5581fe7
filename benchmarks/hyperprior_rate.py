"""Bytes of fp, shp and mshp at the same distortion, and what integer networks cost against floating-point ones.

    python benchmarks/hyperprior_rate.py --root DATA --steps 1500 > hyperprior_rate.json

One encoder and decoder are fitted with fp on crops of the Kodak pictures 1 to 16. Each prior is then fitted to that
frozen encoder and decoder, so that all have nearly the same distortion; bytes are real streams of codec compressai for
crops of the pictures 17 to 24. The hyperpriors are fitted twice, with integer arithmetic in the forward pass and with none;
the second is charged the code length of its floating-point densities, the first its real bytes, the ends of both streams
included. With --joint, shp and mshp are also fitted with an encoder and decoder of their own, for as many steps as fp was.
Times are medians of one thread. Without --root: drawn pictures.
"""

import argparse
import json
import math
import os
import platform
import sys
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from splitreg_compressai.ans import CompressaiCodec
from splitreg_compressai.factorized import FactorizedPrior
from splitreg_compressai.hyperprior import MeanScaleHyperprior, ScaleHyperprior

from splitreg.coding import decode_streams, encode_streams
from splitreg.networks import FixedConv
from splitreg.specs import FeatureSpec

IMAGE = FeatureSpec(channels=3, stride=1)
OPTIONS = {"channels": 24, "encoder": "light", "hidden": 64, "decoder_hidden": 64, "blocks": 2, "surrogate": "noise"}
KINDS = {"fp": FactorizedPrior, "shp": ScaleHyperprior, "mshp": MeanScaleHyperprior}


def drawn(count: int, size: int = 384) -> list[np.ndarray]:
    """Smooth noise with edges: pictures for a machine without any."""
    generator, found = np.random.default_rng(0), []
    for _ in range(count):
        picture = np.zeros((size, size, 3))
        for octave in (4, 12, 48, 192):
            grid = generator.random((octave, octave, 3)) * 255
            layer = Image.fromarray(grid.astype(np.uint8)).resize((size, size), Image.Resampling.BICUBIC)
            picture += np.asarray(layer) * (2.0 / octave**0.5)
        x, y = generator.integers(0, size // 2, 2)
        picture[y : y + size // 3, x : x + size // 3] *= generator.random()
        found.append(np.clip(picture / picture.max() * 255, 0, 255).astype(np.uint8))
    return found


def pictures(root: str | None) -> list[np.ndarray]:
    files = sorted(Path(root, "kodak").glob("*.png")) if root else []
    return [np.asarray(Image.open(file).convert("RGB")) for file in files] or drawn(24)


def crops(images: list[np.ndarray], size: int, count: int, generator: np.random.Generator) -> torch.Tensor:
    """(count, 3, size, size), about normalised."""
    found = []
    for _ in range(count):
        image = images[generator.integers(len(images))]
        y, x = (generator.integers(0, side - size + 1) for side in image.shape[:2])
        found.append(image[y : y + size, x : x + size])
    return (torch.from_numpy(np.stack(found)).permute(0, 3, 1, 2).float() / 255 - 0.45) / 0.23


#: Side of the training crops in pixels, and crops per step.
CROP, BATCH = 128, 8


def fit(model, images, steps: int, *, whole: bool, rate_lambda: float) -> None:
    """Fit encoder, decoder and prior together, or the prior alone."""
    apart = {id(p) for p in model.auxiliary_parameters()}
    inner = () if whole else (model.encoder, model.decoder)
    fixed = {id(p.requires_grad_(False)) for part in inner for p in part.parameters()}
    weights = [p for p in model.parameters() if id(p) not in apart | fixed]
    main = torch.optim.Adam(weights, 1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(main, 4e-3 if whole else 2e-3, total_steps=steps)
    auxiliary = torch.optim.Adam(model.auxiliary_parameters(), 1e-2)
    generator = np.random.default_rng(1)
    model.train()
    for part in inner:
        part.eval()
    for _ in range(steps):
        x = crops(images, CROP, BATCH, generator)
        restored, bits = model(x)
        loss = rate_lambda * bits.mean() / CROP**2
        if whole:
            loss = loss + (restored[..., :CROP, :CROP] - x).square().mean()
        main.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        main.step()
        schedule.step()
        auxiliary.zero_grad()
        model.auxiliary_loss().backward()
        auxiliary.step()
    model.eval()


def measure(model, images: torch.Tensor) -> dict:
    """Mean bytes, PSNR and medians of the times of coding one latent."""
    tables, codec = model.freeze(), CompressaiCodec()
    sizes, sides, errors, encode, decode, ideal = [], [], [], [], [], []
    for image in images:
        with torch.no_grad():
            latent = model.analyse(image[None])[0].numpy()
        start = time.perf_counter()
        streams = encode_streams(tables, latent, codec)
        middle = time.perf_counter()
        received = decode_streams(tables, streams, latent.shape, codec)
        decode.append(time.perf_counter() - middle)
        encode.append(middle - start)
        if not np.array_equal(received, tables.restore(latent)):
            raise RuntimeError("the receiver has another latent")
        two = len(streams) == 2
        ideal.append((tables.measure(latent)[1] if two else tables.ideal_bits(tables.quantise(latent))) / 8)
        sizes.append(sum(map(len, streams)))
        sides.append(len(streams[0]) if two else 0)
        with torch.no_grad():
            restored = model.synthesise(torch.from_numpy(received)[None])[0, :, : image.shape[1], : image.shape[2]]
        errors.append(((restored - image) * 0.23).square().mean().item())
    return {
        "bytes": round(float(np.mean(sizes)), 1), "tables_bytes": round(float(np.mean(ideal)), 1),
        "side_bytes": round(float(np.mean(sides)), 1), "psnr": round(-10 * math.log10(np.mean(errors)), 3),
        "encode_ms": round(1e3 * float(np.median(encode)), 2), "decode_ms": round(1e3 * float(np.median(decode)), 2),
    }  # fmt: skip


def float_bytes(model, images: torch.Tensor) -> float:
    """Mean code length of a model's floating-point densities, unrounded networks, in bytes."""
    from splitreg_compressai.hyperprior import _normal_bits

    FixedConv.exact = False
    total = []
    try:
        with torch.no_grad():
            for image in images:
                latent = model.analyse(image[None])
                hyper = model.hyper_analysis(model._blocks(latent)).round()
                flat = hyper.transpose(0, 1).reshape(hyper.shape[1], 1, -1)
                likelihood = model.prior.masses(flat).clamp_min(1e-9)
                scales, means = model._predict(hyper, latent)
                symbols = (latent - means).round()
                total.append((_normal_bits(symbols, scales).sum() - likelihood.log2().sum()).item() / 8)
    finally:
        FixedConv.exact = True
    return round(float(np.mean(total)), 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", default=os.environ.get("SPLITREG_DATA"))
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--rate-lambda", type=float, default=0.01)
    parser.add_argument("--joint", action="store_true")
    parser.add_argument("--size", type=int, default=256, help="sides of the pictures that are measured")
    args = parser.parse_args()
    torch.set_num_threads(1)
    images = pictures(args.root)
    test = crops(images[16:], args.size, 24, np.random.default_rng(2))
    results = {}
    torch.manual_seed(0)
    base = FactorizedPrior(IMAGE, IMAGE, **OPTIONS)
    fit(base, images[:16], 3 * args.steps, whole=True, rate_lambda=args.rate_lambda)
    for name, kind in KINDS.items():
        for exact in (True,) if name == "fp" else (True, False):
            torch.manual_seed(0)
            model = kind(IMAGE, IMAGE, **OPTIONS)
            model.encoder, model.decoder = base.encoder, base.decoder
            FixedConv.exact = exact
            fit(model, images[:16], args.steps, whole=False, rate_lambda=1.0)
            FixedConv.exact = True
            found = measure(model, test) if exact else {}
            if name != "fp":
                found["same_weights_in_float_bytes" if exact else "trained_in_float_bytes"] = float_bytes(model, test)
            results[name] = results.get(name, {}) | found
            print(name, exact, found, flush=True, file=sys.stderr)
    for name in ("shp", "mshp") if args.joint else ():
        torch.manual_seed(0)
        model = KINDS[name](IMAGE, IMAGE, **OPTIONS)
        fit(model, images[:16], 3 * args.steps, whole=True, rate_lambda=args.rate_lambda)
        results[name]["joint"] = measure(model, test)
        print(name, results[name]["joint"], flush=True, file=sys.stderr)
    for name in ("shp", "mshp"):
        results[name]["against_fp"] = round(results[name]["bytes"] / results["fp"]["bytes"] - 1, 4)
        for key in ("same_weights_in_float_bytes", "trained_in_float_bytes"):
            results[name][f"integer_cost_{key[:-6]}"] = round(results[name]["bytes"] / results[name][key] - 1, 4)
    print(json.dumps({
        "pictures": len(test), "size": args.size, "steps": args.steps, "real": bool(args.root), "seed": 0, "threads": 1,
        "machine": platform.processor() or platform.machine(), "torch": torch.__version__, "results": results,
    }, indent=1))  # fmt: skip


if __name__ == "__main__":
    main()
