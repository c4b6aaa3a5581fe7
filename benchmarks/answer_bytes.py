"""Size and accuracy of answers: exact arrays, JSON, and compact ones at each resolution.

    python benchmarks/answer_bytes.py --root SPLITREG_DATA/camvid

A compact answer without a table is one whose class names the client has already (from the second one
on). Accuracy is measured on the predictions that a client restores, with the metric of each head; the
loss is that to exact answers. Prints JSON.
"""

from __future__ import annotations

import argparse
import gzip
import json
import statistics
import zlib

import numpy as np

from splitreg.assembly import SplitModel, load
from splitreg.data.loading import Source
from splitreg.edge.answer_reading import enlarge
from splitreg.evaluation.report import hardware, versions
from splitreg.imaging import RESOLUTIONS
from splitreg.registry import discover
from splitreg.wire import dump_json, pack, to_json
from splitreg.wire.compact import CompactReader, CompactWriter


def metrics_of(model: SplitModel, source: Source, heads, answers):
    """Return head -> metrics of answers against the ground truth."""
    results, targets = {}, {head.name: head.target for head in model.recipe.heads}
    for head in heads:
        metric = model.head(head).metric()
        pairs = [(answer[head], source[index].targets.get(targets[head])) for index, answer in enumerate(answers)]
        known = [(prediction, target) for prediction, target in pairs if target is not None]
        metric.update([prediction for prediction, _ in known], [target for _, target in known])
        results[head] = {name: round(float(value), 4) for name, value in metric.compute().items()}
    return results


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", default="zoo:splitreg-camvid")
    parser.add_argument("--data", default="camvid")
    parser.add_argument("--root", required=True)
    parser.add_argument("--split", default="val")
    parser.add_argument("--heads", default="seg,det")
    parser.add_argument("--min-score", type=float, default=0.3)
    parser.add_argument("--limit", type=int, default=101)
    options = parser.parse_args()
    heads = options.heads.split(",")
    model = load(options.bundle)
    edge, server = model.edge, model.server
    source = discover().create("dataset", options.data, options.root, options.split, options={})
    count = min(len(source), options.limit)
    packets = [edge.encode(source[index].array())[0] for index in range(count)]
    sizes = [source[index].array().shape[:2] for index in range(count)]
    exact = [server.infer(packet, heads)[0] for packet in packets]
    report = {"exact": metrics_of(model, source, heads, exact), "resolutions": {}}
    shown = [{head: p.above(options.min_score) for head, p in answer.items()} for answer in exact]
    for name, blobs in {
        "exact, gzip": [gzip.compress(pack([answer]), 6) for answer in shown],
        "json with run lengths, gzip": [gzip.compress(dump_json(to_json([answer])), 6) for answer in shown],
        "json with png": [dump_json(to_json([answer], "png")) for answer in shown],
    }.items():
        report[name] = {"mean_bytes": round(statistics.mean(map(len, blobs)), 1)}
    for resolution in RESOLUTIONS:
        answers = [server.infer(packet, heads, resolutions=resolution)[0] for packet in packets]
        whole, restored = [], []
        for answer, size in zip(answers, sizes, strict=True):
            filtered = {head: p.above(options.min_score) for head, p in answer.items()}
            first = CompactReader()
            first.read(CompactWriter().write(filtered))
            whole.append(len(CompactWriter(zlib.crc32(first.tables)).write(filtered)))
            back = CompactReader().read(CompactWriter().write(answer))
            restored.append({head: enlarge(p, size, resolution) for head, p in back.items()})
        report["resolutions"][resolution] = {
            "mean_bytes": round(statistics.mean(whole), 1), "largest_bytes": max(whole),
            "median_bytes": statistics.median(whole), "metrics": metrics_of(model, source, heads, restored),
            "mask": list(answers[0]["seg"].mask.shape) if "seg" in heads else None,
        }  # fmt: skip
    print(json.dumps({
        "what": "bytes of answers per image, and the metrics of what a client restores", "bundle": options.bundle,
        "data": options.data, "split": options.split, "images": count, "heads": heads, "min_score": options.min_score,
        **report, "hardware": hardware(), "versions": versions(),
    }, indent=1))  # fmt: skip


if __name__ == "__main__":
    np.seterr(all="raise")
    main()
