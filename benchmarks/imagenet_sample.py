"""Top-1 and agreement with the unsplit model against bytes, on a sample of ImageNet; JSON on stdout.

::

    B="python benchmarks/imagenet_sample.py"
    $B images --root imagenet_sample --weights lite0.safetensors      # JPEG, WebP and AVIF to the unsplit model
    $B cache views.pt --root imagenet_sample --weights lite0.safetensors --more camvid/train pets/JPEGImages
    $B calibrate --root imagenet_sample --weights lite0.safetensors -o training-free
    $B fit ours --cache views.pt --weights lite0.safetensors --start training-free --minutes 4 -o ours
    $B fit ladon --cache views.pt --weights lite0.safetensors --minutes 10 -o ladon
    $B fit student --cache views.pt --weights lite0.safetensors --start ladon --minutes 5 -o student
    $B packets --root imagenet_sample --weights lite0.safetensors ours --rates 0,0.25,0.5,0.75,1
    $B curves images.json ours.json ladon.json                        # BD-rates, and bytes within 1 point

The sample has one image per class, ``train/``, ``val/`` and ``labels.csv`` (file, class index, ...). The weights
are those of timm's ``tf_efficientnet_lite0``. ``val`` is cropped as timm does it (224 of 256 pixels, bicubic).
No method uses labels; ``fit`` learns from the unsplit model's features and logits on cached random crops.
Minutes are processor time of one thread.
"""

from __future__ import annotations

import argparse
import copy
import csv
import io
import json
import math
import sys
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.nn import functional

import splitreg
from splitreg.assembly import load, save

MODEL, SIZE = "tf_efficientnet_lite0", 224
#: Codec -> side in pixels -> qualities.
QUALITIES = {
    "webp": {224: (90, 75, 50, 20)},
    "avif": {160: (75, 50), 224: (85, 75, 60, 40)},
    "jpeg": {160: (75, 35), 224: (90, 75, 55, 35, 20, 10)},
}
CUTS = ("blocks.1", "blocks.2", "blocks.4", "blocks.6")


def recipe(weights: str | None, cut: str, bottleneck: dict, codec: str = "rans") -> dict:
    """Return the keys of a recipe with timm's own classifier."""
    pretrained = {} if weights is None else {"pretrained": weights}
    return {
        "backbone": {"name": MODEL, **pretrained}, "cut": cut, "bottleneck": bottleneck, "codec": codec,
        "heads": [{"name": "cls-timm", "as": "cls", "model": MODEL, **pretrained}],
        "input": {"size": [SIZE, SIZE], "mode": "resize"},
    }  # fmt: skip


def unsplit(weights: str) -> torch.nn.Module:
    """Return the unsplit model."""
    return splitreg.build(**recipe(weights, "blocks.2", {"name": "raw"}, "raw")).eval()


def crop(path: Path) -> Image.Image:
    """Return the central 224x224 pixels at a shorter side of 256, as timm evaluates this model."""
    image = Image.open(path).convert("RGB")
    scale = 256 / min(image.size)
    image = image.resize([round(side * scale) for side in image.size], Image.Resampling.BICUBIC)
    left, top = ((side - SIZE) // 2 for side in image.size)
    return image.crop((left, top, left + SIZE, top + SIZE))


def validation(root: Path) -> tuple[list[Image.Image], np.ndarray]:
    """Return the images of ``val`` and their classes."""
    with (root / "labels.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["file"].startswith("val/")]
    return [crop(root / row["file"]) for row in rows], np.array([int(row["index"]) for row in rows])


def tensor(images: list) -> torch.Tensor:
    """Return (B, 3, H, W), normalised."""
    return torch.from_numpy(np.stack([np.asarray(image) for image in images])).permute(0, 3, 1, 2) / 127.5 - 1


@torch.inference_mode()
def classes(model: torch.nn.Module, images: list) -> np.ndarray:
    """Return the classes of an unsplit model."""
    batches = [images[i : i + 25] for i in range(0, len(images), 25)]
    return np.concatenate([model(tensor(batch)).outputs["cls"].argmax(1).numpy() for batch in batches])


def row(predicted: np.ndarray, truth: np.ndarray, reference: np.ndarray, sizes: list[int], **names: object) -> dict:
    """Return one point of a curve."""
    return {
        **names, "bytes": float(np.mean(sizes)), "top1": float((predicted == truth).mean()),
        "agreement": float((predicted == reference).mean()),
    }  # fmt: skip


def images_command(args: argparse.Namespace) -> list[dict]:
    """Send compressed images to the unsplit model, at several sizes and qualities."""
    model, (images, truth) = unsplit(args.weights), validation(args.root)
    reference = classes(model, images)
    rows = [row(reference, truth, reference, [SIZE * SIZE * 3] * len(images), series="unsplit", point="pixels")]
    for codec in args.codecs.split(","):
        for side, qualities in QUALITIES[codec].items():
            small = [image.resize((side, side), Image.Resampling.LANCZOS) for image in images]
            for quality in qualities:
                received, sizes = [], []
                for image in small:
                    stream = io.BytesIO()
                    options = {"jpeg": {"optimize": True}, "webp": {"method": 4}, "avif": {"speed": 6}}[codec]
                    image.save(stream, codec.upper(), quality=quality, **options)
                    sizes.append(stream.tell())
                    received.append(Image.open(stream).convert("RGB").resize((SIZE, SIZE), Image.Resampling.BICUBIC))
                point = f"{side} pixels, quality {quality}"
                rows.append(row(classes(model, received), truth, reference, sizes, series=codec, point=point))
                print(rows[-1], file=sys.stderr, flush=True)
    return rows


def cache_command(args: argparse.Namespace) -> list[dict]:
    """Write random crops with the unsplit model's features at ``CUTS`` and its logits."""
    paths = sorted((args.root / "train").iterdir())
    paths += [path for folder in args.more for path in sorted(folder.iterdir())]
    generator, views = np.random.default_rng(args.seed), []
    for path in paths:
        try:
            image = Image.open(path).convert("RGB")
        except OSError:
            continue
        views += [view(image, generator) for _ in range(args.views)]
    model = splitreg.build(**recipe(args.weights, args.cut, {"name": "raw"}, "raw")).eval()
    features, logits = [], []
    with torch.inference_mode():
        for start in range(0, len(views), 16):
            feature = model.prefix(tensor(views[start : start + 16]))
            features.append(feature.half())
            logits.append(model.branches["cls"](model.body(feature), (SIZE, SIZE)))
    joined = {"feature": torch.cat(features), "logits": torch.cat(logits), "images": torch.from_numpy(np.stack(views))}
    torch.save(joined, args.output)
    return [{"images": len(paths), "views": len(views), "cpu_minutes": time.process_time() / 60}]


def registry_backbone(weights: str) -> torch.nn.Module:
    """Return the backbone with its weights."""
    from splitreg.registry import discover

    options = {"pretrained": weights}
    reserved = {"image_size": (SIZE, SIZE)}
    return discover().component("backbone", MODEL).create(options=options, reserved=reserved)


def view(image: Image.Image, generator: np.random.Generator) -> np.ndarray:
    """Return a random crop of 20 to 100 % of the area, mirrored half the time, with other brightness and contrast."""
    width, height = image.size
    area = generator.uniform(0.2, 1.0) * min(width, height) ** 2
    ratio = math.exp(generator.uniform(math.log(3 / 4), math.log(4 / 3)))
    w, h = min(width, round(math.sqrt(area * ratio))), min(height, round(math.sqrt(area / ratio)))
    x, y = generator.integers(0, width - w + 1), generator.integers(0, height - h + 1)
    image = image.resize((SIZE, SIZE), Image.Resampling.BICUBIC, box=(x, y, x + w, y + h))
    if generator.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    gain, shift = generator.uniform(0.7, 1.3), generator.uniform(-25, 25)
    return np.clip((np.asarray(image, np.float32) - 128) * gain + 128 + shift, 0, 255).astype(np.uint8)


def relative(own: torch.Tensor, theirs: torch.Tensor) -> torch.Tensor:
    """Return the squared error over the squares of the target."""
    return ((own - theirs).square().flatten(1).sum(1) / theirs.square().flatten(1).sum(1)).mean()


def divergence(own: torch.Tensor, theirs: torch.Tensor) -> torch.Tensor:
    """Return KL(theirs || own) of logits."""
    return functional.kl_div(own.log_softmax(1), theirs.log_softmax(1), reduction="batchmean", log_target=True)


def loop(args: argparse.Namespace, views: dict, groups: list[dict], loss, batch_size: int, clip: float = 5.0) -> int:
    """Train for ``args.minutes`` of processor time, with a cosine schedule in time; returns the steps."""
    optimizer = torch.optim.AdamW(groups, weight_decay=0.01)
    rates = [group["lr"] for group in optimizer.param_groups]
    begun, steps, generator = time.process_time(), 0, torch.Generator().manual_seed(args.seed)
    parameters = [p for group in groups for p in group["params"]]
    while (part := (time.process_time() - begun) / 60 / args.minutes) < 1:
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * min(1.0, part / 0.03 + 0.02) * 0.5 * (1 + math.cos(math.pi * part))
        rows = torch.randint(len(views["logits"]), (batch_size,), generator=generator)
        optimizer.zero_grad()
        value, parts = loss({name: tensors[rows] for name, tensors in views.items()}, part)
        value.backward()
        torch.nn.utils.clip_grad_norm_(parameters, clip)
        optimizer.step()
        steps += 1
        if steps % 50 == 0:
            shown = {name: round(float(value), 4) for name, value in parts.items()}
            print(f"{part:.3f} step {steps} {shown}", file=sys.stderr, flush=True)
    return steps


def tails(model: torch.nn.Module, steps: int = 1000) -> None:
    """Move the quantiles of the prior to its tails, if it has such."""
    quantiles = list(model.bottleneck.auxiliary_parameters())
    if not quantiles:
        return
    optimizer = torch.optim.Adam(quantiles, 0.05)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 0.05 * (1 - step / steps)
        optimizer.zero_grad()
        model.bottleneck.auxiliary_loss().backward()
        optimizer.step()


def main_parameters(module: torch.nn.Module, bottleneck: torch.nn.Module) -> list:
    """Return the parameters without the quantiles of the prior."""
    others = {id(parameter) for parameter in bottleneck.auxiliary_parameters()}
    return [parameter for parameter in module.parameters() if id(parameter) not in others]


def calibrate_command(args: argparse.Namespace) -> list[dict]:
    """Write the training-free model, calibrated on every seventh image of ``train``; the seed is the number of the first."""
    from splitreg.assembly.calibration import calibrate

    model = splitreg.build(**recipe(args.weights, args.cut, {"name": "calibrated"}))
    begun = time.process_time()
    calibrate(model, [np.asarray(crop(path)) for path in sorted((args.root / "train").iterdir())[args.seed :: 7]])
    save(model, args.output, overwrite=True)
    return [{"bundle": str(args.output), "cpu_seconds": time.process_time() - begun}]


def fit_ours(args: argparse.Namespace) -> list[dict]:
    """Continue from the training-free model: the bottleneck learns from the unsplit model, and so does the server if asked."""
    torch.manual_seed(args.seed)
    cached = torch.load(args.cache, weights_only=True)
    views = {"feature": cached["feature"], "logits": cached["logits"]}
    model = load(args.start)
    model.train(), model.prefix.eval(), model.body.eval(), model.branches.eval()
    weights = [model.bottleneck.encoder.weight, model.bottleneck.decoder.weight]
    frozen = copy.deepcopy(model.body).eval().requires_grad_(False)
    groups = [
        *({"params": [weight], "lr": args.lr * float(weight.std())} for weight in weights),
    ]
    model.body.requires_grad_(args.server_lr > 0), model.branches.requires_grad_(args.server_lr > 0)
    if args.server_lr:
        server = [*model.body.parameters(), *model.branches.parameters()]
        groups.append({"params": server, "lr": args.lr * args.server_lr})

    def loss(batch: dict, part: float):
        feature = batch["feature"].float()
        restored, bits = model.bottleneck(feature)
        features = model.body(restored)
        logits = model.branches["cls"](features, (SIZE, SIZE))
        with torch.no_grad():
            targets = frozen(feature)
        kl, cut = divergence(logits, batch["logits"]), relative(restored, feature)
        last, rate = relative(features[max(targets)], targets[max(targets)]), bits.mean()
        weight = args.rate_lambda / SIZE**2
        total = kl + 0.2 * last + weight * rate
        return total, {"kl": kl, "cut": cut, "last": last, "bytes": rate / 8}

    steps = loop(args, views, groups, loss, 32)
    return finish(args, model, steps)


def fit_ladon(args: argparse.Namespace) -> list[dict]:
    """The GDN encoder of Ladon and the Entropic Student: squared errors after each stage of the frozen body, plus bits."""
    torch.manual_seed(args.seed)
    cached = torch.load(args.cache, weights_only=True)
    views = {"images": cached["images"], "logits": cached["logits"]}
    bottleneck = {"name": "fp", "from": "image", "encoder": "gdn", "channels": 24, "surrogate": "noise"}
    model = splitreg.build(**recipe(args.weights, "blocks.1", bottleneck))
    if args.start is not None:
        model.load_state_dict(load(args.start).state_dict())
    teacher = registry_backbone(args.weights).eval().requires_grad_(False)
    model.train(), model.body.eval().requires_grad_(False)
    groups = [{"params": main_parameters(model.bottleneck, model.bottleneck), "lr": args.lr}]

    def loss(batch: dict, part: float):
        images = batch["images"].permute(0, 3, 1, 2).float() / 127.5 - 1
        with torch.no_grad():
            targets = teacher(images)
        restored, bits = model.bottleneck(images)
        features = model.body(restored)
        errors = sum((features[s] - targets[s]).square().flatten(1).sum(1).mean() for s in features)
        rate = bits.mean()
        return errors + args.beta * rate, {"errors": errors, "bytes": rate / 8}

    steps = loop(args, views, groups, loss, 8, clip=1e9)
    return finish(args, model, steps)


def fit_student(args: argparse.Namespace) -> list[dict]:
    """The second stage: the encoder is frozen, decoder, body and classifier learn from the unsplit model's logits."""
    torch.manual_seed(args.seed)
    cached = torch.load(args.cache, weights_only=True)
    views = {"images": cached["images"], "logits": cached["logits"]}
    model = load(args.start)
    bottleneck = model.bottleneck.eval()
    groups = [
        {"params": [*bottleneck.decoder.parameters()], "lr": args.lr},
        {"params": [*model.body.parameters(), *model.branches.parameters()], "lr": args.lr * 0.1},
    ]

    def loss(batch: dict, part: float):
        images = batch["images"].permute(0, 3, 1, 2).float() / 127.5 - 1
        with torch.no_grad():
            received, _ = bottleneck.prior(bottleneck.analyse(images))
        features = model.body(bottleneck.synthesise(received)[..., : SIZE // 4, : SIZE // 4])
        kl = divergence(model.branches["cls"](features, (SIZE, SIZE)), batch["logits"])
        return kl, {"kl": kl}

    steps = loop(args, views, groups, loss, 8)
    return finish(args, model, steps, moved=False)


FITS = {"ours": fit_ours, "ladon": fit_ladon, "student": fit_student}


def finish(args: argparse.Namespace, model: torch.nn.Module, steps: int, *, moved: bool = True) -> list[dict]:
    """Freeze the tables and write the bundle."""
    model.eval()
    if moved:
        tails(model)
        model.freeze_tables()
    model.trained = True
    save(model, args.output, overwrite=True)
    macs = model.plan.costs()["edge"].macs
    return [{"bundle": str(args.output), "steps": steps, "minutes": args.minutes, "device_macs": macs}]


def packets_command(args: argparse.Namespace) -> list[dict]:
    """Send packets of bundles."""
    images, truth = validation(args.root)
    reference = classes(unsplit(args.weights), images)
    arrays, rows = [np.asarray(image) for image in images], []
    for bundle in args.bundles:
        model = load(bundle)
        macs = model.plan.costs()["edge"].macs
        for rate in args.rates or [None]:
            packets = [packet for array in arrays for packet in model.edge.encode([array], rate=rate)]
            predicted = [int(p["cls"].probabilities.argmax()) for p in model.server.infer(packets)]
            point = "" if rate is None else f"rate {rate:g}"
            sizes = [len(packet) for packet in packets]
            names = {"series": args.series or Path(bundle).name, "bundle": str(bundle), "point": point, "macs": macs}
            rows.append(row(np.array(predicted), truth, reference, sizes, **names))
            print(rows[-1], file=sys.stderr, flush=True)
    return rows


def curves_command(args: argparse.Namespace) -> list[dict]:
    """Return the upper envelope of each series, its BD-rates, and its fewest bytes within 1 point of the unsplit model."""
    from splitreg.bench.bjontegaard import Curve, bd_rate, overlap

    rows = [entry for path in args.files for entry in json.loads(path.read_text())]
    series: dict[str, list[dict]] = {}
    for entry in rows:
        series.setdefault(entry["series"], []).append(entry)
    best = series.pop("unsplit")[0]
    output = []
    for metric in ("top1", "agreement"):
        curves = {}
        for name, points in series.items():
            hull = envelope(points, metric)
            enough = [p["bytes"] for p in points if p[metric] >= best[metric] - 0.01 - 1e-9]
            output.append({
                "metric": metric, "series": name, "within_1_point": min(enough, default=None),
                "envelope": [(round(p["bytes"]), round(p[metric], 4), p["point"]) for p in hull],
            })  # fmt: skip
            if len(hull) > 1:
                curves[name] = Curve.through([p["bytes"] for p in hull], [p[metric] for p in hull])
        for name, curve in curves.items():
            for anchor in curves:
                if name != anchor:
                    try:
                        figures = {"bd_rate": bd_rate(curve, curves[anchor]), "overlap": overlap(curve, curves[anchor])}
                    except Exception as error:  # curves without a common accuracy
                        figures = {"bd_rate": None, "reason": str(error)}
                    output.append({"metric": metric, "series": name, "anchor": anchor, **figures})
    return output


def envelope(points: list[dict], metric: str) -> list[dict]:
    """Return the points that no point with fewer bytes reaches, in the order of bytes."""
    hull: list[dict] = []
    for point in sorted(points, key=lambda p: (p["bytes"], -p[metric])):
        if not hull or point[metric] > hull[-1][metric]:
            hull.append(point)
    return hull


def main() -> None:
    """Run one command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    parts = {name: commands.add_parser(name) for name in ("images", "calibrate", "cache", "fit", "packets", "curves")}
    for name in ("images", "calibrate", "cache", "packets"):
        parts[name].add_argument("--root", type=Path, required=True)
    for name in ("images", "calibrate", "cache", "fit", "packets"):
        parts[name].add_argument("--weights", required=True)
        parts[name].add_argument("--seed", type=int, default=0)
    parts["images"].add_argument("--codecs", default=",".join(QUALITIES))
    parts["cache"].add_argument("output", type=Path)
    parts["cache"].add_argument("--views", type=int, default=4)
    parts["calibrate"].add_argument("-o", "--output", type=Path, required=True)
    parts["calibrate"].add_argument("--cut", choices=CUTS, default="blocks.4")
    parts["cache"].add_argument("--cut", choices=CUTS, default="blocks.4")
    parts["cache"].add_argument("--more", type=Path, nargs="*", default=[])
    fit = parts["fit"]
    fit.add_argument("method", choices=("ours", "ladon", "student"))
    fit.add_argument("--cache", type=Path, required=True)
    fit.add_argument("--rate-lambda", type=float, default=1.0)
    fit.add_argument("--beta", type=float, default=1.28)
    fit.add_argument("--lr", type=float, default=2e-3)
    fit.add_argument("--server-lr", type=float, default=0.0, help="of body and classifier, as a share of --lr")
    fit.add_argument("--minutes", type=float, default=10.0)
    fit.add_argument("--start", type=Path)
    fit.add_argument("-o", "--output", type=Path, required=True)
    parts["packets"].add_argument("bundles", nargs="+")
    parts["packets"].add_argument("--series")
    parts["packets"].add_argument("--rates", type=lambda text: [float(x) for x in text.split(",")])
    parts["curves"].add_argument("files", type=Path, nargs="+")
    args = parser.parse_args()
    torch.set_num_threads(1)
    run = {
        "images": images_command, "calibrate": calibrate_command, "cache": cache_command, "packets": packets_command,
        "curves": curves_command, "fit": FITS.get(getattr(args, "method", "")),
    }  # fmt: skip
    print(json.dumps(run[args.command](args), indent=1))


if __name__ == "__main__":
    main()
