"""Pictures of an observation: its cameras, its cloud, and its views."""

from pathlib import Path

import jax
import numpy as np
from PIL import Image, ImageDraw

from clamp_jax.geometry.camera import pinhole
from clamp_jax.geometry.transforms import look_at
from clamp_jax.observe import cloud, render_views
from clamp_jax.render.splat import visible
from clamp_jax.render.views import ViewConfig, default_views
from clamp_jax.structs import CAMERAS, Camera, Observation

EMPTY = (18, 18, 22)  # colour of a pixel without a point
# Stops of a perceptually even map from near (bright) to far (dark).
_STOPS = np.array([(253, 231, 37), (94, 201, 98), (33, 145, 140), (59, 82, 139), (68, 1, 84)], np.float64)


def colour_depth(depth_m: np.ndarray) -> np.ndarray:
    """uint8 colours of a depth image, bright where near; scaled between its own 1st and 99th percentile."""
    seen = depth_m > 0
    if not seen.any():
        return np.full((*depth_m.shape, 3), EMPTY, np.uint8)
    low, high = np.percentile(depth_m[seen], (1, 99))
    share = np.clip((depth_m - low) / max(high - low, 1e-6), 0, 1) * (len(_STOPS) - 1)
    colours = np.stack([np.interp(share, np.arange(len(_STOPS)), _STOPS[:, i]) for i in range(3)], axis=-1)
    return np.where(seen[..., None], colours, EMPTY).astype(np.uint8)


def colour_xyz(view: np.ndarray, config: ViewConfig) -> np.ndarray:
    """uint8 colours of a view's world coordinates: red x, green y, blue z over the crop."""
    low, high = np.array(config.low), np.array(config.high)
    share = np.clip((view[..., 1:] - low) / (high - low), 0, 1)
    return np.where(view[..., :1] > 0, 40 + 215 * share, EMPTY).astype(np.uint8)


def tile(rows: list[list[np.ndarray]], gap: int = 4) -> np.ndarray:
    """Images of one size in rows, with a light line between them."""

    def join(images: list[np.ndarray], axis: int) -> np.ndarray:
        shape = list(images[0].shape)
        shape[axis] = gap
        line = np.full(shape, 235, np.uint8)
        return np.concatenate([part for image in images for part in (image, line)][:-1], axis=axis)

    return join([join(row, 1) for row in rows], 0)


def label(image: np.ndarray, text: str) -> np.ndarray:
    """The image with a caption in its upper left corner."""
    picture = Image.fromarray(image)
    draw_on = ImageDraw.Draw(picture)
    box = draw_on.textbbox((5, 4), text)
    draw_on.rectangle((box[0] - 3, box[1] - 2, box[2] + 3, box[3] + 2), fill=(0, 0, 0))
    draw_on.text((5, 4), text, fill=(255, 255, 255))
    return np.asarray(picture)


def draw_cameras(observation: Observation) -> np.ndarray:
    """The cameras' colour images over their depth, at half their size."""
    rgb = np.stack([np.asarray(Image.fromarray(image).reduce(2)) for image in np.asarray(observation.rgb)])
    depth_m = np.asarray(observation.depth_m)[:, ::2, ::2]
    top = [label(image, name.replace("_", " ")) for image, name in zip(rgb, CAMERAS, strict=True)]
    return tile([top, [colour_depth(image) for image in depth_m]])


def bystander(height: int, width: int) -> Camera:
    """A camera beside the cell that took no part in making the cloud."""
    pose = look_at(np.float32([0.55, -0.95, 0.85]), np.float32([0.0, 0.0, 0.12]), np.float32([0.0, 0.0, 1.0]))
    return pinhole(np.float32([0.9 * width, 0.9 * width, width / 2, height / 2]), pose)


def draw_cloud(observation: Observation, config: ViewConfig, size: tuple[int, int] = (480, 720)) -> np.ndarray:
    """The merged and cropped cloud, seen by the bystander, each pixel in the colour of the point that it shows."""

    @jax.jit
    def shown(observation: Observation) -> jax.Array:
        points, valid = cloud(observation, config._replace(points=0, voxel_m=0.0), jax.random.key(0))
        return visible(points, valid, bystander(*size), height=size[0], width=size[1])

    index = np.asarray(shown(observation))
    colours = np.asarray(observation.rgb).reshape(-1, 3)
    return np.where(index[..., None] >= 0, colours[index], EMPTY).astype(np.uint8)


def draw_views(views: np.ndarray, config: ViewConfig) -> np.ndarray:
    """The views' depth over their xyz."""
    top = [label(colour_depth(view[..., 0]), name.replace("_", " ")) for view, name in zip(views, config.names, strict=True)]
    return tile([top, [colour_xyz(view, config) for view in views]])


def draw(observation: Observation, size: int, out: Path) -> list[Path]:
    """Writes cameras.png, cloud.png and five_views.png of an observation into a folder; returns their paths."""
    config = default_views(size)
    views = np.asarray(jax.jit(render_views, static_argnames="config")(observation, config=config, key=jax.random.key(0)))
    cameras, points, strip = draw_cameras(observation), draw_cloud(observation, config), draw_views(views, config)
    out.mkdir(parents=True, exist_ok=True)
    pictures = (("cameras", cameras), ("cloud", points), ("five_views", strip))
    return [_write(out / f"{name}.png", picture) for name, picture in pictures]


def _write(path: Path, picture: np.ndarray) -> Path:
    temporary = path.with_suffix(".tmp.png")
    Image.fromarray(picture).save(temporary, optimize=True)
    temporary.replace(path)
    return path
