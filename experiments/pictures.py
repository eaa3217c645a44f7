"""Pictures of what the cameras and the network see, as uint8 arrays, PNG bytes and films. Needs no GL and no plotting library."""

import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from clamp_jax.geometry import camera, kinematics, transforms
from clamp_jax.render import raycast, surface
from clamp_jax.structs import Camera, Capacity, SceneState

EMPTY = np.array([24, 28, 36], np.uint8)  # colour of a pixel where nothing was measured
BACKGROUND = 0.93  # grey of a film where no geom is
# Stops of a perceptually even map from far (dark) to near (bright), after matplotlib's viridis.
_RAMP = np.array([(68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37)])


def png(image: np.ndarray) -> bytes:
    """Encode a (h, w, 3) uint8 image as PNG."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"a picture is {image.dtype} of shape {image.shape}; expected uint8 (h, w, 3)")
    height, width = image.shape[:2]
    rows = np.concatenate([np.zeros((height, 1), np.uint8), image.reshape(height, -1)], 1)  # filter 0 before each row

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows.tobytes(), 9)) + chunk(b"IEND", b"")


def write_png(path: Path, image: np.ndarray) -> Path:
    """Write a picture whole or not at all; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(png(image))
    os.replace(temporary, path)
    return path


def enlarge(image: np.ndarray, factor: int) -> np.ndarray:
    """Repeat every pixel so that a small picture stays sharp on a page."""
    return image.repeat(factor, 0).repeat(factor, 1)


def row(images: Sequence[np.ndarray], gap: int = 4) -> np.ndarray:
    """Images of one height side by side with a white gap."""
    bar = np.full((images[0].shape[0], gap, 3), 255, np.uint8)
    parts = [part for image in images for part in (image, bar)]
    return np.concatenate(parts[:-1], 1)


def column(images: Sequence[np.ndarray], gap: int = 4) -> np.ndarray:
    """Images of one width below each other with a white gap."""
    return row([image.swapaxes(0, 1) for image in images], gap).swapaxes(0, 1)


def depth_colours(depth_m: np.ndarray) -> np.ndarray:
    """Colour depth (..., h, w) from near (bright) to far (dark) within the 2nd and 98th percentile; no measurement is dark."""
    valid = depth_m > 0
    if not valid.any():
        return np.broadcast_to(EMPTY, (*depth_m.shape, 3)).copy()
    low, high = np.percentile(depth_m[valid], [2, 98])
    share = 1 - np.clip((depth_m - low) / max(high - low, 1e-6), 0, 1)
    return np.where(valid[..., None], _ramp(share), EMPTY).astype(np.uint8)


def position_colours(views: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Show the xyz channels of (v, h, w, 4) as red, green, blue over the workspace's bounds in metres."""
    share = np.clip((views[..., 1:] - low) / (np.asarray(high) - low), 0, 1)
    return np.where((views[..., :1] > 0), 40 + 215 * share, EMPTY).astype(np.uint8)


def _ramp(share: np.ndarray) -> np.ndarray:
    at = share * (len(_RAMP) - 1)
    index = np.minimum(at.astype(int), len(_RAMP) - 2)
    part = (at - index)[..., None]
    return (1 - part) * _RAMP[index] + part * _RAMP[index + 1]


def overview_camera(height: int, width: int) -> Camera:
    """A pinhole camera in front of the table, above it and a little to the right, that sees both arms."""
    pose = transforms.look_at(jnp.array([0.22, -0.92, 0.78]), jnp.array([0.0, -0.02, 0.10]), jnp.array([0.0, 0.0, 1.0]))
    focal = 0.98 * height
    return Camera(jnp.array([focal, focal, width / 2, height / 2]), pose, jnp.array(False))


def paint_cloud(points_world: np.ndarray, colours: np.ndarray, eye: Camera, height: int, width: int) -> np.ndarray:
    """Draw coloured points (n, 3) far to near, each over 2 x 2 pixels, (height, width, 3) uint8."""
    uv, depth = (np.asarray(a) for a in camera.project(eye, jnp.asarray(points_world, jnp.float32)))
    cell = np.floor(uv).astype(int)
    inside = (depth > 0.05) & (cell >= 0).all(1) & (cell[:, 0] < width - 1) & (cell[:, 1] < height - 1)
    order = np.argsort(-depth[inside], kind="stable")
    (u, v), colour = cell[inside][order].T, colours[inside][order]
    image = np.full((height, width, 3), EMPTY, np.uint8)
    for dv in range(2):
        for du in range(2):
            image[v + dv, u + du] = colour
    return image


def make_film_renderer(scene: SceneState, capacity: Capacity, height: int, width: int) -> Any:
    """A compiled function qpos (f, q) -> (f, height, width, 3) uint8 seen by the overview camera."""
    eye = jax.tree.map(lambda leaf: leaf[None], overview_camera(height, width))
    geom_pose = jax.vmap(transforms.pose)(scene.geoms.pos, scene.geoms.quat)

    def one(qpos: jax.Array) -> jax.Array:
        padded = jnp.zeros(scene.qpos.shape, jnp.float32).at[: qpos.shape[0]].set(qpos)
        world_from_geom = kinematics.body_poses(scene.tree, padded)[scene.geoms.body] @ geom_pose
        rgb, depth_m, _ = raycast.raycast(world_from_geom, scene.geoms, eye, height=height, width=width, capacity=capacity, far=4.0)
        if scene.surface is None:
            screen = jnp.clip(rgb, 0, 1) ** (1 / 2.2)  # colours are linear, screens are not
        else:  # textures' colours are a screen's
            bodies = kinematics.body_poses(scene.tree, padded)
            screen, depth_m = surface.paint(scene.surface, bodies, eye, rgb, depth_m, light=raycast.LIGHT_DIRECTION)
        return (255 * jnp.where(depth_m[0, ..., None] == 0, BACKGROUND, screen[0])).astype(jnp.uint8)

    return jax.jit(lambda qpos: jax.lax.map(one, qpos))


def framed(image: np.ndarray, colour: Sequence[int], thick: int = 4) -> np.ndarray:
    """The picture with a coloured border drawn over its edge."""
    out = image.copy()
    out[:thick], out[-thick:], out[:, :thick], out[:, -thick:] = colour, colour, colour, colour
    return out


def film(frames: Iterator[np.ndarray], path: Path, rate: int) -> str | None:
    """Write frames (h, w, 3) uint8 as a film that browsers play; returns None, or in one line why there is none.

    H.264 where the installed PyAV has it, else VP9 or MPEG-4; height and width must be even.
    """
    try:
        import av
    except ImportError:
        return "no film: PyAV is not installed; pip install 'clamp-jax[viz]'"
    codec = next((name for name in ("libx264", "libvpx-vp9", "mpeg4") if name in av.codecs_available), None)
    if codec is None:
        return "no film: the installed PyAV has neither H.264 nor VP9 nor MPEG-4"
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name("." + path.name)
    try:
        _encode(av, frames, temporary, (codec, rate))
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return None


def _encode(av: Any, frames: Iterator[np.ndarray], path: Path, how: tuple[str, int]) -> None:
    with av.open(str(path), "w", options={"movflags": "faststart"} if path.suffix == ".mp4" else {}) as container:
        stream = None
        for image in frames:
            if stream is None:
                stream = container.add_stream(how[0], rate=how[1])
                stream.height, stream.width, stream.pix_fmt = image.shape[0], image.shape[1], "yuv420p"
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")))
        if stream is not None:
            container.mux(stream.encode(None))
