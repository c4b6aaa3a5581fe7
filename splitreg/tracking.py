"""Identities of detected objects over the frames of a video: ByteTrack's association; numpy only.

Source: Zhang et al. 2022, ByteTrack: Multi-Object Tracking by Associating Every Detection Box,
arXiv:2110.06864. Each track has a Kalman filter of constant velocity. Detections with high scores are
assigned to the predicted boxes first, those with low scores to what is left of them, and what is left
of the high scores starts new tracks. Assignments minimise the sum of ``1 - IoU`` (times the score)
exactly (Kuhn 1955, in the form of Jonker and Volgenant 1987).

Packages were considered instead (November 2026; counted with their dependencies):

- ``trackers`` 2.6 (Apache-2.0) needs NumPy 2, which compressai excludes, and OpenCV: 29 packages.
- ``supervision`` 0.31 (MIT) has no tracker any more; its ByteTrack has moved to ``trackers``.
- ``norfair`` 2.3 (BSD-3-Clause) needs SciPy, filterpy (no release since 2018) and rich: 18 packages. It
  associates detections of high scores only.
- ``boxmot`` 25.0 (AGPL-3.0) needs torch, OpenCV and pandas: 80 packages, under a licence that splitreg cannot
  depend on.

A device has numpy only, and the association is short.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from splitreg.boxes import Floats, box_iou
from splitreg.errors import RecipeError
from splitreg.predictions import Detections

__all__ = ["Tracker", "TrackerOptions", "assign"]

Indexes = NDArray[np.int64]

# Standard deviations relative to the height of a box, as in ByteTrack and DeepSORT (arXiv:1703.07402).
_POSITION_STD, _VELOCITY_STD = 1 / 20, 1 / 160
#: Rows of a state (5, 4): mean position and velocity of x, y, aspect and height, and their covariances.
_POSITION, _VELOCITY, _PP, _PV, _VV = range(5)
#: A lost track ends if a track that is seen overlaps it by more.
_DUPLICATE_IOU = 0.85
#: Smallest IoU of the second detection of a track.
_YOUNG_MIN_IOU = 0.3


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackerOptions:
    """Options of a ``Tracker``; the defaults are ByteTrack's.

    ByteTrack compares ``min_iou`` with the IoU times the score; here it is the IoU alone.

    Args:
        high_score: smallest score of detections that are assigned first.
        low_score: smallest score of detections that continue a track.
        new_score: smallest score of detections that start a track.
        min_iou: smallest IoU of a detection with a track, for high scores.
        low_min_iou: likewise for low scores.
        max_lost: number of frames after which a track that is not seen ends.
        min_hits: number of frames in a row in which a new object must be seen before it is reported;
            objects of the first frame are reported at once.
        by_class: detections continue only tracks of their class.

    Raises:
        RecipeError: an option is out of its range.
    """

    high_score: float = 0.5
    low_score: float = 0.1
    new_score: float = 0.6
    min_iou: float = 0.2
    low_min_iou: float = 0.5
    max_lost: int = 30
    min_hits: int = 2
    by_class: bool = True

    def __post_init__(self) -> None:
        for name in ("high_score", "low_score", "new_score", "min_iou", "low_min_iou"):
            if not 0 <= getattr(self, name) <= 1:
                raise RecipeError(f"{name} must be 0 to 1, got {getattr(self, name)}")
        if self.low_score > self.high_score:
            raise RecipeError(f"low_score {self.low_score} is above high_score {self.high_score}")
        if self.max_lost < 0 or self.min_hits < 1:
            raise RecipeError(
                f"max_lost must be at least 0 and min_hits at least 1, got {self.max_lost} and {self.min_hits}"
            )


@dataclass(slots=True, kw_only=True)
class _Track:
    """One object: Kalman state (5, 4), class, frames in which it was seen, frames since then."""

    state: Floats
    label: int
    hits: int
    confirmed: bool
    identity: int = 0
    unseen: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Frame:
    """Detections of one frame; ``identities`` (N,) are filled in, 0: none."""

    boxes: Floats
    scores: Floats
    labels: Indexes
    identities: Indexes

    @classmethod
    def of(cls, detections: Detections) -> _Frame:
        """Copy detections; boxes that are not finite or have no area get a score below every threshold."""
        boxes = detections.boxes.astype(np.float64).reshape(-1, 4)
        scores = detections.scores.astype(np.float64)
        fine = np.isfinite(boxes).all(1) & np.isfinite(scores) & (boxes[:, 2:] > boxes[:, :2]).all(1)
        return cls(
            boxes=np.where(fine[:, None], boxes, 0.0),
            scores=np.where(fine, scores, -1.0),
            labels=detections.labels,
            identities=np.zeros(len(boxes), np.int64),
        )


class Tracker:
    """Gives detections identities, frame by frame.

    It is not safe for use by several threads; use one per video.

    Args:
        options: thresholds.
    """

    def __init__(self, options: TrackerOptions | None = None) -> None:
        self.options = options or TrackerOptions()
        self._tracks: list[_Track] = []
        self._next, self._started = 1, False

    def reset(self) -> None:
        """Forget all objects; identities are not used again."""
        self._tracks, self._started = [], False

    def update(self, detections: Detections, *, frames: float = 1.0) -> Detections:
        """Return the objects of the next frame that are tracked, with their identities.

        Args:
            detections: of a frame, in pixels of the same image size as before.
            frames: number of frames since the last call; more than 1 if frames were dropped.

        Returns:
            The detections that belong to a reported track, highest score first, with ``identities``
            from 1. Objects of low scores that no track continues, and objects that are seen for the
            first time, are missing.

        Raises:
            RecipeError: ``frames`` is not positive.
        """
        if not (frames > 0 and np.isfinite(frames)):
            raise RecipeError(f"frames must be positive, got {frames}")
        options = self.options
        frame = _Frame.of(detections)
        scores = frame.scores
        self._predict(frames)
        high = np.flatnonzero(scores >= options.high_score)
        low = np.flatnonzero((scores < options.high_score) & (scores >= options.low_score))
        known = [track for track in self._tracks if track.confirmed]
        young = [track for track in self._tracks if not track.confirmed]
        left, high = self._match(known, high, frame, options.min_iou, weighted=True)
        seen = [track for track in left if track.unseen <= frames]  # a lost track needs a high score
        self._match(seen, low, frame, options.low_min_iou)
        missed, high = self._match(young, high, frame, _YOUNG_MIN_IOU, weighted=True)
        self._start(high[scores[high] >= options.new_score], frame)
        dropped = {id(track) for track in missed}
        self._tracks = [t for t in self._tracks if t.unseen <= options.max_lost and id(t) not in dropped]
        self._drop_duplicates()
        self._started = True
        rows = np.flatnonzero(frame.identities)
        return replace(
            detections, boxes=detections.boxes[rows], scores=detections.scores[rows], labels=detections.labels[rows],
            identities=frame.identities[rows],
        )  # fmt: skip

    def _predict(self, frames: float) -> None:
        if self._tracks:
            for track, state in zip(self._tracks, _predicted(_states(self._tracks), frames), strict=True):
                track.state = state
                track.unseen += frames

    def _match(
        self, tracks: list[_Track], rows: Indexes, frame: _Frame, min_iou: float, *, weighted: bool = False
    ) -> tuple[list[_Track], Indexes]:
        """Assign detections to tracks and update both; return what is left of them."""
        if not tracks or not len(rows):
            return tracks, rows
        overlap = box_iou(_corners(_states(tracks)), frame.boxes[rows])
        overlap[overlap < min_iou] = -1.0
        if weighted:  # the threshold holds for the overlap alone, so that models with low scores are tracked as well
            overlap *= frame.scores[rows]
        if self.options.by_class:
            overlap[np.array([track.label for track in tracks])[:, None] != frame.labels[rows]] = -1.0
        first, second = assign(1 - overlap, 1.0)
        if len(first):
            states = _corrected(_states([tracks[i] for i in first]), _measurements(frame.boxes[rows[second]]))
            for i, row, state in zip(first, rows[second], states, strict=True):
                frame.identities[row] = self._seen(tracks[i], state, int(frame.labels[row]))
        used = set(first.tolist())
        return [track for i, track in enumerate(tracks) if i not in used], np.delete(rows, second)

    def _seen(self, track: _Track, state: Floats, label: int) -> int:
        """Update a track; return its identity, 0 if it is not reported yet."""
        track.state, track.label, track.unseen = state, label, 0.0
        track.hits += 1
        if not track.confirmed and track.hits >= self.options.min_hits:
            self._confirm(track)
        return track.identity

    def _confirm(self, track: _Track) -> None:
        track.confirmed, track.identity = True, self._next
        self._next += 1

    def _start(self, rows: Indexes, frame: _Frame) -> None:
        for row, measurement in zip(rows, _measurements(frame.boxes[rows]), strict=True):
            track = _Track(state=_initial(measurement), label=int(frame.labels[row]), hits=1, confirmed=False)
            if not self._started or self.options.min_hits == 1:
                self._confirm(track)
            frame.identities[row] = track.identity
            self._tracks.append(track)

    def _drop_duplicates(self) -> None:
        """Drop lost tracks where a track that is seen overlaps them: its identity is in use."""
        lost = [track for track in self._tracks if track.confirmed and track.unseen > 0]
        seen = [track for track in self._tracks if track.confirmed and track.unseen == 0]
        if not lost or not seen:
            return
        overlap = box_iou(_corners(_states(lost)), _corners(_states(seen)))
        dropped = {
            id(lost[i])
            for i, j in np.argwhere(overlap > _DUPLICATE_IOU)
            if lost[i].label == seen[j].label or not self.options.by_class
        }
        self._tracks = [track for track in self._tracks if id(track) not in dropped]


def assign(cost: Floats, limit: float = np.inf) -> tuple[Indexes, Indexes]:
    """Assign rows to columns, one to one, with the smallest sum of costs.

    A pair that costs ``limit`` or more is never assigned, and leaving a pair out costs ``limit``.

    Args:
        cost: (N, M).
        limit: largest cost of a pair, exclusive.

    Returns:
        Row indexes in order, and the column of each.
    """
    if not cost.size:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    clipped = np.minimum(cost, limit) if np.isfinite(limit) else cost
    turned = cost.shape[0] > cost.shape[1]
    columns = _hungarian(clipped.T if turned else clipped)
    rows = np.arange(len(columns))
    first, second = (columns, rows) if turned else (rows, columns)
    keep = cost[first, second] < limit
    first, second = first[keep], second[keep]
    order = np.argsort(first, kind="stable")
    return first[order], second[order]


def _hungarian(cost: Floats) -> Indexes:
    """Return the column of each row of an (N, M) matrix, N <= M, by shortest augmenting paths."""
    rows, columns = cost.shape
    of_row, of_column = np.zeros(rows), np.zeros(columns)  # dual variables
    owner = np.full(columns, -1, np.int64)
    for start in range(rows):
        shortest = np.full(columns, np.inf)
        before = np.full(columns, -1, np.int64)
        visited = np.zeros(columns, bool)
        path, row, reached, distance = [start], start, -1, 0.0
        while reached < 0:
            through = distance + cost[row] - of_row[row] - of_column
            better = ~visited & (through < shortest)
            shortest[better], before[better] = through[better], row
            nearest = int(np.where(visited, np.inf, shortest).argmin())
            distance = float(shortest[nearest])
            visited[nearest] = True
            if owner[nearest] < 0:
                reached = nearest
            else:
                row = int(owner[nearest])
                path.append(row)
        done = np.flatnonzero(visited & (owner >= 0))
        of_row[start] += distance
        of_row[owner[done]] += distance - shortest[done]
        of_column[done] -= distance - shortest[done]
        column = reached
        while True:  # shift the pairs along the path
            row = int(before[column])
            previous = np.flatnonzero(owner == row)
            owner[column] = row
            if row == start:
                break
            column = int(previous[0])
    result = np.empty(rows, np.int64)
    taken = np.flatnonzero(owner >= 0)
    result[owner[taken]] = taken
    return result


def _states(tracks: list[_Track]) -> Floats:
    return np.stack([track.state for track in tracks])


def _measurements(boxes: Floats) -> Floats:
    """(N, 4) corners to centre x, centre y, aspect (width by height), height."""
    size = boxes[:, 2:] - boxes[:, :2]
    return np.column_stack([(boxes[:, :2] + boxes[:, 2:]) / 2, size[:, 0] / size[:, 1], size[:, 1]])


def _corners(states: Floats) -> Floats:
    """(N, 5, 4) states to (N, 4) corners."""
    x, y, aspect, height = states[:, _POSITION].T
    height = np.maximum(height, 0)
    width = np.maximum(aspect, 0) * height
    return np.column_stack([x - width / 2, y - height / 2, x + width / 2, y + height / 2])


def _variances(heights: Floats, share: float, aspect: float) -> Floats:
    """Return (N, 4) variances: a share of the height, and a constant for the aspect."""
    deviations = np.repeat(np.maximum(heights, 1e-3)[:, None] * share, 4, axis=1)
    deviations[:, 2] = aspect
    return np.square(deviations)


def _initial(measurement: Floats) -> Floats:
    state = np.zeros((5, 4))
    state[_POSITION] = measurement
    state[_PP] = _variances(measurement[3:], 2 * _POSITION_STD, 1e-2)[0]
    state[_VV] = _variances(measurement[3:], 10 * _VELOCITY_STD, 1e-5)[0]
    return state


def _predicted(states: Floats, frames: float) -> Floats:
    """Move (N, 5, 4) states on; the four coordinates are independent of each other."""
    position, velocity, pp, pv, vv = states.transpose(1, 0, 2)
    heights = position[:, 3]
    return np.stack(
        [
            position + frames * velocity,
            velocity,
            pp + 2 * frames * pv + frames**2 * vv + frames * _variances(heights, _POSITION_STD, 1e-2),
            pv + frames * vv,
            vv + frames * _variances(heights, _VELOCITY_STD, 1e-5),
        ],
        axis=1,
    )


def _corrected(states: Floats, measurements: Floats) -> Floats:
    """Kalman update of (N, 5, 4) states by (N, 4) measurements."""
    position, velocity, pp, pv, vv = states.transpose(1, 0, 2)
    total = pp + _variances(position[:, 3], _POSITION_STD, 1e-1)
    residual = measurements - position
    gain, drift = pp / total, pv / total
    return np.stack(
        [position + gain * residual, velocity + drift * residual, pp - gain * pp, pv - gain * pv, vv - drift * pv],
        axis=1,
    )
