"""Ten steps of training in several processes on one machine: `run` starts them, python tests/pods.py INDEX PORT FOLDER is one of them."""

import contextlib
import ctypes
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]
PROCESSES, DEVICES = 2, 2  # devices of each process
STEPS = 10
LIMIT_S = 280  # 40 s on two idle cores; one process may have to wait for the other's compilation


class Trained(NamedTuple):
    """What a training came to, in numpy."""

    figures: list[dict[str, float]]  # a step
    gradient: Any  # of the first step
    update: Any  # of the parameters, over all steps
    records: list[list[tuple]]  # (slot, data set, episode, frame) of this process's rows, a step


def run(folder: Path, state: Any) -> list[Trained]:
    """Train from a state on the data in a folder in PROCESSES processes; none of them is left behind, whatever happens."""
    (folder / "state.pickle").write_bytes(pickle.dumps(state))
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    paths = [folder / f"trained_{index}" for index in range(PROCESSES)]
    logs = [path.with_suffix(".log").open("w") for path in paths]
    started = [_start(index, port, folder, log) for index, log in enumerate(logs)]
    try:
        _wait(started)
    finally:
        for process in started:
            process.kill()
            process.wait()
        for log in logs:
            log.close()
    told = "\n".join(path.with_suffix(".log").read_text()[-2000:] for path in paths)
    assert [process.returncode for process in started] == [0] * PROCESSES, told
    return [Trained(*pickle.loads(path.read_bytes())) for path in paths]


def _start(index: int, port: int, folder: Path, log: Any) -> subprocess.Popen:
    import jax

    flags = f"--xla_force_host_platform_device_count={DEVICES}"
    environ = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    environ["JAX_COMPILATION_CACHE_DIR"] = jax.config.jax_compilation_cache_dir
    command = [sys.executable, "tests/pods.py", str(index), str(port), str(folder)]
    return subprocess.Popen(command, cwd=ROOT, env=environ, stdout=log, stderr=subprocess.STDOUT)


def _wait(started: list[subprocess.Popen]) -> None:
    """Until all are done, one has failed, or it takes too long."""
    end = time.monotonic() + LIMIT_S
    while time.monotonic() < end:
        codes = [process.poll() for process in started]
        if None not in codes or any(codes):
            return
        time.sleep(0.1)


def make_spec():
    import tiny

    return tiny.spec(clamp=0.01, policy=0.1)


def train(step: Any, batches: Any, state: Any, count: int = STEPS) -> Trained:
    """So many steps from a state."""
    import jax
    import numpy as np
    import tiny

    before, figures, gradient = jax.device_get(state.params), [], None
    for number in range(count):
        state, found = step(state, batches.batch_at(number))
        figures.append({name: float(value) for name, value in jax.device_get(found).items()})
        gradient = jax.device_get(tiny.gradient(state)) if number == 0 else gradient
    update = jax.tree.map(np.subtract, jax.device_get(state.params), before)
    return Trained(figures, gradient, update, [own_records(batches, number) for number in range(count)])


def own_records(batches: Any, step: int) -> list[tuple]:
    """The rows of a step that this process reads."""
    rows = batches.rows(step)
    return [tuple(row) for kind in ("state", "image") for row in batches._own(rows, kind)]


def one_process(index: int, port: int, folder: Path) -> None:
    """What a process of the run does; the tests of what several processes are refused stand here too."""
    from clamp_jax import checkpoint, parallel, processes, steps

    processes.start(f"localhost:{port}", PROCESSES, index, timeout_s=60)
    import jax
    import numpy as np
    import tiny

    jax.config.update("jax_persistent_cache_min_compile_time_secs", 1.0)
    assert processes.rank() == (index, PROCESSES) and jax.device_count() == PROCESSES * DEVICES
    spec, on = make_spec(), parallel.mesh()
    batches = tiny.make_batches(folder, spec)
    mapped = parallel.map_step(lambda *args: steps.pretrain_step(spec, *args), on, compiler_options=tiny.FAST)
    state = parallel.replicate(pickle.loads((folder / "state.pickle").read_bytes()), on)
    last = []

    def step(state: Any, batch: Any) -> tuple:
        with jax.transfer_guard("disallow"):
            last[:] = mapped(state, parallel.shard(batch, on))
        return tuple(last)

    check_refusals(on, batches, index)
    trained = train(step, batches, state)
    with checkpoint.Checkpoints(folder / "run") as store:
        store.save(last[0], {}, {})
    with checkpoint.Checkpoints(folder / "run") as store:
        again = store.restore(parallel.replicate_shapes(last[0], on))
    same = jax.tree.map(lambda a, b: np.array_equal(jax.device_get(a), jax.device_get(b)), last[0], again)
    assert all(jax.tree.leaves(same))
    (folder / f"trained_{index}").write_bytes(pickle.dumps(tuple(trained)))


def check_refusals(on: Any, batches: Any, index: int) -> None:
    """Bad input in several processes is refused in words."""
    import jax
    import numpy as np

    from clamp_jax import parallel, processes

    processes.check_alike({"a": 1}, "the config")
    with _refused(f"the config of process {index} is not that of [{1 - index}]"):
        processes.check_alike({"seed": index}, "the config")
    with _refused("mapping 'pmap' is for one process"):
        parallel.map_step(lambda *args: args, on, mapping="pmap")
    with _refused("the processes have [1, 2] devices"):
        parallel.mesh([device for device in jax.devices() if device.id != jax.devices()[0].id])
    batch = batches.batch_at(0)
    odd = batch._replace(images=None, states=jax.tree.map(lambda x: x[:3], batch.states), keys=np.zeros(3))
    with _refused("a batch of 6 simulated examples does not divide by 4 devices; make it 4 or 8"):
        parallel.check_divisible(odd, on)


@contextlib.contextmanager
def _refused(message: str) -> Any:
    try:
        yield
    except ValueError as error:
        assert message in str(error), error
    else:
        raise AssertionError(f"not refused: {message}")


if __name__ == "__main__":
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: it does not outlive the test that started it
    one_process(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
