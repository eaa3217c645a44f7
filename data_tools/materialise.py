"""Make an image data set of a state data set: the sensors are run once and their images kept, as a robot's recorder would.

python -m data_tools.materialise --data runs/demo/data/drawer_open --out runs/images --size 64 --every 5
"""

import argparse
import functools
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from clamp_jax.data.folders import IMAGES_OF, Reader, Writer
from clamp_jax.data.records import Episode, round_depth
from clamp_jax.data.transforms import SIZES, pad_geoms, pad_qpos, pad_tree
from clamp_jax.geometry.kinematics import aloha_calibration
from clamp_jax.observe import sense
from clamp_jax.sensors import PRESETS, SensorConfig, delays, preset
from clamp_jax.structs import ACTION_DIM, HISTORY, Calibration, SceneState, Surface

CHUNK_FRAMES = 8  # frames drawn at once; one size, so that the sensors compile once
NO_TICK = 2**31 - 1  # the number by which an episode's own key is folded: no frame's


@functools.partial(jax.jit, static_argnames="config")
def draw_images(
    scenes: SceneState, calibration: Calibration, key: jax.Array, ticks: np.ndarray, *, config: SensorConfig
) -> tuple[jax.Array, jax.Array]:
    """RGB (n, k, h, w, 3) and depth (n, k, h, w) of n scenes of one episode, shown at ticks (n,).

    Noise is drawn with fold_in(key, tick), calibration error and looks once for the episode.
    """
    joints, past = np.zeros(ACTION_DIM, np.float32), np.zeros((HISTORY, ACTION_DIM), np.float32)
    rest = (calibration, joints, past, np.zeros(HISTORY, bool))  # passed through, not seen by a camera
    episode_key = jax.random.fold_in(key, NO_TICK)

    def one(scene: SceneState, tick: jax.Array) -> tuple[jax.Array, jax.Array]:
        observation = sense(scene, *rest, config=config, key=jax.random.fold_in(key, tick), episode_key=episode_key)
        return observation.rgb, observation.depth_m

    return jax.vmap(one)(scenes, ticks)


def _draw(
    episode: Episode, ticks: np.ndarray, config: SensorConfig, key: jax.Array, surface: Surface | None
) -> tuple[np.ndarray, np.ndarray]:
    tree, geoms = pad_tree(episode.tree, SIZES.bodies), pad_geoms(episode.geom_types, episode.geoms, config.capacity)
    tree, geoms, surface = jax.tree.map(lambda x: np.repeat(x[None], CHUNK_FRAMES, axis=0), (tree, geoms, surface))
    calibration, qpos, parts = aloha_calibration(config.height, config.width), pad_qpos(episode.qpos, SIZES.qpos), []
    for start in range(0, len(ticks), CHUNK_FRAMES):
        chosen = np.resize(ticks[start : start + CHUNK_FRAMES], CHUNK_FRAMES)  # the last chunk repeats itself
        scenes = SceneState(qpos[_before(chosen, delays(config).image)], tree, geoms, surface)
        parts.append(jax.device_get(draw_images(scenes, calibration, key, chosen, config=config)))
    rgb, depth_m = (np.concatenate(images)[: len(ticks)] for images in zip(*parts, strict=True))
    return rgb, depth_m


def _before(ticks: np.ndarray, delay: int) -> np.ndarray:
    """The ticks that many control steps earlier; before the start all was at rest as in the first one."""
    return np.maximum(ticks - delay, 0)


def materialise(episode: Episode, *, every: int, config: SensorConfig, key: jax.Array, surface: Surface | None = None) -> Episode:
    """The image episode of a state episode: RGB-D of every `every`-th tick, drawn by the sensors of `config`.

    surface: of a scene with meshes. Numbers stay as they are and the privileged state is left out; where the sensors are late,
    the frame of tick t shows an earlier one's world and its joints are those measured earlier, as a recorder finds them. The frame
    of tick t is drawn with fold_in(key, t). ValueError for an image episode and for delays that are no whole control steps.
    """
    if episode.kind != "state":
        raise ValueError(f"episode is of kind {episode.kind!r}; only a state can be turned into images")
    ticks = np.arange(0, len(episode.actions), every, dtype=np.int32)
    rgb, depth_m = _draw(episode, ticks, config, key, surface)
    calibration = aloha_calibration(config.height, config.width)
    repeated = Calibration(*(np.repeat(np.asarray(x)[None], len(ticks), axis=0) for x in calibration))
    joints = episode.joints[_before(np.arange(len(episode.joints)), delays(config).joint)]
    images = {"ticks": ticks, "rgb": rgb, "depth_m": depth_m, "calibration": repeated, "joints": joints}
    return episode._replace(kind="image", qpos=None, tree=None, geom_types=None, geoms=None, **images)


def materialise_all(
    source: str | Path, out: str | Path, *, every: int, config: SensorConfig, seed: int, exact_depth: bool = False
) -> None:
    """Write the image data set of a whole state data set; episode i is drawn with fold_in(key(seed), i).

    Depth is kept in tenths of a millimetre, as a recorder has it from a D405, unless `exact_depth` asks for what was drawn. The
    data set says which states it is of, so that a mixture of both never has one trajectory twice in a batch.
    Raises ValueError for a source that is no finished state data set and an `out` that already holds one.
    """
    reader = Reader(source)
    if reader.kind != "state":
        raise ValueError(f"{source} is a data set of kind {reader.kind!r}; expected 'state'")
    if every < 1:
        raise ValueError(f"every is {every}; expected 1 or more ticks from one image to the next")
    with Writer(out, task=reader.task, kind="image", origin={IMAGES_OF: reader.fingerprint}) as writer:
        for index in tqdm(range(len(reader)), desc=f"images of {reader.task}", unit="episode"):
            key = jax.random.fold_in(jax.random.key(seed), index)
            episode = reader[index]
            drawn = materialise(episode, every=every, config=config, key=key, surface=surface_of(episode, reader.meta))
            writer.add(drawn if exact_depth else drawn._replace(depth_m=round_depth(drawn.depth_m)))


def surface_of(episode: Episode, meta: dict[str, Any]) -> Surface | None:
    """Points on the meshes of an episode's scene, None where all is primitive; FileNotFoundError without the meshes."""
    origin = meta.get("origin", {})
    if origin.get("geometry", "primitive") == "primitive":
        return None
    from clamp_jax.sim import randomise, scene  # MuJoCo is wanted here alone

    variety = randomise.variety("nominal", origin["distractors"], origin["geometry"])
    built = scene.build(episode.task, variety.geometry)
    names, _ = randomise.distractors(built, episode.qpos[0, : built.model.nq], variety, episode.seed)
    return scene.surface_of(scene.build(episode.task, variety.geometry, names))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of a state data set")
    parser.add_argument("--out", type=Path, required=True, help="folder to write the image data set to")
    parser.add_argument("--size", type=int, default=64, help="height and width of the images in pixels")
    parser.add_argument("--every", type=int, default=5, help="ticks (0.02 s) from one image to the next")
    parser.add_argument("--seed", type=int, default=0, help="of the sensors' noise and looks")
    parser.add_argument("--sensors", choices=tuple(PRESETS), default="noisy", help="a preset of clamp_jax/sensors.py")
    parser.add_argument("--exact-depth", action="store_true", help="keep depth as drawn, in four bytes, not in tenths of a millimetre")
    options = parser.parse_args(arguments)
    config = preset(options.sensors, options.size)
    try:
        about = {"every": options.every, "config": config, "seed": options.seed, "exact_depth": options.exact_depth}
        materialise_all(options.data, options.out, **about)
    except (ValueError, OSError) as error:
        raise SystemExit(f"materialise: {error}") from error


if __name__ == "__main__":
    main()
