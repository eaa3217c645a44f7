"""A loop whose step is one product: what ends a run early is tried on it."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from clamp_jax import checkpoint, parallel
from clamp_jax.data.pipeline import Row
from clamp_jax.structs import Batch, StateExample, TrainState
from experiments import training
from experiments.stopping import Signals

STEPS = 40


class ToyBatches:
    """Batch n is the number n."""

    datasets = [SimpleNamespace(reader=SimpleNamespace(directory="data/a")), SimpleNamespace(reader=SimpleNamespace(directory="data/b"))]

    def rows(self, step):
        return [Row(0, 0, 10 + step, 1), Row(1, 1, 20 + step, 2)]

    def iterate(self, start, *, stop_step, threads):
        for number in range(start, stop_step):
            states = StateExample(**dict.fromkeys(StateExample._fields) | {"joints": np.full((1, 14), number)})
            yield Batch(states, None, jax.random.split(jax.random.key(0), 1))


def toy_step(losses, at):
    """The loss of step n is losses(n); the parameters take it in. `at` is called with a batch's number when its step begins."""

    @jax.jit
    def step(state, loss):
        params = {"policy": {"w": state.params["policy"]["w"] * 0.9 + loss}}
        return TrainState(state.step + 1, params, (), params), {"loss": loss, "gradient_norm": loss}

    def run(state, batch):
        number = int(jax.device_get(batch.states.joints)[0, 0])
        at(number)
        return step(state, jax.device_put(np.float32(losses(number + 1))))

    return run


def go(
    workdir, *, losses=lambda step: 1 + step % 3, at=lambda number: None, save_every=10, log_every=1, factor=10.0, stop_at=STEPS, width=3
):  # fmt: skip
    """Train the toy in a folder, resuming; returns the last state and the steps that were told of."""
    on, told, batches = parallel.mesh(jax.devices()[:1]), [], ToyBatches()
    train = ConfigDict({"save_every": save_every, "log_every": log_every, "spike_factor": factor, "spike_window": 20})
    params = {"policy": {"w": jnp.zeros(width)}}
    first = TrainState(jnp.int32(0), params, (), params)
    workdir.mkdir(exist_ok=True)
    with Signals() as signals, checkpoint.Checkpoints(workdir) as store:
        state = training.begin_or_resume(store, lambda: first, jax.eval_shape(lambda: first), statistics={}, on=on)
        log = training.Log(workdir, first=int(state.step), of=STEPS, batch=1, tell=lambda progress: told.append(progress.step))
        state = training.loop(
            toy_step(losses, at),
            state,
            batches=batches,
            on=on,
            train=train,
            threads=1,
            stop_at=stop_at,
            log=log,
            watch=training.make_watch(workdir, batches, train),
            signals=signals,
            store=store,
            save=lambda state: store.save(state, {}, {}),
        )
    return state, told
