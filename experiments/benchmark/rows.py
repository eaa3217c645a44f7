"""Made-up batches of stage (i) at the sizes of a preset, for the model benchmark."""

from typing import Any

import jax

from clamp_jax import steps
from clamp_jax.data.transforms import Sizes, count_geoms
from clamp_jax.sim import scene
from clamp_jax.structs import Batch, ImageExample
from experiments import training
from experiments.benchmark import step
from experiments.benchmark.case import Case
from experiments.configs import pretrain as pretrain_config

TASK = "drawer_open"


def make_config(preset: str, changes: tuple = ()) -> Any:
    """The config of stage (i) at a preset's size, the paper's where there is none of that name; its table of geoms fits TASK."""
    config = pretrain_config.get_config(preset if preset in ("debug", "demo") else "paper")
    with config.unlocked():
        config.model.preset, config.model.overrides = preset, changes
        config.data.capacity.update(count_geoms(scene.build(TASK).geom_types)._asdict())
    return config


def make_rows(config: Any, networks: steps.Networks, case: Case) -> Batch:
    """A made-up batch of the shapes that training has; "images" are what the simulated cameras see of the same scenes."""
    sensor = networks.sensor
    sizes = Sizes(config.data.bodies, config.data.qpos, sensor.capacity)
    rows = step.make_batch(TASK, case.batch, networks.text_length, (sensor.height, sensor.width), sizes)
    if case.records == "states":
        return rows
    if case.records != "images":
        raise ValueError(f"records is {case.records!r}; expected 'states' or 'images'")

    def record(rows: Batch) -> Batch:
        seen = steps.observations(networks, rows, rows.keys)
        return Batch(None, ImageExample(seen, rows.states.labels, rows.states.target), rows.keys)

    return jax.eval_shape(record, rows) if case.compile_only else jax.jit(record, compiler_options=training.QUICK)(rows)
