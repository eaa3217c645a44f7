"""What is wrong with simulated cameras, and by how much: presets by name, and each fault as a function on images and cameras.

The faults do not know how an image was made: they take depth as it would be exactly, whatever drew it. Looks (colours, light)
and the calibration error belong to an episode, noise and holes to a moment; delays are counted in control steps.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, PRNGKeyArray

from clamp_jax.geometry.transforms import compose, from_rotation, rotation_about
from clamp_jax.render.raycast import LIGHT_DIRECTION
from clamp_jax.structs import CONTROL_HZ, HISTORY, Camera, Capacity, Surface

SIGHT_M = 10.0  # farther than this a simulated camera sees nothing at all
EDGE = 0.05  # of two neighbours in a row, one is nearer by more than this share: an edge that hides what is behind it (ours)


class SensorConfig(NamedTuple):
    """The simulated cameras; static and hashable. Every fault at its default gives exact images that use no randomness."""

    height: int = 64
    width: int = 64
    capacity: Capacity = Capacity()
    near_m: float = 0.0  # nearer than this the sensor measures nothing (a D405's least depth is 0.07 m)
    far_m: float = 2.0  # at this depth and farther it measures nothing; colour reaches to SIGHT_M
    depth_noise_m: float = 0.0  # standard deviation at 1 m; grows with the square of depth, as a stereo camera's
    baseline_m: float = 0.0  # between the two imagers; what a near thing hides from the right one alone is not measured
    dropout: float = 0.0  # share of the pixels without a measurement
    dropout_px: int = 1  # they are lost in squares of this side
    colour_jitter: float = 0.0  # largest change of a geom's colour, of each channel
    light_jitter: float = 0.0  # largest change of the directed light's vector, whose length is 1
    camera_jitter_m: float = 0.0  # standard deviation of each camera's place, and
    camera_jitter_rad: float = 0.0  # of its direction: how far the calibration is off
    image_delay_s: float = 0.0  # images show the world of so long ago; whole control steps of 0.02 s, 1 s at most
    joint_delay_s: float = 0.0  # measured joints are those of so long ago


_NOISY = {
    # ours: 0.05 px of disparity of a D405 at 1280 x 720, 1 mm at 0.5 m. This is scatter alone: the vendor's 2 % at 0.5 m bound
    # all errors together. A real camera's scatter is alike over its matching window of some pixels; here each pixel has its
    # own, which is right where an image is delivered several times smaller than it is taken.
    "depth_noise_m": 0.004,
    "dropout": 0.02,  # ours
    "colour_jitter": 0.15,  # ours
    "light_jitter": 0.4,  # ours
    "camera_jitter_m": 0.002,  # ours; encoders and backlash alone leave an arm 3 mm at full reach
    "camera_jitter_rad": 0.004,  # ours: 2 mm at 0.5 m
}
_D405 = {
    "near_m": 0.07,  # vendor's least depth at 848 x 480
    "baseline_m": 0.018,  # vendor's data sheet: depth is measured from the left imager, 9 mm from the middle
    "dropout_px": 4,  # ours, for images of some 480 x 640: what has no texture is lost in patches
}
PRESETS = {
    "clean": {},  # exact, without delay
    "upstream": {"far_m": SIGHT_M, "image_delay_s": 0.3, "joint_delay_s": 0.1},  # google-deepmind/aloha_sim: exact, sees all, late
    "noisy": _NOISY,  # what the demo trains and is judged with
    "d405": _NOISY | _D405,  # the real cell's stereo cameras: what pre-training at scale uses
}


def preset(name: str, size: int = 64) -> SensorConfig:
    """The sensors of a name in PRESETS with `size` x `size` pixels; ValueError for another name."""
    if name not in PRESETS:
        raise ValueError(f"no preset {name!r} of sensors; expected one of {', '.join(PRESETS)}")
    return SensorConfig(height=size, width=size, **PRESETS[name])


def clean(size: int = 64) -> SensorConfig:
    """Exact sensors of `size` x `size` pixels."""
    return preset("clean", size)


def noisy(size: int = 64) -> SensorConfig:
    """Sensors with a D405's noise, random looks and a calibration that is off by some millimetres (ours)."""
    return preset("noisy", size)


class Delays(NamedTuple):
    """How many control steps of 0.02 s an observation is late."""

    image: int = 0
    joint: int = 0


def delays(config: SensorConfig) -> Delays:
    """A config's delays in control steps; ValueError for one that is no whole number of them, negative or over 1 s."""
    return Delays(_steps("image_delay_s", config.image_delay_s), _steps("joint_delay_s", config.joint_delay_s))


def _steps(name: str, delay_s: float) -> int:
    steps = delay_s * CONTROL_HZ
    if not (math.isfinite(steps) and abs(steps - round(steps)) < 1e-6 and 0 <= round(steps) <= HISTORY):
        raise ValueError(
            f"{name} is {delay_s:g} s; expected a whole number of control steps of {1 / CONTROL_HZ:g} s, "
            f"from 0 to {HISTORY / CONTROL_HZ:g} s, e.g. 0.3"
        )
    return round(steps)


class Keys(NamedTuple):
    """A key for each thing that is drawn."""

    camera: PRNGKeyArray
    colour: PRNGKeyArray
    light: PRNGKeyArray
    noise: PRNGKeyArray
    dropout: PRNGKeyArray


def draw_keys(key: PRNGKeyArray, episode_key: PRNGKeyArray | None = None) -> Keys:
    """Noise and dropout from the moment's key, cameras and looks from the episode's; without one, all from the moment's."""
    keys = Keys(*jax.random.split(key, 5))
    if episode_key is None:
        return keys
    return Keys(*jax.random.split(episode_key, 5))._replace(noise=keys.noise, dropout=keys.dropout)


def jitter_cameras(cameras: Camera, config: SensorConfig, key: PRNGKeyArray) -> Camera:
    """Cameras (k,) where they truly stand, each moved and turned a little in its own frame: the calibration does not know."""
    if config.camera_jitter_m == 0 and config.camera_jitter_rad == 0:
        return cameras
    count = cameras.intrinsics.shape[0]
    shift, turn = jax.random.normal(key, (2, count, 3))
    angle = jnp.sqrt(jnp.sum(turn * turn, axis=-1))
    rotation = rotation_about(turn / jnp.maximum(angle, 1e-9)[:, None], angle * config.camera_jitter_rad)
    moved = compose(cameras.world_from_camera, from_rotation(rotation, shift * config.camera_jitter_m))
    return cameras._replace(world_from_camera=moved)


def jitter_colours(colour: Float[Array, "g 3"], config: SensorConfig, key: PRNGKeyArray) -> Float[Array, "g 3"]:
    """Colours in [0, 1], each channel changed by itself."""
    if config.colour_jitter == 0:
        return colour
    change = jax.random.uniform(key, colour.shape, minval=-config.colour_jitter, maxval=config.colour_jitter)
    return jnp.clip(colour + change, 0, 1)


def jitter_surface(surface: Surface, bodies: int, config: SensorConfig, key: Array) -> Array:
    """Colours (n, 3) of a surface's points, each body's changed as a whole, as a geom's is."""
    if config.colour_jitter == 0:
        return jnp.asarray(surface.colour)
    change = jax.random.uniform(key, (bodies, 3), minval=-config.colour_jitter, maxval=config.colour_jitter)
    return jnp.clip(surface.colour + change[jnp.maximum(jnp.asarray(surface.body), 0)], 0, 1)


def jitter_light(config: SensorConfig, key: PRNGKeyArray) -> Float[Array, "3"]:
    """The vector towards the directed light, in the world."""
    light = jnp.asarray(LIGHT_DIRECTION)
    if config.light_jitter == 0:
        return light
    return light + jax.random.uniform(key, (3,), minval=-config.light_jitter, maxval=config.light_jitter)


def measure(depth_m: Float[Array, "k h w"], fx: Float[Array, " k"], config: SensorConfig, keys: Keys) -> Float[Array, "k h w"]:
    """Depth as the sensor reports it, of exact depth (m, 0 = nothing there): noisy, within its range, with holes of depth 0.

    fx is the focal length along a row, in pixels of these images.
    """
    exact_m = depth_m
    seen = (depth_m > 0) & (depth_m >= config.near_m) & (depth_m < config.far_m)
    if config.depth_noise_m:
        # depth is focal length x baseline / disparity, and disparity's error is the same everywhere
        noise = jax.random.normal(keys.noise, depth_m.shape)
        depth_m = jnp.maximum(depth_m + config.depth_noise_m * depth_m**2 * noise, 1e-3)
    if config.dropout:
        seen = seen & ~_dropped(depth_m.shape, config, keys.dropout)
    if config.baseline_m:
        drawn = jax.random.uniform(jax.random.fold_in(keys.dropout, 1), depth_m.shape)
        seen = seen & (drawn >= hidden_share(exact_m, fx, config.baseline_m))
    return jnp.where(seen, depth_m, 0)


def _dropped(shape: tuple[int, int, int], config: SensorConfig, key: PRNGKeyArray) -> Array:
    """Whether a pixel is lost (k, h, w): drawn once for each square of dropout_px pixels."""
    (count, height, width), side = shape, config.dropout_px
    if side < 1:
        raise ValueError(f"dropout_px is {side}; expected 1 or more pixels, the side of the squares that are lost together")
    squares = jax.random.bernoulli(key, config.dropout, (count, -(-height // side), -(-width // side)))
    if side == 1:
        return squares
    return jnp.repeat(jnp.repeat(squares, side, axis=1), side, axis=2)[:, :height, :width]


def hidden_share(depth_m: Float[Array, "k h w"], fx: Float[Array, " k"], baseline_m: float) -> Float[Array, "k h w"]:
    """The share of each pixel, in [0, 1], that is hidden from the right imager: a band left of each nearer thing.

    The images are the left imager's. A point in column u stands in column u - fx baseline / z of the right image, so a thing
    that begins in column e hides there what stands to the left of e and comes out to the right of it. The band is as wide as
    the two disparities differ, also where that is less than a pixel. What a matching window loses beside it is not modelled,
    nor what shows again beyond a thing narrower than the baseline.
    """
    z = jnp.where(depth_m > 0, depth_m, SIGHT_M)
    right = jnp.arange(z.shape[2], dtype=z.dtype)[None, None] - (fx * baseline_m)[:, None, None] / z
    begins = z[:, :, :-1] > (1 + EDGE) * z[:, :, 1:]  # of columns 1 and on: nearer than the one before it
    hidden_from = jax.lax.cummin(jnp.where(begins, right[:, :, 1:], jnp.inf), axis=2, reverse=True)
    share = jnp.clip(right[:, :, :-1] + 1 - hidden_from, 0, 1)
    return jnp.pad(share, ((0, 0), (0, 0), (0, 1)))
