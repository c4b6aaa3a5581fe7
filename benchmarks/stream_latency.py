"""From image to predictions over a thin link: streams, compact answers, and JPEG.

For the same images and heads, in turn, over one emulated link (``splitreg.link_emulator``):

- image: ordinary packets over HTTP, exact answers (``Client``);
- compact: the same with compact answers;
- stream, unrelated: a WebSocket, every frame a key frame (``StreamClient``), compact answers;
- JPEG 80 at the network's input size and JPEG 95 at the camera's own size, exact answers, to the same
  network without packets.

Then the frames of a fixed camera over the same WebSocket: the median of all frames but key frames.

    python benchmarks/stream_latency.py --root SPLITREG_DATA --rate 0.25 > result.json

Everything runs on this machine, one thread each side. Prints JSON.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import statistics
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from end_to_end import Network, PictureServer, Serving, one
from PIL import Image

from splitreg import imaging
from splitreg.edge import Client, ClientOptions, EdgeEncoder, StreamOptions, frames
from splitreg.edge.stream_client import StreamClient, StreamClientOptions
from splitreg.edge.transport import Transport
from splitreg.evaluation.report import hardware, versions
from splitreg.link_emulator import PRESETS, Link
from splitreg.wire import unpack
from splitreg.wire.protocol import ANSWERS, COMPUTE_MS, INFER


def by_client(client: Client, rate: float):
    """Return image -> measurement over HTTP."""

    def run(image):
        answer = client.send(image, rate=rate)
        return one(0, answer.times.total_ms / 1000, 0, answer.packet_bytes, answer.received_bytes)

    return run


def by_jpeg(transport: Transport, network: Network, quality: int, *, fitted: bool):
    """Return image -> measurement of a JPEG over HTTP."""

    def run(image):
        began = time.perf_counter()
        pixels, geometry = network.fitted(image)
        stream = io.BytesIO()
        Image.fromarray(pixels if fitted else image).save(stream, "JPEG", quality=quality, optimize=True)
        data = stream.getvalue()
        path = f"{INFER}?size={geometry.original[0]}x{geometry.original[1]}"
        reply = transport.request("POST", path, data, {"Content-Type": "image/jpeg", "Accept": ANSWERS}, timeout_s=300)
        unpack(reply.body)
        assert COMPUTE_MS.lower() in reply.headers
        return one(0, time.perf_counter() - began, 0, len(data), reply.received_bytes)

    return run


def summary(rows) -> dict[str, float]:
    """Return medians and means."""
    return {
        "median_ms": round(1000 * statistics.median(row["link"] for row in rows), 1),
        "sent_bytes": round(statistics.mean(row["sent"] for row in rows)),
        "received_bytes": round(statistics.mean(row["received"] for row in rows)),
    }


def stream_of(url: str, encoder: EdgeEncoder, heads: list[str], images, options: StreamClientOptions):
    """Return the answers to images that are sent one after the other, each when the one before is answered."""
    answers = []
    client = StreamClient(url, encoder, heads=tuple(heads), options=options)
    client.run((("image", image) for image in images), answers.append)
    return answers


def parse_arguments() -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", default="zoo:splitreg-camvid")
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--rate", type=float, default=0.25)
    parser.add_argument("--heads", default="seg,det")
    parser.add_argument("--resolution", default="1/2")
    parser.add_argument("--link", default="lora")
    parser.add_argument("--images", type=int, default=12)
    parser.add_argument("--frames", type=int, default=60)
    parser.add_argument("--every", type=int, default=6)
    parser.add_argument("--tolerance", type=float, default=0.0, help="of the stream of a fixed camera")
    return parser.parse_args()


def main() -> None:
    """Measure and print."""
    options = parse_arguments()
    torch.set_num_threads(1)
    heads = options.heads.split(",")
    files = sorted((options.root / "camvid" / "val").glob("*.*"))
    files = files[:: max(1, len(files) // options.images)][: options.images]
    images = [imaging.read(path) for path in files]
    clip = frames(options.root / "video" / "one-by-one-person-detection.mp4", every=options.every)
    video = [imaging.read(image) for _, (_, image) in zip(range(options.frames), clip, strict=False)]
    network, encoder = Network(options.bundle, heads), EdgeEncoder.open(options.bundle)
    pictured, serving = PictureServer(network, 0.3), Serving(options.bundle, heads)
    profile, common = PRESETS[options.link], {"min_score": 0.3, "deadline_s": 300}
    rows: dict[str, list] = {}
    try:
        with (
            Link(serving.address, profile, seed=0) as to_packets,
            Link(pictured.address, profile, seed=0) as to_pictures,
        ):
            exact = Client(to_packets.url, encoder, heads=heads, options=ClientOptions(**common))
            small = ClientOptions(**common, compact=True, resolution=options.resolution)
            ways = {
                "image": by_client(exact, options.rate),
                "compact": by_client(Client(to_packets.url, encoder, heads=heads, options=small), options.rate),
                "jpeg 80": by_jpeg(Transport(to_pictures.url), network, 80, fitted=True),
                "jpeg 95": by_jpeg(Transport(to_pictures.url), network, 95, fitted=False),
            }
            for number, image in enumerate([images[0], *images]):
                for name, way in ways.items():
                    row = way(image)
                    if number:  # the first opens the connection
                        rows.setdefault(name, []).append(row)
            keys = StreamOptions(rate=options.rate, key_interval_s=1e-9)
            single = StreamClientOptions(
                stream=keys, resolution=options.resolution, max_in_flight=1, deadline_s=300, min_score=0.3
            )
            answers = stream_of(to_packets.url, encoder, heads, [images[0], *images], single)[1:]
            rows["stream, unrelated images"] = [
                one(0, a.total_ms / 1000, 0, a.packet_bytes, a.answer_bytes) for a in answers
            ]
            following = StreamClientOptions(
                stream=StreamOptions(rate=options.rate, tolerance=options.tolerance), resolution=options.resolution,
                max_in_flight=1, deadline_s=300, min_score=0.3,
            )  # fmt: skip
            answers = stream_of(to_packets.url, encoder, heads, video, following)
            rows["stream of a fixed camera"] = [
                one(0, a.total_ms / 1000, 0, a.packet_bytes, a.answer_bytes) for a in answers if not a.key
            ]
    finally:
        serving.process.terminate()
        serving.process.wait()
    report = {name: summary(each) for name, each in rows.items()}
    best = report["stream, unrelated images"]["median_ms"]
    less = {name: round(100 * (1 - best / report[name]["median_ms"]), 1) for name in ("jpeg 80", "jpeg 95", "image")}
    print(json.dumps({
        "what": "from image to predictions, one thread each side", "bundle": options.bundle, "link": options.link,
        "rate": options.rate, "heads": heads, "resolution": options.resolution, "images": len(images),
        "frames": len(video), "tolerance": options.tolerance, **report,
        "stream_of_unrelated_images_takes_less_time_percent": less,
        "hardware": hardware(), "versions": versions(),
    }, indent=1))  # fmt: skip


if __name__ == "__main__":
    main()
