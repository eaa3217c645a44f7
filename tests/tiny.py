"""The smallest networks and batches that go through every part of a step, and a compilation that takes seconds."""

from pathlib import Path

import jax
import numpy as np
import optax
import synthetic

from clamp_jax import parallel, steps
from clamp_jax.structs import Batch
from experiments import training
from experiments.configs import finetune, pretrain
from experiments.torture.run import SIZE, SMALLER  # noqa: F401 - SIZE: other tests read it here

FAST = {"xla_backend_optimization_level": 0}  # a third of the compilation time, the same operations
OVERRIDES = SMALLER  # of the debug preset; images of the synthetic data sets have sides of SIZE pixels


def config(stage: str = "pretrain", *paths: Path, **changes):
    """The debug config on some data sets; changes are dotted paths with `__` for the dot."""
    found = {"pretrain": pretrain, "finetune": finetune}[stage].get_config("debug")
    found.update_from_flattened_dict({name.replace("__", "."): value for name, value in changes.items()})
    with found.unlocked():
        found.data.paths = tuple(map(str, paths))
        found.model.overrides = OVERRIDES
    return found


def keep_gradient(rates: dict[str, float]) -> optax.GradientTransformation:
    """Plain SGD, with a rate for each network, whose state is the last gradient."""
    scale = optax.stateless(lambda updates, _: {name: optax.tree.scale(-rates[name], tree) for name, tree in updates.items()})
    return optax.chain(optax.trace(decay=0.0), scale)


def spec(stage: str = "pretrain", *, clamp: float = 0.01, policy: float = 0.1, **changes) -> steps.Spec:
    """The debug networks with plain SGD."""
    found = training.make_spec(config(stage, **changes), stage)
    return found._replace(optimiser=keep_gradient({"clamp": clamp, "policy": policy}))


def gradient(state) -> dict:
    return state.opt_state[0].trace


def init(of: steps.Spec, batch: Batch, seed: int = 0):
    """A fresh state; parameters are made by themselves, so that one compilation serves all tests."""
    return training.fresh_state(of, seed, batch)


def make_batches(root: Path, of: steps.Spec, *, batch: int = 16, images: bool = True):
    """Batches of simulated and, if asked for, as many recorded examples."""
    paths = [root / "state", root / "image"][: 1 + images]
    for path in paths:
        if not path.exists():
            synthetic.write(path, 12, kind=path.name, steps=60)
    section = config("pretrain", *paths).data
    return training.open_batches(section, of.networks, batch=batch, seed=0)[0]


def step_on(devices: int, body, of: steps.Spec, *, mapping: str = "jit"):
    """A mapped step (state, batch) -> (state, metrics) over that many devices, with its mesh."""
    on = parallel.mesh(jax.devices()[:devices])
    mapped = parallel.map_step(lambda *args: body(of, *args), on, mapping=mapping, donate=False, compiler_options=FAST)
    return on, lambda state, batch: mapped(parallel.replicate(state, on), parallel.shard(batch, on))


def relative(one, two) -> float:
    """Norm of the difference of two trees over the norm of the first."""
    one, two = (np.concatenate([np.ravel(np.asarray(x, np.float64)) for x in jax.tree.leaves(tree)]) for tree in (one, two))
    return float(np.linalg.norm(one - two) / np.linalg.norm(one))
