"""Bytes of video streams compared with single packets, and the time of temporal coding.

    python benchmarks/stream_bytes.py --root SPLITREG_DATA

Clips of fixed cameras under ROOT/video, one key frame per 10 seconds, headers included; every decoded
latent is compared with that of the single packet. Unrelated frames are the images of ROOT/kodak, those
of one size as one "video". Times are CPU times of one thread, encoder and decoder, rounds interleaved
with single packets. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import numpy as np

from splitreg.coding import FrameDecoder, FrameEncoder
from splitreg.edge import EdgeEncoder, frames
from splitreg.evaluation.report import hardware, versions

#: Name -> (file, frames per second, one frame out of).
CLIPS = {
    "people, every 6th frame": ("one-by-one-person-detection.mp4", 10, 6),
    "people, every frame": ("one-by-one-person-detection.mp4", 10, 1),
    "cars, every 6th frame": ("car-detection.mp4", 12.5, 6),
    "milk, every frame": ("milk.mkv", 30, 1),
    "learn, every frame": ("learn.mkv", 30, 1),
}
KEY_INTERVAL_S = 10


def latents_of(encoder: EdgeEncoder, source: Path, every: int, limit: int) -> list[np.ndarray]:
    """Return the latents of a clip."""
    latents = []
    for number, (_, image) in enumerate(frames(source, every=every)):
        if number == limit:
            break
        latents.append(encoder.latent_of(image)[0].copy())
    return latents


def single_bytes(encoder: EdgeEncoder, latents: list[np.ndarray], rate: float) -> list[int]:
    """Return the sizes of single packets, with their header of 20 bytes."""
    return [20 + sum(map(len, encoder.coding.encode(latent, rate))) for latent in latents]


def stream_bytes(encoder: EdgeEncoder, latents: list[np.ndarray], rate: float, interval: int, tolerance: float):
    """Return the sizes of a stream's packets, and whether all latents are those of single packets."""
    sender = FrameEncoder(encoder.coding, latents[0].shape, tolerance=tolerance)
    receiver = FrameDecoder(encoder.coding, latents[0].shape)
    sizes, equal = [], True
    for number, latent in enumerate(latents):
        data = sender.encode(latent, rate, key=bool(interval) and number % interval == 0)
        sizes.append(len(data))
        decoded = receiver.decode(data)
        if not tolerance:
            alone = encoder.coding.decode(encoder.coding.encode(latent, rate), latent.shape)
            equal = equal and np.array_equal(decoded, alone)
    return sizes, equal


def times(encoder: EdgeEncoder, latents: list[np.ndarray], rate: float, rounds: int) -> dict[str, float]:
    """Return the ratios of CPU times, stream over single packets."""
    ratios: dict[str, list[float]] = {"encode": [], "decode": [], "both": []}
    shape = latents[0].shape
    for _ in range(rounds):
        start = time.process_time()
        alone = [encoder.coding.encode(latent, rate) for latent in latents]
        encoded = time.process_time()
        for streams in alone:
            encoder.coding.decode(streams, shape)
        decoded = time.process_time()
        sender, receiver = FrameEncoder(encoder.coding, shape), FrameDecoder(encoder.coding, shape)
        packets = [sender.encode(latent, rate) for latent in latents]
        sent = time.process_time()
        for packet in packets:
            receiver.decode(packet)
        received = time.process_time()
        ratios["encode"].append((sent - decoded) / (encoded - start))
        ratios["decode"].append((received - sent) / (decoded - encoded))
        ratios["both"].append((received - decoded) / (decoded - start))
    return {name: round(statistics.median(values), 3) for name, values in ratios.items()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", default="zoo:splitreg-camvid")
    parser.add_argument("--rate", type=float, default=0.5)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--limit", type=int, default=2000, help="frames per clip")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    encoder = EdgeEncoder.open(options.bundle)
    clips, kept = {}, []
    for name, (file, fps, every) in CLIPS.items():
        latents = latents_of(encoder, options.root / "video" / file, every, options.limit)
        interval = round(KEY_INTERVAL_S * fps / every)
        alone = single_bytes(encoder, latents, options.rate)
        sizes, equal = stream_bytes(encoder, latents, options.rate, interval, 0.0)
        clips[name] = {
            "frames": len(latents), "single_bytes": round(statistics.mean(alone), 1),
            "stream_bytes": round(statistics.mean(sizes), 1), "ratio": round(sum(sizes) / sum(alone), 4),
            "latents_equal": equal,
            "stream_bytes_at_tolerance": {
                str(value): round(statistics.mean(stream_bytes(encoder, latents, options.rate, interval, value)[0]), 1)
                for value in (0.1, 0.25)
            },
        }  # fmt: skip
        kept = kept or latents[:100]
    by_shape: dict[tuple[int, ...], list[np.ndarray]] = {}
    for path in sorted((options.root / "kodak").glob("*.png")):
        latent = encoder.latent_of(path)[0].copy()
        by_shape.setdefault(latent.shape, []).append(latent)
    alone = [sum(single_bytes(encoder, group, options.rate)) for group in by_shape.values()]
    streams = [sum(stream_bytes(encoder, group, options.rate, 0, 0.0)[0]) for group in by_shape.values()]
    print(json.dumps({
        "what": "bytes per frame with headers, one key frame per 10 s", "bundle": options.bundle, "rate": options.rate,
        "clips": clips, "unrelated_frames": {"images": "kodak", "ratio": round(sum(streams) / sum(alone), 4)},
        "cpu_time_of_stream_over_single": times(encoder, kept, options.rate, options.rounds),
        "hardware": hardware(), "versions": versions(),
    }, indent=1))  # fmt: skip


if __name__ == "__main__":
    main()
