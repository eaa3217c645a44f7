"""One picture of all tasks: each at a reset and as its expert leaves it.

python -m data_tools.task_pictures --out docs/tasks.png
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from clamp_jax import runtime
from data_tools.render_cell import choose_gl

if __name__ == "__main__":
    runtime.setup("cpu", mjx=False)
    choose_gl()

import jax
import mujoco
import numpy as np

from clamp_jax.sim import scene, tasks
from clamp_jax.sim.engines import native
from data_tools import cell_pictures, generate, task_rates

HEIGHT, WIDTH = 180, 240
COLUMNS = 3  # of pairs
TRIES = 20


def states(name: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """qpos at the first reset from `seed` on that the expert succeeds from, and at the end; RuntimeError if there is none."""
    task, built = tasks.get(name), scene.build(name)
    engine, reset = native.Engine(built, task, threads=1), jax.jit(task.reset)
    for each in range(seed, seed + TRIES):
        qpos0, variant = (np.asarray(value) for value in reset(jax.random.key(each)))
        try:
            actions = task_rates.expert(task, built, qpos0, int(variant), each)
        except (task_rates.experts.PlanError, task_rates.experts.IKError):
            continue
        after, trace = engine.run(engine.start(qpos0[None], variant[None]), actions[None])
        if trace.success.any():
            return qpos0, np.asarray(after.qpos[0])
    raise RuntimeError(f"the expert of {name!r} succeeds from none of {TRIES} resets")


def pair(name: str, seed: int) -> np.ndarray:
    """The two states side by side, named."""
    model = scene.build(name).model
    data, camera = mujoco.MjData(model), mujoco.MjvCamera()
    camera.lookat[:], camera.distance, camera.azimuth, camera.elevation = (0, 0.02, 0.06), 1.0, 90, -48
    images = []
    with mujoco.Renderer(model, HEIGHT, WIDTH) as renderer:
        for qpos in states(name, seed):
            data.qpos[:] = qpos
            mujoco.mj_forward(model, data)
            renderer.update_scene(data, camera=camera)
            images.append(renderer.render().copy())
    return cell_pictures.label(np.concatenate(images, axis=1), name)


def rows(names: list[str], seed: int) -> Iterator[list[np.ndarray]]:
    """Pairs, COLUMNS in a row, the last row filled up with white."""
    pairs = [pair(name, seed) for name in names]
    pairs += [np.full_like(pairs[0], 255)] * (-len(pairs) % COLUMNS)
    for begin in range(0, len(pairs), COLUMNS):
        yield pairs[begin : begin + COLUMNS]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tasks", default="paper,near,far", help=f"sets ({', '.join(generate.SETS)}) or names, by commas")
    parser.add_argument("--seed", type=int, default=3)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    try:
        sheet = cell_pictures.tile(list(rows(generate.named(args.tasks), args.seed)))
    except (ValueError, RuntimeError) as error:
        sys.exit(f"task_pictures: {error}")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    cell_pictures.Image.fromarray(sheet).quantize(128).save(args.out, optimize=True)
    print(f"wrote {args.out}")


if __name__ == "__main__":
    main()
