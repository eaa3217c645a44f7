"""Two real processes that train together: one signal stops both after one step, and one death ends both; the run goes on all the same."""

import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import stopping_pods as pods

from clamp_jax import checkpoint
from experiments.stopping import EXIT_CODE

FAR, FEW = 10_000, 12  # steps that a run is stopped before, and that it goes on for


def expected(steps: int) -> np.ndarray:
    """The weights after so many steps of the loop's product, in one process that nothing stops."""
    product = jax.jit(lambda w, loss: w * 0.5 + loss)  # exact products: one rounding, fused or not
    w = jnp.zeros(3)
    for number in range(steps):
        w = product(w, np.float32(number + 1))
    return np.asarray(w)


def words(folder) -> str:
    return "\n".join((folder / f"log_{index}").read_text()[-2000:] for index in range(pods.PROCESSES))


def weights(folder, step=None):
    loaded = checkpoint.load_params(folder / "run", step=step)
    return loaded.step, loaded.params["policy"]["w"]


def go_on(folder):
    """The same command again, until FEW steps later; checks that nothing of the run has changed."""
    step = weights(folder)[0]
    assert pods.codes(pods.start(folder, step + FEW), 100) == [0, 0], words(folder)
    last, found = weights(folder)
    assert last == step + FEW
    np.testing.assert_array_equal(found, expected(last))
    lines = (folder / "run" / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == last


@pytest.mark.timeout(240)
@pytest.mark.parametrize("asked", [(1,), pytest.param((0, 1), marks=pytest.mark.slow)])
def test_sigterm_to_one_or_to_all_stops_both_after_the_same_step_saved_and_the_run_goes_on_to_the_same_bits(tmp_path, asked):
    started = pods.start(tmp_path, FAR)
    pods.wait_begun(tmp_path, started)
    for index in asked:
        started[index].send_signal(signal.SIGTERM)
    assert pods.codes(started, 60) == [EXIT_CODE, EXIT_CODE], words(tmp_path)
    step, found = weights(tmp_path)
    assert 0 < step < FAR and step == len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    np.testing.assert_array_equal(found, expected(step))
    go_on(tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_death_of_one_process_ends_the_other_and_the_run_goes_on_from_its_last_checkpoint(tmp_path):
    started = pods.start(tmp_path, FAR)
    pods.wait_begun(tmp_path, started)
    while not (tmp_path / "run" / "checkpoints" / str(2 * pods.SAVE_EVERY)).exists():
        assert started[0].poll() is None, words(tmp_path)
    started[1].kill()
    first, second = pods.codes(started, 150)
    assert second == -signal.SIGKILL and first not in (0, None), words(tmp_path)
    go_on(tmp_path)
