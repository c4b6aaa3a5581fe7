"""Cut one small model of every timm family at every stage, and compare with timm's own features bit for bit.

    python benchmarks/timm_families.py [--families resnet swin_transformer] [--table docs/timm-families.md]

Prints one JSON object a family. A cut is right if the feature goes through numpy (as on a link), the features after it
equal those of timm's ``forward_intermediates`` with the same weights in every bit, and prefix and body share no weight
and together hold all. Weights are random; one process, one model at a time.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import sys
import time
from pathlib import Path

import timm
import torch
from splitreg_timm import loading
from splitreg_timm.backbone import TimmBackbone

from splitreg.errors import SplitregError

#: Parts of names that tell a small model; the first ones are tried first.
SMALL = (
    "test_", "atto", "femto", "pico", "nano", "zepto", "xxs", "xx_small", "xxtiny", "_xs", "tiny", "_t0", "_050",
    "_035", "_s0", "_b0", "_m0", "mini", "small", "_18", "18", "_t", "_s", "xcit_nano", "11", "13", "002", "24",
)  # fmt: skip
#: Models with more parameters are tried at half the size; with more than the second number, not at all.
LARGE, LARGEST = 150e6, 450e6


def smallest(family: str) -> tuple[str, float]:
    """Name and number of parameters of (nearly) the smallest model of a family, counted on the meta device."""

    def rank(name: str) -> tuple[int, int]:
        return next((i for i, part in enumerate(SMALL) if part in name), len(SMALL)), len(name)

    sizes = {}
    for name in sorted(timm.list_models(module=family), key=rank)[:5]:
        with torch.device("meta"):
            sizes[name] = float(sum(p.numel() for p in timm.create_model(name, num_classes=0).parameters()))
    name = min(sizes, key=sizes.__getitem__)
    return name, sizes[name]


def check(name: str, size: tuple[int, int]) -> dict[str, object]:
    """Cut a model everywhere."""
    torch.manual_seed(0)
    backbone = TimmBackbone(name, image_size=size).eval()
    with torch.no_grad():
        for parameter in backbone.parameters():  # what is initialised as zero would hide a mistake
            parameter.add_(torch.randn_like(parameter) * 0.02)
        image = torch.randn(1, 3, *size)
        whole, own = backbone(image), own_features(backbone, name, image)
        everything = set(backbone.state_dict())
        wrong = [f"stride {s}: not timm's" for s, feature in whole.items() if not any(same(feature, f) for f in own)]
        for cut in backbone.stages:
            prefix, body = backbone.split(cut)
            first, second = set(prefix.state_dict()), set(body.state_dict())
            if first & second or not first | second <= everything:
                wrong.append(f"{cut}: weights are on both sides or foreign")
            crossed = torch.from_numpy(prefix(image).numpy().copy())
            if not all(torch.equal(feature, whole[stride]) for stride, feature in body(crossed).items()):
                wrong.append(f"{cut}: features differ")
    strides = [spec.stride for spec in backbone.stages.values()]
    return {
        "cuts": len(strides), "strides": sorted(set(strides)), "left_out": len(backbone.refused),
        "ok": not wrong, "reason": "; ".join(wrong) or "; ".join(sorted(set(backbone.refused.values()))),
    }  # fmt: skip


def own_features(backbone: TimmBackbone, name: str, image: torch.Tensor) -> list[torch.Tensor]:
    """timm's own features with the backbone's weights: its parameters go by timm's names."""
    meta = loading.build_meta(name, tuple(image.shape[-2:]), 0.0)
    model = loading.build_weighted(meta, False).eval()
    model.load_state_dict({k.removeprefix("net."): v for k, v in backbone.state_dict().items()}, strict=False)
    if meta.size != tuple(image.shape[-2:]):
        image = torch.nn.functional.interpolate(image, size=meta.size, mode="bilinear", align_corners=False)
    features: list[torch.Tensor] = model.forward_intermediates(image, intermediates_only=True)
    return features


def same(feature: torch.Tensor, own: torch.Tensor) -> bool:
    """Equal, but for channels that carry class tokens and a border that makes up for missing padding."""
    channels, height, width = own.shape[1:]
    top, left = (feature.shape[2] - height) // 2, (feature.shape[3] - width) // 2
    return min(top, left) >= 0 and torch.equal(feature[:, :channels, top : top + height, left : left + width], own)


def table(rows: list[dict[str, object]]) -> str:
    """The outcome as a Markdown page."""
    good = sum(bool(row["ok"]) for row in rows)
    several = sum(bool(row["ok"]) and int(str(row["cuts"])) > 1 for row in rows)
    lines = [
        "# Supported timm families", "",
        "Written by `python benchmarks/timm_families.py --table docs/timm-families.md`, with timm "
        f"{timm.__version__} and torch {torch.__version__}.", "",
        "One small model per family with random weights, cut after every stage. "
        f"{good} of {len(rows)} families work: the split model equals timm's own features bit for bit, and no weight "
        f"is on both sides. {several} of them can be cut at more than one stage.", "",
        "| family | model | parameters | input | cuts | strides | outcome |", "| --- | --- | ---: | --- | ---: | --- | --- |",
    ]  # fmt: skip
    for row in rows:
        strides = ", ".join(map(str, row.get("strides", [])))  # type: ignore[arg-type]
        note = f"{row['left_out']} maps left out: {row['reason']}" if row["ok"] and row["left_out"] else row["reason"]
        outcome = "ok" if row["ok"] and not note else f"ok; {note}" if row["ok"] else f"**no**: {note}"
        lines.append(
            f"| {row['family']} | {row['model']} | {row['millions']} M | {row['input']} | {row['cuts']} | {strides} "
            f"| {outcome} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", nargs="*", default=timm.list_modules(), help="default: all")
    parser.add_argument("--table", type=Path, help="write a Markdown page")
    arguments = parser.parse_args()
    logging.getLogger("timm").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    rows: list[dict[str, object]] = []
    for family in arguments.families:
        begun = time.perf_counter()
        row: dict[str, object] = {"family": family, "cuts": 0, "left_out": 0, "ok": False}
        try:
            name, parameters = smallest(family)
            cfg = timm.get_pretrained_cfg(name)
            size = tuple(cfg.input_size[1:]) if max(cfg.input_size) <= 512 else (256, 256)
            if parameters > LARGE:
                size = (size[0] // 2, size[1] // 2)
            row |= {"model": name, "millions": round(parameters / 1e6, 1), "input": f"{size[1]}x{size[0]}"}
            row |= check(name, size) if parameters <= LARGEST else {"reason": "too large to try"}
        except (SplitregError, RuntimeError, TypeError, ValueError) as error:
            row |= {"reason": f"{type(error).__name__}: {str(error)[:300]}"}
        rows.append(row)
        print(json.dumps(row), flush=True)
        print(f"{family}: {time.perf_counter() - begun:.1f} s", file=sys.stderr)
        gc.collect()
    print(json.dumps({"ok": sum(bool(row["ok"]) for row in rows), "families": len(rows)}))
    if arguments.table:
        arguments.table.write_text(table(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
