"""From a picture to its predictions over an emulated link: packets, pictures of an image codec, or nothing sent at all.

Four ways for the same pictures and heads, in turn, over one emulated link after the other (``splitreg.testing.Link``):

- packets: ``splitreg.edge.Client`` (onnxruntime, one thread) to ``splitreg serve`` (one worker, one thread);
- JPEG and WebP of the network's input size, at a quality of about equal accuracy (``splitreg bench`` finds it), to the
  network of ``--unsplit`` behind a plain HTTP server in this process;
- local: that network on this machine, one thread, no link.

Connections are kept, answers come back exact and compressed to all of them. The times of a device that is slower than
this machine are longer where it computes: ``--device-slower 10`` multiplies what the device does (encoding, JPEG, the local
network) in the totals.

    python benchmarks/end_to_end.py --rate 0.25 --root camvid/val --unsplit camvid-unsplit --chart end_to_end.svg > result.json

The qualities are for ``zoo:splitreg-camvid``: masks of mIoU .543, boxes of mAP .178 in packets of rate 0.25, .537 and .161 by
WebP 80, .537 and .166 by JPEG 80. Objects that score less than ``--min-score`` are sent back to none of them.
"""

import argparse
import dataclasses
import gzip
import io
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from PIL import Image

import splitreg
from splitreg import imaging
from splitreg.edge import Client, ClientOptions, EdgeEncoder
from splitreg.edge.transport import Transport
from splitreg.link_emulator import PRESETS, Link
from splitreg.wire import pack, unpack
from splitreg.wire.protocol import ANSWERS, COMPUTE_MS, INFER

#: Of the paper's abstract: with LoRa at 37.5 kbps, the best of its cases.
CLAIM = "Ladon (LoRa, Jetson boards): end-to-end latency down by up to 95.4 %"
PARTS = {"device": "#0072b2", "link": "#e69f00", "server": "#009e73"}


class Network:
    """The unsplit network, or the split one without packets."""

    def __init__(self, bundle, heads):
        self.model = splitreg.load(bundle).eval()
        self.heads = heads
        self.preprocess = self.model.plan.preprocess

    def predict(self, pixels, geometry):
        """Return head -> prediction of (H, W, 3) uint8 of the input's size."""
        batch = torch.from_numpy(imaging.normalise(pixels, self.preprocess)[None])
        with torch.inference_mode():
            if self.model.prefix is None:
                outputs = self.model(batch, dict.fromkeys(self.heads)).outputs
            else:
                features = self.model.body(self.model.prefix(batch))
                outputs = self.model.run_heads(features, self.preprocess.size, dict.fromkeys(self.heads))
        return {n: self.model.head(n).predict(out)[0].restore(geometry) for n, out in outputs.items()}

    def fitted(self, picture):
        """Return a picture at the input's size, and its geometry."""
        original = imaging.read(picture)
        geometry = imaging.Geometry(original=original.shape[:2], coded=self.preprocess.size, mode=self.preprocess.mode)
        return imaging.letterbox(original, geometry), geometry


class PictureServer:
    """Answers pictures of an image codec by a network, as the service answers packets."""

    def __init__(self, network, min_score):
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1

            def log_message(self, *_):
                pass

            def do_POST(self):
                data = self.rfile.read(int(self.headers["Content-Length"]))
                began = time.perf_counter()
                height, width = map(int, parse_qs(urlsplit(self.path).query)["size"][0].split("x"))
                pixels = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
                geometry = imaging.Geometry(
                    original=(height, width), coded=pixels.shape[:2], mode=network.preprocess.mode
                )
                found = network.predict(pixels, geometry)
                blob = pack([{head: one.above(min_score) for head, one in found.items()}])
                took = time.perf_counter() - began
                blob = gzip.compress(blob, 7)
                self.send_response(200)
                for name, value in (
                    ("Content-Type", ANSWERS),
                    ("Content-Encoding", "gzip"),
                    (COMPUTE_MS, f"{1000 * took:.2f}"),
                ):
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(blob)))
                self.end_headers()
                self.wfile.write(blob)

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.http.handle_error = lambda *_: None  # a link that is taken away resets its connections
        self.address = self.http.server_address[:2]
        threading.Thread(target=self.http.serve_forever, daemon=True).start()


class Serving:
    """``splitreg serve`` in a process."""

    def __init__(self, bundle, heads):
        command = [
            sys.executable,
            "-m",
            "splitreg",
            "serve",
            bundle,
            "--port",
            "0",
            "--threads",
            "1",
            "--heads",
            ",".join(heads),
        ]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        url = urlsplit(json.loads(self.process.stdout.readline())["url"])
        self.address = (url.hostname, url.port)


def one(device, link, server, sent, received):
    """A measurement: seconds and bytes."""
    return {"device": device, "link": link, "server": server, "sent": sent, "received": received}


def by_packet(client, rate):
    """Return picture -> measurement."""

    def run(picture):
        answer = client.send(picture, rate=rate)
        t = answer.times
        device = t.total_ms - t.link_ms - t.queue_ms - t.compute_ms
        return one(
            device / 1000,
            t.link_ms / 1000,
            (t.queue_ms + t.compute_ms) / 1000,
            answer.packet_bytes,
            answer.received_bytes,
        )

    return run


def by_picture(transport, network, kind, quality):
    """Return picture -> measurement."""

    def run(picture):
        began = time.perf_counter()
        pixels, geometry = network.fitted(picture)
        stream = io.BytesIO()
        Image.fromarray(pixels).save(
            stream, kind, quality=quality, **({"optimize": True} if kind == "JPEG" else {"method": 4})
        )
        data = stream.getvalue()
        path = f"{INFER}?size={geometry.original[0]}x{geometry.original[1]}"
        reply = transport.request(
            "POST", path, data, {"Content-Type": f"image/{kind.lower()}", "Accept": ANSWERS}, timeout_s=300
        )
        unpack(reply.body)
        total = time.perf_counter() - began
        server = float(reply.headers[COMPUTE_MS.lower()]) / 1000
        return one(total - reply.seconds, reply.seconds - server, server, len(data), reply.received_bytes)

    return run


def locally(network):
    """Return picture -> measurement."""

    def run(picture):
        began = time.perf_counter()
        network.predict(*network.fitted(picture))
        return one(time.perf_counter() - began, 0.0, 0.0, 0, 0)

    return run


def measure(ways, pictures, rounds):
    """Return way -> measurements, the ways in turn."""
    found = {name: [] for name in ways}
    for number in range(-1, rounds * len(pictures)):  # one to warm up and to open the connections
        for name, way in ways.items():
            result = way(pictures[number % len(pictures)])
            if number >= 0:
                found[name].append(result)
    return found


def summary(found, slower):
    """Return medians, and how much less time packets take than each other way."""

    def total(row):
        return slower * row["device"] + row["link"] + row["server"]

    def median(rows, part):
        return round(1000 * statistics.median((slower if part == "device" else 1) * row[part] for row in rows), 1)

    rows = {
        name: {
            "total_ms": round(1000 * statistics.median(map(total, all_)), 1),
            **{f"{part}_ms": median(all_, part) for part in PARTS},
            "sent_bytes": round(statistics.mean(row["sent"] for row in all_)),
            "received_bytes": round(statistics.mean(row["received"] for row in all_)),
        }
        for name, all_ in found.items()
    }
    less = {
        name: round(100 * (1 - statistics.median(total(a) / total(b) for a, b in zip(found["packets"], all_, strict=True))), 1)
        for name, all_ in found.items()
        if name != "packets"
    }  # fmt: skip
    return {"median": rows, "packets_take_less_time_percent": less}


def chart(links, title):
    """Draw stacked bars, a panel a link, each on its own scale."""
    left, width, step = 120, 430, 26
    parts, y = [f'<text x="16" y="28" font-size="16" font-weight="bold">{title}</text>'], 54
    for i, (part, colour) in enumerate(PARTS.items()):
        parts.append(f'<rect x="{left + 90 * i}" y="{y - 11}" width="12" height="12" fill="{colour}"/>')
        parts.append(f'<text x="{left + 90 * i + 18}" y="{y}">{part}</text>')
    for link, result in links.items():
        rows = result["median"]
        most, y = max(sum(row[f"{part}_ms"] for part in PARTS) for row in rows.values()) or 1, y + 36
        parts.append(f'<text x="16" y="{y}" font-weight="bold">{link}</text>')
        for name, row in rows.items():
            y, x = y + step, left
            parts.append(f'<text x="{left - 10}" y="{y + 4}" text-anchor="end">{name}</text>')
            for part, colour in PARTS.items():
                size = row[f"{part}_ms"] / most * width
                parts.append(f'<rect x="{x:.1f}" y="{y - 9}" width="{size:.1f}" height="18" fill="{colour}"/>')
                x += size
            told = (
                f"{row['total_ms']:,.0f} ms, {row['sent_bytes']:,} bytes"
                if row["sent_bytes"]
                else f"{row['total_ms']:,.0f} ms"
            )
            parts.append(f'<text x="{x + 8:.1f}" y="{y + 4}">{told}</text>')
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="760" height="{y + 24}" viewBox="0 0 760 {y + 24}" '
    body = 'font-family="Helvetica, Arial, sans-serif" font-size="13" fill="#222">'
    return "\n".join([head + body, f'<rect width="760" height="{y + 24}" fill="#fff"/>', *parts, "</svg>", ""])


def parse_arguments():
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", default="zoo:splitreg-camvid")
    parser.add_argument("--rate", type=float, help="of packets, where the bundle has several (default: the middle)")
    parser.add_argument("--min-score", type=float, default=0.3)
    parser.add_argument(
        "--unsplit", default=None, help="bundle for pictures and local runs (default: --bundle's own network)"
    )
    parser.add_argument("--heads", default=None, help="names with commas (default: all)")
    parser.add_argument("--links", default="lora,4g,wifi", help=f"of {', '.join(PRESETS)}")
    parser.add_argument("--jpeg", type=int, default=80, help="quality; 0: none")
    parser.add_argument("--webp", type=int, default=80, help="quality; 0: none")
    parser.add_argument(
        "--root", type=Path, default=None, help="folder of pictures (default: SPLITREG_DATA/camvid/val)"
    )
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--device-slower", type=float, default=1.0, metavar="TIMES")
    parser.add_argument("--chart", type=Path, default=None, metavar="SVG")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main():
    """Measure and print."""
    options = parse_arguments()
    torch.set_num_threads(1)
    root = options.root or Path(os.environ["SPLITREG_DATA"]) / "camvid" / "val"
    files = sorted(path for path in root.iterdir() if path.suffix in (".png", ".webp", ".jpg"))
    pictures = [imaging.read(path) for path in files[:: max(1, len(files) // options.images)][: options.images]]
    network = Network(options.unsplit or options.bundle, None)
    network.heads = options.heads.split(",") if options.heads else list(network.model.heads)
    encoder = EdgeEncoder.open(options.bundle)
    pictured, serving = PictureServer(network, options.min_score), Serving(options.bundle, network.heads)
    links = {}
    try:
        for name in options.links.split(","):
            with Link(serving.address, PRESETS[name], seed=options.seed) as to_packets, \
                    Link(pictured.address, PRESETS[name], seed=options.seed) as to_pictures, \
                    Client(to_packets.url, encoder, heads=network.heads,
                           options=ClientOptions(min_score=options.min_score, deadline_s=300)) as client:  # fmt: skip
                ways = {"packets": by_packet(client, options.rate)}
                for kind, quality in (("WEBP", options.webp), ("JPEG", options.jpeg)):
                    if quality:
                        ways[f"{kind.lower()} {quality}"] = by_picture(
                            Transport(to_pictures.url), network, kind, quality
                        )
                ways["local"] = locally(network)
                links[name] = summary(measure(ways, pictures, options.rounds), options.device_slower)
    finally:
        serving.process.terminate()
        serving.process.wait()
    if options.chart is not None:
        options.chart.write_text(chart(links, "From a picture to its predictions (medians)"), encoding="utf-8")
    from splitreg.evaluation.report import hardware, versions

    print(json.dumps({
        "what": "from pixels to predictions over an emulated link, one thread each side", "bundle": options.bundle,
        "unsplit": options.unsplit or f"{options.bundle} without packets", "heads": network.heads, "links": links,
        "profiles": {name: dataclasses.asdict(PRESETS[name]) for name in links},
        "claim": CLAIM,
        "rate": options.rate, "min_score": options.min_score, "pictures": len(pictures), "source": root.name,
        "rounds": options.rounds,
        "device_slower": options.device_slower, "threads": 1, "seed": options.seed, "hardware": hardware(),
        "versions": versions(),
    }, indent=1))  # fmt: skip


if __name__ == "__main__":
    main()
