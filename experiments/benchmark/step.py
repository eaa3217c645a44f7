"""Time what training waits for: a step of stage (i), or the simulated sensors alone."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from clamp_jax import observe, parallel, steps
from clamp_jax.data.pipeline import example_keys
from clamp_jax.data.transforms import SIZES, Sizes, count_geoms, future_chunk, pad_geoms, pad_qpos, pad_tree, past_chunk
from clamp_jax.geometry import kinematics
from clamp_jax.sim import rollout, scene, tasks
from clamp_jax.structs import Batch, Labels, SceneState, StateExample, Target
from experiments import training
from experiments.benchmark.timing import repeat
from experiments.configs import pretrain as pretrain_config


def make_batch(task_name: str, batch: int, text_length: int, size: tuple[int, int], sizes: Sizes = SIZES) -> Batch:
    """A batch of resets of a task with the arms held still: made up, but of the shapes that training has."""
    built, starts = scene.build(task_name), rollout.initial_states(tasks.get(task_name), batch, 0)
    tree, geoms = pad_tree(built.tree, sizes.bodies), pad_geoms(built.geom_types, built.geoms, sizes.geoms)
    actions = np.tile(rollout.HOME_ACTION, (100, 1))
    tokens = np.arange(text_length, dtype=np.int32)

    def one(index: int) -> StateExample:
        qpos = pad_qpos(starts.qpos[index], sizes.qpos)
        moment = (kinematics.aloha_calibration(*size), rollout.HOME_ACTION, *past_chunk(actions, 50))
        labels = Labels(np.roll(tokens, index), np.int32(index))  # one prompt for all would leave all of them out of the losses
        return StateExample(SceneState(qpos, tree, geoms), *moment, labels, Target(*future_chunk(actions, 50)))

    rows = [one(index) for index in range(batch)]
    return Batch(jax.tree.map(lambda *leaves: np.stack(leaves), *rows), None, example_keys(0, 0, np.arange(batch)))


def time_step(preset: str, batch: int, repeats: int) -> dict[str, Any]:
    """A step of stage (i) of the CLAMP variant, on all devices there are, at a config's preset ("debug", "demo", ...)."""
    config = pretrain_config.get_config(preset)
    with config.unlocked():
        config.data.capacity.update(count_geoms(scene.build("drawer_open").geom_types)._asdict())
    spec, on = training.make_spec(config, "pretrain"), parallel.mesh()
    sensor = spec.networks.sensor
    sizes = Sizes(config.data.bodies, config.data.qpos, sensor.capacity)
    rows = make_batch("drawer_open", batch, spec.networks.text_length, (sensor.height, sensor.width), sizes)
    holder = [parallel.replicate(jax.jit(functools.partial(steps.init, spec))(jax.random.key(0), rows), on)]
    step, rows = parallel.map_step(functools.partial(steps.pretrain_step, spec), on), parallel.shard(rows, on)

    def work() -> Any:
        holder[0], found = step(holder[0], rows)
        return found

    times = repeat(work, repeats)
    return times | {"preset": preset, "batch": batch, "samples_per_s": 1e3 * batch / times["median_ms"]}


def time_sensors(size: int, batch: int, repeats: int, task_name: str = "drawer_open") -> dict[str, Any]:
    """RGB-D of the four cameras of a batch of scenes."""
    built, starts = scene.build(task_name), rollout.initial_states(tasks.get(task_name), batch, 0)
    capacity = count_geoms(built.geom_types)
    state = SceneState(np.zeros(built.model.nq, np.float32), built.tree, pad_geoms(built.geom_types, built.geoms, capacity))
    config = observe.noisy(size)._replace(capacity=capacity)
    sense = rollout.make_sense(jax.tree.map(jnp.asarray, state), kinematics.aloha_calibration(size, size), config)
    past, mask, keys = jnp.zeros((batch, 50, 14)), jnp.zeros((batch, 50), bool), jax.random.split(jax.random.key(0), batch)
    times = repeat(lambda: sense(jnp.asarray(starts.qpos)[:, None], past, mask, keys, keys), repeats)
    return times | {"size": size, "batch": batch, "geoms": capacity.total, "scenes_per_s": 1e3 * batch / times["median_ms"]}
