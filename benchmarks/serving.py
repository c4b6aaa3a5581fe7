"""Packets to predictions over HTTP, one thread: heads=cls against all heads, batches against a loop, ours against the peer.

    python benchmarks/serving.py --size 416 416 --images 24 --rounds 5 > result.json

One model (resnet50 cut at layer1, the peer's bottleneck, classification, Faster R-CNN, DeepLabv3; untrained) behind
``splitreg serve --workers 1 --threads 1``, asked by ``--clients`` connections. The loop is ``ServerModel.infer`` packet by
packet in a process, without HTTP. The peer is sc2bench's bottleneck with torchvision's layer2 to 4 and the same three
heads of torchvision, batch 1, always all three, without HTTP. Every contestant is a process that lives through all rounds;
in a round each answers the same number of packets, in an order that turns. Figures are images a second, medians of the
rounds, and ratios within a round. The peer computes in single precision, ours also with ``--precision bf16-mixed``.
``--small`` has a small model (no peer), where calls weigh more than sums.
"""

import argparse
import contextlib
import http.client
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from urllib.parse import urlparse

ONE = {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}


def command(*arguments):
    return [sys.executable, "-W", "ignore", str(Path(__file__)), *map(str, arguments)]


def make(folder, height, width, small):
    """Write a bundle, and packets of drawn pictures."""
    import numpy as np
    import torch

    import splitreg
    from splitreg.assembly import save
    from splitreg.assembly.testvectors import image as picture

    torch.manual_seed(0)
    large = {
        "backbone": "resnet50", "cut": "layer1", "bottleneck": {"name": "fp", "from": "image"},
        "heads": [{"name": "cls", "labels": 1000}, {"name": "det-fasterrcnn", "labels": 90, "as": "det"},
                  {"name": "seg-deeplabv3", "labels": 21, "as": "seg"}],
    }  # fmt: skip
    tiny = {
        "backbone": "test_resnet", "bottleneck": {"name": "fp", "from": "image", "channels": 6, "hidden": 8},
        "heads": [{"name": "cls", "labels": 10}, {"name": "seg", "labels": 4}, {"name": "depth"}],
    }  # fmt: skip
    model = splitreg.build(
        **(tiny if small == "True" else large), codec="rans", input={"size": [int(height), int(width)]}
    )
    save(model, Path(folder) / "bundle")
    whole = picture(int(height) + 64, int(width) + 64)
    shifted = [whole[i : i + int(height), i : i + int(width)] for i in range(0, 64, 8)]
    for i, packet in enumerate(model.edge.encode([np.ascontiguousarray(image) for image in shifted])):
        (Path(folder) / f"{i}.packet").write_bytes(packet)


def peer_model(size):
    """Return a function that turns one compressed image into the peer's three predictions, and a compressed image."""
    import torch
    import torchvision
    from sc2bench.models.layer import FPBasedResNetBottleneck
    from torchvision.models.detection import FasterRCNN
    from torchvision.models.detection.backbone_utils import BackboneWithFPN
    from torchvision.models.segmentation.deeplabv3 import DeepLabHead

    torch.manual_seed(0)
    resnet = torchvision.models.resnet50(weights=None)
    bottleneck = FPBasedResNetBottleneck()
    bottleneck.update(force=True)
    body = {f"layer{i}": getattr(resnet, f"layer{i}") for i in (2, 3, 4)}
    resnet.layer1 = torch.nn.Identity()
    names = {f"layer{i}": str(i - 1) for i in (1, 2, 3, 4)}
    pyramid = BackboneWithFPN(resnet, names, [256, 512, 1024, 2048], 256).fpn
    detector = FasterRCNN(
        BackboneWithFPN(torchvision.models.resnet50(weights=None), names, [256, 512, 1024, 2048], 256), 91
    )
    parts = torch.nn.ModuleList([resnet, bottleneck, pyramid, detector, mask_head := DeepLabHead(2048, 21)]).eval()
    parts.requires_grad_(False)

    def infer(compressed):
        with torch.inference_mode():
            features = {"0": bottleneck.decode(**compressed)}
            for index, layer in enumerate(body.values(), start=1):
                features[str(index)] = layer(features[str(index - 1)])
            deepest = features["3"]
            classes = resnet.fc(deepest.mean((2, 3))).softmax(1)
            levels = pyramid(features)
            images = torchvision.models.detection.image_list.ImageList(torch.empty(1, 3, *size), [size])
            proposals, _ = detector.rpn(images, levels)
            boxes, _ = detector.roi_heads(levels, proposals, [size])
            mask = torch.nn.functional.interpolate(
                mask_head(deepest), size, mode="bilinear", align_corners=False
            ).argmax(1)
        return classes, boxes, mask

    with torch.inference_mode():
        return infer, bottleneck.encode(torch.randn(1, 3, *size))


def contestant(who, folder, height, width):
    """Say ready; for each line with a number answer so many images and print the seconds."""
    import torch

    torch.set_num_threads(1)
    if who == "peer":
        infer, compressed = peer_model((int(height), int(width)))
        feed = itertools.repeat(compressed)
    else:
        from splitreg.assembly import ServerModel

        infer = ServerModel.load(Path(folder) / "bundle").infer
        feed = itertools.cycle([path.read_bytes() for path in sorted(Path(folder).glob("*.packet"))])
    infer(next(feed))
    print("ready", flush=True)
    for line in sys.stdin:
        begun = time.perf_counter()
        for _ in range(int(line)):
            infer(next(feed))
        print(time.perf_counter() - begun, flush=True)


class Process:
    """A contestant of its own."""

    def __init__(self, *arguments):
        self.process = subprocess.Popen(
            command("contestant", *arguments), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, **ONE},
        )  # fmt: skip
        self.process.stdout.readline()

    def answer(self, images):
        self.process.stdin.write(f"{images}\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline())

    def end(self):
        self.process.stdin.close()
        self.process.wait()


class Served:
    """A server, asked by several connections at once."""

    def __init__(self, folder, clients, batch, precision="32-true"):
        arguments = ["serve", folder / "bundle", "--port", 0, "--threads", 1, "--batch", batch, "--rate", 0,
                     "--deadline", 3600, "--precision", precision, "--log-file", folder / "serve.log"]  # fmt: skip
        self.process = subprocess.Popen(
            [sys.executable, "-m", "splitreg", *map(str, arguments)], stdout=subprocess.PIPE, text=True,
            stderr=subprocess.DEVNULL, env={**os.environ, **ONE},
        )  # fmt: skip
        self.place = urlparse(json.loads(self.process.stdout.readline())["url"])
        self.packets = [path.read_bytes() for path in sorted(folder.glob("*.packet"))]
        self.clients = clients

    def answer(self, images, heads=None):
        """Return the seconds that so many requests take."""
        numbers, path = iter(range(images)), "/v1/infer" + (f"?heads={heads}" if heads else "")
        headers = {"Content-Type": "application/vnd.splitreg.packet", "Accept": "application/vnd.splitreg.answers"}

        def send():
            connection = http.client.HTTPConnection(self.place.hostname, self.place.port)
            for number in numbers:  # next() of a range's iterator is atomic
                connection.request("POST", path, self.packets[number % len(self.packets)], headers)
                answer = connection.getresponse()
                answer.read()
                if answer.status != 200:
                    raise SystemExit(f"status {answer.status}")
            connection.close()

        threads = [threading.Thread(target=send) for _ in range(self.clients)]
        begun = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return time.perf_counter() - begun

    def end(self):
        self.process.terminate()
        self.process.wait()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, nargs=2, default=(416, 416))
    parser.add_argument("--images", type=int, default=24, help="of every contestant, in a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--small", action="store_true")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        subprocess.run(command("make", folder, *asked.size, asked.small), check=True, env={**os.environ, **ONE})
        batched, single = Served(folder, asked.clients, asked.batch), Served(folder, asked.clients, 1)
        loop = Process("loop", folder, *asked.size)
        ends = [batched, single, loop]
        contestants = {
            "all heads": batched.answer, "heads=cls": lambda images: batched.answer(images, "cls"),
            "all heads, --batch 1": single.answer, "loop": loop.answer,
        }  # fmt: skip
        if not asked.small:
            half, peer = Served(folder, asked.clients, asked.batch, "bf16-mixed"), Process("peer", folder, *asked.size)
            ends += [half, peer]
            contestants |= {"all heads, bf16": half.answer, "peer": peer.answer}
        for each in ends:
            stack.callback(each.end)
        rates = {who: [] for who in contestants}
        names = [*contestants]
        for number in range(-1, asked.rounds):  # one round warms up
            for who in names[number % len(names) :] + names[: number % len(names)]:
                seconds = contestants[who](asked.images)
                if number >= 0:
                    rates[who].append(asked.images / seconds)
    ratios = {
        "heads=cls / all heads": ("heads=cls", "all heads"), "all heads / loop": ("all heads", "loop"),
        "all heads / --batch 1": ("all heads", "all heads, --batch 1"), "all heads / peer": ("all heads", "peer"),
        "bf16 / all heads": ("all heads, bf16", "all heads"), "bf16 / peer": ("all heads, bf16", "peer"),
    }  # fmt: skip
    print(json.dumps({
        "size": asked.size, "images": asked.images, "rounds": asked.rounds, "clients": asked.clients, "batch": asked.batch,
        "model": "small" if asked.small else "resnet50", "threads": 1, "seed": 0, "cpu": cpu(),
        "images_per_s": {who: round(statistics.median(found), 3) for who, found in rates.items()},
        "ratios": {
            what: round(statistics.median(x / y for x, y in zip(rates[a], rates[b], strict=True)), 3)
            for what, (a, b) in ratios.items() if a in rates and b in rates
        },
    }, indent=1))  # fmt: skip


def cpu():
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), "?")


if __name__ == "__main__":
    if sys.argv[1:2] in (["make"], ["contestant"]):
        {"make": make, "contestant": contestant}[sys.argv[1]](*sys.argv[2:])
    else:
        main()
