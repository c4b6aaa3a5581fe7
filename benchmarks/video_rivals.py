"""Video streams compared with video codecs in low-delay settings, at equal answers.

The rivals code the frames at the network's input size with H.264 (x264), HEVC (x265) and AV1 (SVT-AV1)
through PyAV, without B-frames or lookahead, one key frame per 10 seconds (per clip of scenes), and MJPEG.
The decoded frames go to the same network without quantisation, or to the bundles of ``--unsplit`` and ``--receiver``.
Accuracy is the mIoU of the masks and the mAP of the boxes. On a clip without labels the truth is what the
network answers on the uncompressed frames (boxes with a score of at least 0.3); ``scenes`` have labels.

    python benchmarks/video_rivals.py SPLITREG_DATA/video/car-detection.mp4 --every 2 > result.json
    python benchmarks/video_rivals.py scenes --bundle ours --unsplit unsplit --receiver receiver > result.json

Bytes are those of the packets of each codec, without a container; those of streams have their headers.
Prints curves and BD-rates as JSON.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import statistics
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import av
import numpy as np
import torch
from end_to_end import Network
from PIL import Image
from splitreg_scenes.dataset import Scenes
from torchvision import tv_tensors

from splitreg import imaging
from splitreg.bench.bjontegaard import Curve, NoOverlap, bd_rate
from splitreg.coding import FrameDecoder, FrameEncoder
from splitreg.edge import frames
from splitreg.evaluation.metrics import MeanAveragePrecision, MeanIoU
from splitreg.evaluation.report import hardware, versions
from splitreg.predictions import Detections, Segmentation
from splitreg.tasks import BoxTarget, MaskTarget

#: Codec -> options, and values of the quality from best to worst.
RIVALS = {
    "libx264": ({"preset": "medium", "tune": "zerolatency", "x264-params": "bframes=0"}, (20, 26, 32, 38, 44)),
    "libx265": (
        {"preset": "medium", "tune": "zerolatency", "x265-params": "bframes=0:rc-lookahead=0:log-level=none"},
        (20, 26, 32, 38, 44),
    ),
    "libsvtav1": ({"preset": "6", "svtav1-params": "pred-struct=1:lookahead=0"}, (24, 34, 44, 53, 62)),
}
JPEG_QUALITIES = (90, 75, 50, 30, 15)
STREAMS = ((1.0, 0.0), (0.75, 0.0), (0.5, 0.0), (0.5, 0.1), (0.25, 0.1), (0.25, 0.25), (0.0, 0.25))


def by_codec(images, name: str, quality: int, fps: float, key_every: int):
    """Return the decoded images and the bytes of each frame's packet."""
    height, width = images[0].shape[:2]
    encoder = av.CodecContext.create(name, "w")
    encoder.width, encoder.height, encoder.pix_fmt = width, height, "yuv420p"
    encoder.framerate, encoder.gop_size = round(fps), key_every
    encoder.options = {**RIVALS[name][0], "crf": str(quality)}
    decoder = av.CodecContext.create({"libx264": "h264", "libx265": "hevc", "libsvtav1": "libdav1d"}[name], "r")
    sizes, decoded = [], []
    for image in [*images, None]:
        frame = None if image is None else av.VideoFrame.from_ndarray(image, format="rgb24")
        if frame is not None:
            frame = frame.reformat(format="yuv420p")
            frame.pts = len(sizes)
        for packet in encoder.encode(frame):
            sizes.append(packet.size)
            decoded += decoder.decode(packet)
    decoded += decoder.decode(None)
    return [frame.to_ndarray(format="rgb24") for frame in decoded], sizes


def by_jpeg(images, quality: int):
    """Return the decoded images and the bytes of each."""
    sizes, decoded = [], []
    for image in images:
        data = io.BytesIO()
        Image.fromarray(image).save(data, "JPEG", quality=quality, optimize=True)
        sizes.append(len(data.getvalue()))
        decoded.append(np.asarray(Image.open(data).convert("RGB")))
    return decoded, sizes


def by_stream(network: Network, latents, rate: float, tolerance: float, key_every: int):
    """Return the decoded latents and the bytes of each packet."""
    coding = network.model.edge.coding
    sender = FrameEncoder(coding, latents[0].shape, tolerance=tolerance)
    receiver = FrameDecoder(coding, latents[0].shape)
    packets = [
        sender.encode(latent, rate if coding.has_rates else None, key=number % key_every == 0)
        for number, latent in enumerate(latents)
    ]
    return [receiver.decode(packet) for packet in packets], [len(packet) for packet in packets]


def accuracy(answers, truth) -> dict[str, float]:
    """Return head -> mIoU or mAP; ``answers`` and ``truth`` have a dictionary per frame."""
    scores = {}
    for head, first in answers[0].items():
        if isinstance(first, Segmentation):
            metric, name = MeanIoU(len(first.names)), "mIoU"
        else:
            metric, name = MeanAveragePrecision(), "mAP"
        metric.update([answer[head] for answer in answers], [targets[head] for targets in truth])
        scores[head] = float(metric.compute()[name])
    return scores


def target_of(prediction: Segmentation | Detections) -> MaskTarget | BoxTarget:
    """Return a prediction as ground truth."""
    if isinstance(prediction, Segmentation):
        return MaskTarget(mask=tv_tensors.Mask(prediction.mask.astype(np.int64)))
    return boxes_of(prediction.above(0.3))


def boxes_of(prediction: Detections) -> BoxTarget:
    """Return predicted boxes as ground truth."""
    count = len(prediction.boxes)
    boxes = tv_tensors.BoundingBoxes(prediction.boxes.reshape(-1, 4), format="XYXY", canvas_size=(1, 1))
    labels = torch.from_numpy(prediction.labels)
    return BoxTarget(boxes=boxes, labels=labels, crowd=torch.zeros(count, dtype=torch.bool))


def read_frames(options) -> tuple[list, float, int, list | None]:
    """Return images, frames per second, frames from key to key, and the labels if there are any."""
    if options.source == "scenes":
        scenes = Scenes(None, "val", mode="video", count=options.limit)
        samples = [scenes[index] for index in range(len(scenes))]
        images = [sample.image.permute(1, 2, 0).numpy() for sample in samples]
        heads = {"seg": "segmentation", "det": "detection"}
        truth = [{head: sample.targets[target] for head, target in heads.items()} for sample in samples]
        return images, scenes.clips[0].rate, len(scenes.clips[0].frames), truth
    source = frames(options.source, every=options.every)
    images = [imaging.read(image) for _, (_, image) in zip(range(options.limit), source, strict=False)]
    fps = options.fps / options.every
    return images, fps, round(10 * fps), None


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="video, folder of images, or scenes")
    parser.add_argument("--bundle", default="zoo:splitreg-camvid")
    parser.add_argument("--unsplit", help="bundle of the network of the rivals; the bundle's own by default")
    parser.add_argument("--receiver", help="bundle of a network that was trained on compressed images")
    parser.add_argument("--heads", default="seg,det")
    parser.add_argument("--fps", type=float, default=10.0, help="of the source")
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--limit", type=int, default=150)
    options = parser.parse_args()
    torch.set_num_threads(1)
    heads = options.heads.split(",")
    network = Network(options.bundle, heads)
    receivers = {"": Network(options.unsplit, heads) if options.unsplit else network}
    if options.receiver:
        receivers[" to the receiver"] = Network(options.receiver, heads)
    originals, fps, key_every, truth = read_frames(options)
    images, geometries = zip(*map(network.fitted, originals), strict=True)

    def latents_of(decoded):
        return [network.model.edge.latent_of(pixels)[0].copy() for pixels in decoded]

    latents = latents_of(images)

    def answers(receiver: Network, decoded):
        if receiver is network:  # predict() quantises at one rate, and would favour packets of that rate
            return from_latents(network, latents_of(decoded), geometries)
        return [receiver.predict(image, geometry) for image, geometry in zip(decoded, geometries, strict=True)]

    if truth is None:
        answered = answers(receivers[""], images)
        truth = [{head: target_of(prediction) for head, prediction in answer.items()} for answer in answered]
    curves: dict[str, list[dict]] = {}

    def add(name: str, setting, answered, sizes) -> None:
        point = {"setting": setting, "bytes": round(statistics.mean(sizes), 1), **accuracy(answered, truth)}
        curves.setdefault(name, []).append(point)

    def add_rival(name: str, setting, decoded, sizes) -> None:
        for suffix, receiver in receivers.items():
            add(name + suffix, setting, answers(receiver, decoded), sizes)

    for rate, tolerance in STREAMS:
        decoded, sizes = by_stream(network, latents, rate, tolerance, key_every)
        add("stream", [rate, tolerance], from_latents(network, decoded, geometries), sizes)
    for name, (_, qualities) in RIVALS.items():
        for quality in qualities:
            add_rival(name, quality, *by_codec(images, name, quality, fps, key_every))
    for quality in JPEG_QUALITIES:
        add_rival("mjpeg", quality, *by_jpeg(images, quality))
    print(json.dumps({
        "what": "bytes per frame and accuracy", "source": Path(options.source).name, "bundle": options.bundle,
        "truth": "labels" if options.source == "scenes" else "answers to the uncompressed frames",
        "frames": len(images), "fps": fps, "uncompressed": {
            suffix or "unsplit": accuracy(answers(receiver, images), truth) for suffix, receiver in receivers.items()
        }, "curves": curves, "bd_rate_of_the_stream": {head: bd_rates(curves, head) for head in heads},
        "hardware": hardware(), "versions": versions(),
    }, indent=1))  # fmt: skip


def from_latents(network: Network, latents, geometries):
    """Return the answers to decoded latents."""
    server = network.model.server
    results = []
    for latent, geometry in zip(latents, geometries, strict=True):
        features = server.features(torch.from_numpy(latent)[None], geometry.coded)
        with torch.inference_mode():
            outputs = {n: server.branches[n](features, geometry.coded) for n in network.heads}
        results.append({n: server.branches[n].head.predict(out)[0].restore(geometry) for n, out in outputs.items()})
    return results


def bd_rates(curves, head: str) -> dict[str, float | str]:
    """Return rival -> BD-rate of the stream against it."""
    lines = {
        name: Curve.through([point["bytes"] for point in points], [point[head] for point in points])
        for name, points in curves.items()
    }
    found: dict[str, float | str] = {}
    for name in [name for name in lines if name != "stream"]:
        try:
            found[name] = round(bd_rate(lines["stream"], lines[name]), 4)
        except NoOverlap as reason:
            found[name] = str(reason)
    return found


if __name__ == "__main__":
    main()
