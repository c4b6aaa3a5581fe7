"""The edge half in float32 and in 8 bits in onnxruntime, one thread, against torch: time, and symbols that change.

    python benchmarks/int8_speed.py --root FOLDER-OF-PICTURES [--size 416] [--bottleneck '{"name": "fp"}'] [--cut layer1]

Weights are as initialised (GDN's gamma is given its off-diagonal part), seed 0: times do not depend on them, and the
symbols give an order of magnitude: the latent is scaled to a standard deviation of 1.5 steps. Half of the pictures
calibrate, the other half is measured. Rounds are interleaved; prints medians and the medians of the rounds' ratios as JSON.
"""

import argparse
import json
import statistics
import time

import numpy as np
import torch

import splitreg
from splitreg import imaging
from splitreg.edge import load_network
from splitreg.evaluation.report import hardware, versions
from splitreg.publishing.int8 import images_in, quantise_graph
from splitreg.publishing.onnx_export import export_edge


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", required=True)
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--bottleneck", type=json.loads, default={"name": "fp", "encoder": "gdn"})
    parser.add_argument("--cut", default="layer1")
    parser.add_argument("--size", type=int, default=416)
    parser.add_argument("--pictures", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=25)
    given = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    size = (given.size, given.size)
    model = splitreg.build(
        backbone=given.backbone, bottleneck=given.bottleneck, cut=given.cut, heads=[{"name": "cls", "labels": 10}],
        input={"size": list(size)},
    ).eval()  # fmt: skip
    with torch.no_grad():
        for name, weight in model.bottleneck.encoder.named_parameters():
            if name.endswith("gamma"):
                weight += 0.1 * torch.rand_like(weight)
    files = images_in(given.root)[: given.pictures]
    images = [imaging.prepare(imaging.read(file), model.edge.coding.preprocess)[0] for file in files]
    half = len(images) // 2
    graph = export_edge(model.edge).data
    graphs = {"float32": graph, "int8": quantise_graph(graph, images[:half])}
    networks = {name: load_network("onnxruntime", data, name=name, size=size) for name, data in graphs.items()}

    def eager(image: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return model.edge.latent(torch.from_numpy(image)[None])[0].numpy()

    runs = {"torch": eager, **{name: network.run for name, network in networks.items()}}
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for index in range(given.rounds + 2):
        for name, run in runs.items():
            start = time.perf_counter()
            run(images[index % len(images)])
            if index >= 2:  # the first rounds warm up
                seconds[name].append(time.perf_counter() - start)
    latents = {name: np.stack([np.array(run(image)) for image in images[half:]]) for name, run in runs.items()}
    step = latents["torch"].std() / 1.5
    error = np.mean((latents["int8"] - latents["float32"]) ** 2)
    ratio = {
        name: round(statistics.median(a / b for a, b in zip(seconds[name], seconds["int8"], strict=True)), 2)
        for name in ("torch", "float32")
    }
    print(json.dumps({
        "edge": f"{given.backbone} {given.cut}, {given.bottleneck}, {given.size}x{given.size}",
        "ms": {name: round(1000 * statistics.median(values), 2) for name, values in seconds.items()},
        "times_int8": ratio,
        "symbols_changed": {
            name: round(float(np.mean(np.rint(latents[name] / step) != np.rint(latents["torch"] / step))), 5)
            for name in graphs
        },
        "int8_snr_db": round(float(10 * np.log10(latents["float32"].var() / error)), 1),
        "kilobytes": {name: round(len(data) / 1000) for name, data in graphs.items()},
        "rounds": given.rounds, "threads": 1, "seed": 0, "hardware": hardware(), "versions": versions(),
    }, indent=1))  # fmt: skip


if __name__ == "__main__":
    main()
