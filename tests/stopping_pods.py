"""A loop whose step is one product, in two processes that are stopped: python tests/stopping_pods.py INDEX PORT FOLDER STEPS."""

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

ROOT = Path(__file__).parents[1]
PROCESSES, SAVE_EVERY, STEP_S = 2, 10, 0.03
STARTED = "begun_{}"


def start(folder: Path, steps: int) -> list[subprocess.Popen]:
    """Both processes, on a port of their own; their words go to log_0 and log_1."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    environ = os.environ | {"XLA_FLAGS": "", "JAX_PLATFORMS": "cpu", "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    found = []
    for index in range(PROCESSES):
        command = [sys.executable, "tests/stopping_pods.py", str(index), str(port), str(folder), str(steps)]
        with (folder / f"log_{index}").open("a") as log:
            found.append(subprocess.Popen(command, cwd=ROOT, env=environ, stdout=log, stderr=subprocess.STDOUT))
    return found


def codes(started: list[subprocess.Popen], limit_s: float) -> list[int | None]:
    """How the processes ended within so many seconds, None for one that did not; none is left behind."""
    end = time.monotonic() + limit_s
    while time.monotonic() < end and any(process.poll() is None for process in started):
        time.sleep(0.05)
    found = [process.poll() for process in started]
    for process in started:
        process.kill()
        process.wait()
    return found


def wait_begun(folder: Path, started: list[subprocess.Popen], limit_s: float = 100.0) -> None:
    """Until both are in their loop; AssertionError with their words when one has ended."""
    end = time.monotonic() + limit_s
    paths = [folder / STARTED.format(index) for index in range(PROCESSES)]
    while not all(path.exists() for path in paths):
        words = "\n".join((folder / f"log_{index}").read_text()[-2000:] for index in range(PROCESSES))
        assert time.monotonic() < end and all(process.poll() is None for process in started), words
        time.sleep(0.02)
    for path in paths:
        path.unlink()


class Numbers:
    """Batch n is the number n, a row for each process."""

    datasets = [SimpleNamespace(reader=SimpleNamespace(directory="data"))]

    def rows(self, step):
        return []

    def iterate(self, start, *, stop_step, threads):
        import jax
        import numpy as np

        from clamp_jax.structs import Batch, StateExample

        for number in range(start, stop_step):
            states = StateExample(**dict.fromkeys(StateExample._fields) | {"joints": np.full((1, 14), number, np.float32)})
            yield Batch(states, None, jax.random.split(jax.random.key(0), 1))


def one_process(index: int, port: int, folder: Path, steps: int) -> None:
    """Train, taking up what is in the folder; leaves with 75 after SIGTERM."""
    from clamp_jax import processes

    processes.start(f"localhost:{port}", PROCESSES, index, timeout_s=60)
    import jax
    import jax.numpy as jnp
    from ml_collections import ConfigDict

    from clamp_jax import checkpoint, parallel
    from clamp_jax.structs import TrainState
    from experiments import training
    from experiments.stopping import Signals

    on = parallel.mesh()
    params = {"policy": {"w": jnp.zeros(3)}}
    first = TrainState(jnp.int32(0), params, (), params)

    @jax.jit
    def product(state, batch):
        loss = jnp.mean(batch.states.joints) + 1
        new = {"policy": {"w": state.params["policy"]["w"] * 0.5 + loss}}
        return TrainState(state.step + 1, new, (), new), {"loss": loss, "gradient_norm": loss}

    def step(state, batch):
        (folder / STARTED.format(index)).touch()
        time.sleep(STEP_S)
        return product(state, batch)

    train = ConfigDict({"save_every": SAVE_EVERY, "log_every": 1, "spike_factor": 0.0, "spike_window": 20})
    workdir = folder / "run"
    workdir.mkdir(exist_ok=True)
    with Signals() as signals, checkpoint.Checkpoints(workdir) as store:
        state = training.begin_or_resume(store, lambda: first, jax.eval_shape(lambda: first), statistics={}, on=on)
        training.loop(
            step,
            state,
            batches=Numbers(),
            on=on,
            train=train,
            threads=1,
            stop_at=steps,
            log=training.Log(workdir, first=int(state.step), of=steps, batch=2, tell=lambda progress: None),
            watch=training.make_watch(workdir, Numbers(), train),
            signals=signals,
            store=store,
            save=lambda state: store.save(state, {}, {}),
        )


if __name__ == "__main__":
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: it does not outlive the test that started it
    one_process(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]))
