"""Motion of solids and camera in a clip; numpy only.

Every coordinate follows a sine, so that positions, speeds and accelerations are continuous. A scene of a
clip depends on the number of its frame and nothing before it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from splitreg_scenes.raycast import Camera, Scene
from splitreg_scenes.solids import Floats, Solid

#: Frames per clip, and frames per second.
FRAMES, RATE = 64, 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Swing:
    """``amplitude * (sin(2 pi t / period + phase) - sin(phase))``: 0 at the start; t in seconds."""

    amplitude: float = 0.0
    period: float = 10.0
    phase: float = 0.0

    def at(self, seconds: float | NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the offset at times of any shape."""
        angle = 2 * math.pi * np.asarray(seconds) / self.period
        offset: NDArray[np.float64] = self.amplitude * (np.sin(angle + self.phase) - math.sin(self.phase))
        return offset


@dataclass(frozen=True, slots=True, kw_only=True)
class Motion:
    """How a solid moves on the floor: offsets along x and z in metres, rotation about the vertical in radians."""

    x: Swing
    z: Swing
    turn: Swing

    def positions(self, solid: Solid) -> NDArray[np.float64]:
        """Return (FRAMES, 2) x and z of the solid's centre."""
        seconds = np.arange(FRAMES) / RATE
        return np.column_stack([solid.centre[0] + self.x.at(seconds), solid.centre[2] + self.z.at(seconds)])

    def move(self, solid: Solid, seconds: float) -> Solid:
        """Return the solid at a time."""
        offset = np.array([self.x.at(seconds), 0, self.z.at(seconds)], np.float32)
        rotation = turned(float(self.turn.at(seconds))) @ solid.rotation
        return replace(solid, centre=solid.centre + offset, rotation=rotation.astype(np.float32))


STILL = Motion(x=Swing(), z=Swing(), turn=Swing())


@dataclass(frozen=True, slots=True, kw_only=True)
class MovingScene:
    """A moving scene.

    Args:
        start: its scene in frame 0.
        motions: one per solid.
        orbit: angle in radians by which the camera moves around the vertical axis of the room.
        lift: height in metres by which the camera moves.
    """

    start: Scene
    motions: tuple[Motion, ...]
    orbit: Swing
    lift: Swing

    def eyes(self) -> Floats:
        """Return (FRAMES, 3) positions of the camera."""
        return np.stack([self._eye(frame / RATE) for frame in range(FRAMES)])

    def scene(self, frame: int) -> Scene:
        """Return the scene in a frame, 0 to ``FRAMES - 1``."""
        seconds = frame / RATE
        return replace(
            self.start,
            solids=tuple(m.move(s, seconds) for m, s in zip(self.motions, self.start.solids, strict=True)),
            camera=Camera(
                eye=self._eye(seconds), target=self.start.camera.target, view=self.start.camera.view
            ),
        )  # fmt: skip

    def _eye(self, seconds: float) -> Floats:
        eye = turned(float(self.orbit.at(seconds))) @ self.start.camera.eye
        eye[1] += np.float32(self.lift.at(seconds))
        return eye


def turned(angle: float) -> Floats:
    """Return a rotation about the vertical axis."""
    c, s = math.cos(angle), math.sin(angle)
    return np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]], np.float32)
