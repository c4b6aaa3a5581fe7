"""Quality and speed of ``splitreg.tracking``: MOTA, IDF1 and identity switches by ``motmetrics``, as JSON.

    python benchmarks/tracking.py scenes --clips 20 > scenes.json
    python benchmarks/tracking.py mot MOT17 --split train > mot.json
    python benchmarks/tracking.py scenes --bundle my-bundle --head det > model.json
    python benchmarks/tracking.py speed > speed.json

``scenes``: clips of the dataset ``scenes`` (``mode=video``, split ``test``). Detections are the exact boxes, those of a
simulated detector (``--levels``: share of missed objects, standard deviation of the corners relative to the box, false boxes
per frame), or those of a head of a bundle. ``mot``: the public detections of a MOTChallenge folder (``det/det.txt``), with
scores scaled to 0 to 1 per sequence, or the exact boxes where there are none. ``--export FOLDER`` writes the clips of scenes in
MOT's layout. ``--every N`` takes one frame out of N, as a thin link would.

Peers on the same detections: ByteTrack of the package ``trackers``, if it is installed (it needs NumPy 2: ``pip install
--target DIR trackers`` and ``PYTHONPATH=DIR``), and a greedy association by the overlap with the last box.
Times are the median of ``--rounds`` runs, one thread.
"""

import argparse
import dataclasses
import json
import os
import statistics
import sys
import time
import warnings
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from splitreg.boxes import box_iou
from splitreg.predictions import Detections
from splitreg.tracking import Tracker, TrackerOptions, assign

#: Missed share, deviation of corners, false boxes per frame.
LEVELS = {"exact": (0.0, 0.0, 0.0), "light": (0.05, 0.03, 0.1), "medium": (0.15, 0.06, 0.5), "heavy": (0.3, 0.1, 1.0)}


@dataclasses.dataclass
class Frame:
    """Ground truth and detections of one frame."""

    boxes: np.ndarray
    identities: np.ndarray
    crowd: np.ndarray
    detections: Detections


def truth_of(target, names):
    boxes = target.boxes.numpy().astype(np.float64).reshape(-1, 4)
    real = ~target.crowd.numpy()
    exact = Detections(
        boxes=boxes[real].astype(np.float32), scores=np.full(real.sum(), 0.9, np.float32),
        labels=target.labels.numpy()[real], names=names,
    )  # fmt: skip
    return Frame(boxes=boxes, identities=target.identities.numpy(), crowd=target.crowd.numpy(), detections=exact)


def simulated(frame, level, size, rng):
    """Return the detections of a detector that misses, shifts and invents boxes."""
    missed, deviation, false = LEVELS[level]
    exact = frame.detections
    seen = rng.random(len(exact.boxes)) >= missed
    boxes = exact.boxes[seen].astype(np.float64)
    sides = np.tile(boxes[:, 2:] - boxes[:, :2], 2)
    boxes += rng.normal(0, deviation, boxes.shape) * sides
    scores = np.clip(rng.normal(0.75, 0.15, len(boxes)) if missed else np.full(len(boxes), 0.9), 0.05, 0.99)
    count = rng.poisson(false)
    corner = rng.uniform(0, 0.8, (count, 2)) * [size[1], size[0]]
    invented = np.hstack([corner, corner + rng.uniform(0.05, 0.3, (count, 2)) * [size[1], size[0]]])
    labels = np.concatenate([exact.labels[seen], rng.integers(0, len(exact.names), count)])
    boxes = np.concatenate([boxes, invented])
    scores = np.concatenate([scores, np.clip(rng.normal(0.4, 0.15, count), 0.05, 0.99)])
    order = np.argsort(-scores, kind="stable")
    return dataclasses.replace(
        exact, boxes=boxes[order].astype(np.float32), scores=scores[order].astype(np.float32), labels=labels[order]
    )


class Greedy:
    """Each detection, by score, continues the object whose last box overlaps it most, if by at least 0.3."""

    def __init__(self):
        self.last, self.next = {}, 1

    def update(self, detections, frames=1):
        keep = detections.scores >= 0.5
        boxes, identities, free = detections.boxes[keep].astype(np.float64), [], dict(self.last)
        for box in boxes:
            overlaps = {n: box_iou(box[None], other[None])[0, 0] for n, other in free.items()}
            best = max(overlaps, key=overlaps.get, default=None)
            if best is None or overlaps[best] < 0.3:
                best, self.next = self.next, self.next + 1
            free.pop(best, None)
            identities.append(best)
        self.last = dict(zip(identities, boxes, strict=True))
        return dataclasses.replace(detections.above(0.5), identities=np.array(identities, np.int64))


class Trackers:
    """ByteTrack of the package ``trackers``, with the same thresholds; it reports unconfirmed objects as -1."""

    def __init__(self, options):
        import supervision
        import trackers

        self.module = supervision
        self.tracker = trackers.ByteTrackTracker(
            lost_track_buffer=options.max_lost, track_activation_threshold=options.new_score,
            high_conf_det_threshold=options.high_score,
        )  # fmt: skip

    def update(self, detections, frames=1):
        found = self.tracker.update(
            self.module.Detections(
                xyxy=detections.boxes.reshape(-1, 4), confidence=detections.scores, class_id=detections.labels
            )
        )
        ids = found.tracker_id if found.tracker_id is not None else np.zeros(0, int)
        keep = ids >= 0
        return dataclasses.replace(
            detections, boxes=found.xyxy[keep].astype(np.float32), scores=found.confidence[keep],
            labels=found.class_id[keep], identities=ids[keep],
        )  # fmt: skip


def scored(clips, make, every):
    """Track clips; return the accumulators of motmetrics and the milliseconds per frame."""
    import motmetrics

    accumulators, seconds, frames = [], 0.0, 0
    for clip in clips:
        tracker, accumulator = make(), motmetrics.MOTAccumulator(auto_id=True)
        for frame in clip[::every]:
            begun = time.perf_counter()
            result = tracker.update(frame.detections, frames=every)
            seconds += time.perf_counter() - begun
            frames += 1
            found = result.boxes.astype(np.float64).reshape(-1, 4)
            overlap = box_iou(frame.boxes, found)
            rows, columns = assign(1 - overlap, 0.5)
            ignored = columns[frame.crowd[rows]]  # found what does not count
            found, numbers = np.delete(found, ignored, 0), np.delete(result.identities, ignored)
            distance = 1 - box_iou(frame.boxes[~frame.crowd], found)
            distance[distance > 0.5] = np.nan
            accumulator.update(frame.identities[~frame.crowd], numbers, distance)
        accumulators.append(accumulator)
    return accumulators, 1000 * seconds / frames


METRICS = (
    "num_frames", "num_objects", "num_unique_objects", "mota", "idf1", "idp", "idr", "num_switches", "num_fragmentations",
    "num_false_positives", "num_misses", "mostly_tracked", "mostly_lost",
)  # fmt: skip


def measure(clips, options, every, rounds):
    import motmetrics

    trackers = {
        "splitreg": lambda: Tracker(options),
        "trackers": lambda: Trackers(options),
        "greedy": Greedy,
    }
    result = {}
    for name, make in trackers.items():
        try:
            runs = [scored(clips, make, every) for _ in range(rounds)]
        except ModuleNotFoundError:
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            host = motmetrics.metrics.create()
            table = host.compute_many(
                runs[0][0], metrics=list(METRICS), names=[str(i) for i in range(len(clips))], generate_overall=True
            )
        overall = table.loc["OVERALL"]
        result[name] = {metric: round(float(overall[metric]), 4) for metric in METRICS}
        result[name]["ms_per_frame"] = round(statistics.median(ms for _, ms in runs), 3)
    return result


def scenes(arguments):
    """Return level -> clips."""
    from splitreg_scenes.dataset import Scenes

    dataset = Scenes(None, "test", mode="video", size=arguments.size, count=64 * arguments.clips)
    if arguments.export:
        export(dataset, Path(arguments.export))
    names = dataset.targets["detection"].labels
    clips = [[truth_of(dataset[i].targets["detection"], names) for i in clip.frames] for clip in dataset.clips]
    if arguments.bundle:
        return {arguments.bundle: of_bundle(arguments, dataset, clips)}
    levels, size = {}, (arguments.size, arguments.size)
    for level in arguments.levels:
        rng = np.random.default_rng(0)
        levels[level] = [
            [dataclasses.replace(f, detections=simulated(f, level, size, rng)) for f in clip] for clip in clips
        ]
    return levels


def of_bundle(arguments, dataset, clips):
    """Replace the detections by those of a head, through packets."""
    from splitreg.assembly import EdgeModel, ServerModel

    edge, server = EdgeModel.load(arguments.bundle), ServerModel.load(arguments.bundle)
    detected = []
    for clip, frames in zip(dataset.clips, clips, strict=True):
        row = []
        for index, frame in zip(clip.frames, frames, strict=True):
            packet = edge.encode(dataset[index].array())[0]
            row.append(dataclasses.replace(frame, detections=server.predict([packet])[0][arguments.head]))
        detected.append(row)
    return detected


def export(dataset, folder):
    """Write clips in MOT's layout, with one class."""
    from PIL import Image

    for clip in dataset.clips:
        place = folder / "train" / clip.name
        for part in ("img1", "gt"):
            (place / part).mkdir(parents=True, exist_ok=True)
        lines = []
        for number, index in enumerate(clip.frames, 1):
            sample = dataset[index]
            Image.fromarray(sample.array()).save(place / f"img1/{number:06d}.png")
            target = sample.targets["detection"]
            for box, identity, crowd in zip(
                target.boxes.tolist(), target.identities.tolist(), target.crowd.tolist(), strict=True
            ):
                x0, y0, x1, y1 = box
                lines.append(f"{number},{identity},{x0 + 1:g},{y0 + 1:g},{x1 - x0:g},{y1 - y0:g},{int(not crowd)},1,1")
        (place / "gt/gt.txt").write_text("\n".join(lines) + "\n")
        (place / "seqinfo.ini").write_text(f"[Sequence]\nname={clip.name}\nimDir=img1\nframeRate={clip.rate:g}\n")


def mot(arguments):
    from splitreg_datasets.mot import Mot

    dataset = Mot(arguments.root, arguments.split)
    names = dataset.targets["detection"].labels
    clips = []
    for clip in dataset.clips:
        frames, public = [], [dataset.detections(i) for i in clip.frames]
        for index, detections in zip(clip.frames, public, strict=True):
            target = dataset[index].targets.get("detection")
            if target is None:
                sys.exit(f"{clip.name} has no ground truth; choose another --split")
            frame = truth_of(target, names)
            frames.append(frame if detections is None else dataclasses.replace(frame, detections=detections))
        scores = np.concatenate([frame.detections.scores for frame in frames])
        if scores.size and (scores.min() < 0 or scores.max() > 1):  # DPM's are not in 0 to 1
            low, high = np.quantile(scores, [0.01, 0.99])
            for i, frame in enumerate(frames):
                scaled = np.clip((frame.detections.scores - low) / max(high - low, 1e-6), 0, 1)
                frames[i] = dataclasses.replace(
                    frame, detections=dataclasses.replace(frame.detections, scores=scaled.astype(np.float32))
                )
        clips.append(frames)
    return {Path(arguments.root).name: clips}


def speed(arguments):
    """Return objects -> milliseconds per update, with one thread: all of them move and are seen in every frame."""
    results = {}
    for count in arguments.objects:
        rng, rounds = np.random.default_rng(0), []
        corners = rng.uniform(0, 2000, (count, 2))
        pace = rng.normal(0, 2, (count, 2))
        sizes = rng.uniform(40, 160, (count, 2))
        for _ in range(arguments.rounds):
            tracker = Tracker()
            begun = time.perf_counter()
            for step in range(100):
                corner = corners + step * pace
                tracker.update(
                    Detections(
                        boxes=np.hstack([corner, corner + sizes]).astype(np.float32), names=("x",),
                        scores=np.full(count, 0.9, np.float32), labels=np.zeros(count, np.int64),
                    )
                )  # fmt: skip
            rounds.append(1000 * (time.perf_counter() - begun) / 100)
        results[count] = round(statistics.median(rounds), 3)
    return results


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    kinds = parser.add_subparsers(dest="kind", required=True)
    for kind in ("scenes", "mot", "speed"):
        part = kinds.add_parser(kind)
        part.add_argument("--rounds", type=int, default=3)
        if kind == "speed":
            part.add_argument("--objects", type=int, nargs="+", default=[10, 50, 100, 300])
            continue
        part.add_argument("--every", type=int, default=1)
        part.add_argument("--high-score", type=float, default=0.5)
        part.add_argument("--new-score", type=float, default=0.6)
    kinds.choices["scenes"].add_argument("--clips", type=int, default=20)
    kinds.choices["scenes"].add_argument("--size", type=int, default=128)
    kinds.choices["scenes"].add_argument("--levels", nargs="+", choices=LEVELS, default=list(LEVELS))
    kinds.choices["scenes"].add_argument("--bundle")
    kinds.choices["scenes"].add_argument("--head", default="det")
    kinds.choices["scenes"].add_argument("--export", metavar="FOLDER")
    kinds.choices["mot"].add_argument("root")
    kinds.choices["mot"].add_argument("--split", default="all")
    arguments = parser.parse_args()
    if arguments.kind == "speed":
        json.dump({"arguments": vars(arguments), "ms_per_update": speed(arguments)}, sys.stdout, indent=1)
        print()
        return
    levels = (scenes if arguments.kind == "scenes" else mot)(arguments)
    options = TrackerOptions(high_score=arguments.high_score, new_score=arguments.new_score)
    results = {level: measure(clips, options, arguments.every, arguments.rounds) for level, clips in levels.items()}
    json.dump({"arguments": vars(arguments), "results": results}, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
