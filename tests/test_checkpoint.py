"""Checkpoints: what was saved comes back bit for bit, what is damaged or foreign is refused by name."""

import errno
import gc
import os
import re
import resource
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from clamp_jax import checkpoint, manifest
from clamp_jax.structs import TrainState

CONFIG = {"model": {"preset": "debug"}, "sizes": [1, 2]}
STATISTICS = {"low": [-1.0, 0.25], "count": 7}


def make_state(step: int = 1, width: int = 4) -> TrainState:
    key = jax.random.key(step)
    params = {"clamp": {"w": jax.random.normal(key, (3, width))}, "policy": {"b": jnp.float32(step)}}
    optimiser = optax.chain(optax.clip_by_global_norm(1.0), optax.masked(optax.adamw(1e-3), {"clamp": False, "policy": True}))
    return TrainState(jnp.int32(step), params, optimiser.init(params), jax.tree.map(lambda x: x / 3, params))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    run = tmp_path_factory.mktemp("run")
    with checkpoint.Checkpoints(run, keep_last=2) as store:
        for step in (1, 2, 3):
            store.save(make_state(step), CONFIG, STATISTICS)
    return run


@pytest.fixture
def copy(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "run")


def assert_same(one, two):
    assert jax.tree.structure(one) == jax.tree.structure(two)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def test_state_config_and_statistics_come_back(saved):
    with checkpoint.Checkpoints(saved) as store:
        assert store.latest() == 3
        assert_same(store.restore(make_state(0), statistics=STATISTICS), make_state(3))
        assert_same(store.restore(jax.eval_shape(make_state, 1), step=2), make_state(2))
    loaded = checkpoint.load_params(saved)
    assert (loaded.config, loaded.statistics, loaded.step) == (CONFIG, STATISTICS, 3)
    assert_same(jax.tree.map(jnp.asarray, loaded.params), make_state(3).ema)
    assert_same(checkpoint.part(loaded, "policy"), {"b": np.float32(1.0)})


def test_old_steps_are_dropped_and_a_step_is_never_saved_twice(saved):
    assert sorted(path.name for path in checkpoint.folder(saved).iterdir()) == ["2", "3"]
    with checkpoint.Checkpoints(saved) as store, pytest.raises(checkpoint.CheckpointError, match="already holds step 3"):
        store.save(make_state(3), CONFIG, STATISTICS)


def test_a_restored_state_lies_where_the_model_asks_for_it(saved):
    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    with checkpoint.Checkpoints(saved) as store:
        state = store.restore(jax.device_put(make_state(), sharding))
    assert {leaf.sharding for leaf in jax.tree.leaves(state)} == {sharding}


@pytest.mark.parametrize("damage", ["flip", "truncate", "delete", "add"])
def test_every_damaged_file_is_named(copy, damage):
    step = checkpoint.folder(copy) / "3"
    names = [name for name in json_files(step)] if damage != "add" else ["ema_policy/d/more"]
    for name in names:
        path = step / name
        before = path.read_bytes() if path.exists() else None
        if damage == "delete":
            path.unlink()
        else:
            path.write_bytes({"flip": flip(before), "truncate": (before or b"")[:-1], "add": b"x"}[damage])
        with pytest.raises(checkpoint.CheckpointError, match=path.name):
            checkpoint.load_params(copy)
        with checkpoint.Checkpoints(copy) as store, pytest.raises(checkpoint.CheckpointError, match=path.name):
            store.restore(make_state())
        path.unlink() if before is None else path.write_bytes(before)
    checkpoint.load_params(copy)


def json_files(step):
    """A few files of every kind: arrays, structure, documents, the manifest itself."""
    arrays = sorted((step / "state" / "d").iterdir()) + sorted((step / "ema_clamp" / "d").iterdir())
    return [path.relative_to(step).as_posix() for path in arrays] + [
        "ema_policy/_METADATA", "config/metadata", "statistics/metadata", checkpoint.MANIFEST]  # fmt: skip


def flip(data: bytes | None) -> bytes:
    if not data:
        return b""
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


def test_another_model_is_refused_by_the_name_of_the_leaf(saved):
    with checkpoint.Checkpoints(saved) as store:
        with pytest.raises(checkpoint.CheckpointError, match=r"clamp\.w: checkpoint has float32\(3, 4\), the model float32\(3, 5\)"):
            store.restore(make_state(width=5))
        half = make_state()._replace(ema={"clamp": {"w": jnp.zeros((3, 4), jnp.bfloat16)}, "policy": {"b": jnp.float32(0)}})
        with pytest.raises(checkpoint.CheckpointError, match=r"ema of step 3.*clamp\.w.*bfloat16"):
            store.restore(half)
        fewer = make_state()._replace(params={"policy": {"b": jnp.float32(0)}})
        with pytest.raises(checkpoint.CheckpointError, match=r"params\.clamp\.w: checkpoint has float32\(3, 4\), the model nothing"):
            store.restore(fewer)


def test_statistics_of_other_data_are_refused(saved, copy):
    with checkpoint.Checkpoints(saved) as store, pytest.raises(checkpoint.CheckpointError, match="do not belong to the weights"):
        store.restore(make_state(), statistics=STATISTICS | {"count": 8})
    with checkpoint.Checkpoints(saved) as store, pytest.raises(checkpoint.CheckpointError, match=r"low\.1 was 0.25, is 0.5"):
        store.restore(make_state(), statistics=STATISTICS | {"low": [-1.0, 0.5]})
    document = checkpoint.folder(copy) / "3" / "statistics" / "metadata"
    document.write_text(document.read_text().replace("0.25", "0.26"))
    with pytest.raises(checkpoint.CheckpointError, match="statistics/metadata has sha256"):
        checkpoint.load_params(copy)


def test_a_run_that_is_older_than_a_field_of_the_statistics_goes_on_and_one_that_has_it_keeps_it(saved):
    with checkpoint.Checkpoints(saved) as store:
        assert_same(store.restore(make_state(0), statistics=STATISTICS | {"calibrations": ["a"]}), make_state(3))
    with pytest.raises(checkpoint.CheckpointError, match=r"calibrations\.0 was b, is a"):
        checkpoint.check_statistics(STATISTICS | {"calibrations": ["b"]}, STATISTICS | {"calibrations": ["a"]})


def test_what_a_killed_process_leaves_is_cleaned(copy):
    where = checkpoint.folder(copy)
    (where / "4.orbax-checkpoint-tmp" / "state").mkdir(parents=True)
    (where / "9").mkdir()
    assert checkpoint.load_params(copy).step == 3
    with checkpoint.Checkpoints(copy) as store:
        assert store.latest() == 3
        assert sorted(path.name for path in where.iterdir()) == ["2", "3"]
        store.save(make_state(4), CONFIG, STATISTICS)
    assert checkpoint.load_params(copy).step == 4


def test_a_run_without_checkpoints_is_named(tmp_path):
    with pytest.raises(checkpoint.CheckpointError, match="no checkpoint in .*train first"):
        checkpoint.load_params(tmp_path)


@pytest.fixture
def held(monkeypatch):
    """Saves whose manifest waits until it is let go: what is in between happens while a checkpoint is being written."""
    let_go, write = threading.Event(), manifest.write

    def wait_and_write(step_folder):
        assert let_go.wait(60)
        write(step_folder)

    monkeypatch.setattr(manifest, "write", wait_and_write)
    return let_go


def test_training_goes_on_while_a_checkpoint_is_written_and_does_not_change_it(tmp_path, held):
    """The state is donated to the next steps; what is saved are the values of the step that was saved."""
    step = jax.jit(lambda state: jax.tree.map(lambda x: x + 1, state), donate_argnums=0)
    state = make_state(1, width=1000)
    expected = jax.tree.map(lambda x: np.array(x, copy=True), state)
    with checkpoint.Checkpoints(tmp_path) as store:
        store.save(state, CONFIG, STATISTICS)
        for _ in range(5):
            state = jax.block_until_ready(step(state))
            store.check()
        assert store.latest() is None and int(state.step) == 6
        held.set()
        store.wait()
        assert store.latest() == 1
        assert_same(store.restore(make_state(0, width=1000)), expected)


def test_a_second_save_waits_for_the_first(tmp_path, held):
    threading.Timer(0.2, held.set).start()
    with checkpoint.Checkpoints(tmp_path, keep_last=5) as store:
        store.save(make_state(1), CONFIG, STATISTICS)
        assert store.latest() is None
        store.save(make_state(2), CONFIG, STATISTICS)
        assert store.latest() == 1
    assert checkpoint.load_params(tmp_path).step == 2


def test_every_multiple_is_kept_beside_the_last(tmp_path):
    with checkpoint.Checkpoints(tmp_path, keep_last=1, keep_every=3) as store:
        for step in range(1, 9):
            store.save(make_state(step), CONFIG, STATISTICS)
    assert sorted(int(path.name) for path in checkpoint.folder(tmp_path).iterdir()) == [3, 6, 8]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_state_that_is_not_finite_is_never_saved(tmp_path, bad):
    good = make_state(2)
    with checkpoint.Checkpoints(tmp_path) as store:
        store.save(make_state(1), CONFIG, STATISTICS)
        for state in (
            good._replace(params={"clamp": {"w": good.params["clamp"]["w"].at[1, 2].set(bad)}, "policy": {"b": jnp.float32(2)}}),
            good._replace(ema={"clamp": {"w": good.params["clamp"]["w"].at[1, 2].set(bad)}, "policy": {"b": jnp.float32(2)}}),
        ):
            with pytest.raises(checkpoint.CheckpointError, match=r"step 2 is not saved: (params|ema)\.clamp\.w not finite"):
                store.save(state, CONFIG, STATISTICS)
        assert store.latest() == 1
        store.save(good, CONFIG, STATISTICS)
    assert checkpoint.load_params(tmp_path).step == 2


def test_one_network_is_read_and_nothing_else(copy):
    step = checkpoint.folder(copy) / "3"
    for other in ("state", "ema_policy"):
        shutil.rmtree(step / other)
    loaded = checkpoint.load_params(copy, networks=("clamp",))
    assert_same(jax.tree.map(jnp.asarray, loaded.params), {"clamp": make_state(3).ema["clamp"]})
    assert (loaded.config, loaded.statistics) == (CONFIG, STATISTICS)
    with pytest.raises(checkpoint.CheckpointError, match=r"has no network 'policy'; it has \['clamp'\]"):
        checkpoint.load_params(copy, networks=("policy",))
    with pytest.raises(checkpoint.CheckpointError, match="ema_policy.* is missing"):
        checkpoint.load_params(copy)
    array = sorted((step / "ema_clamp" / "d").iterdir())[0]
    array.write_bytes(flip(array.read_bytes()))
    with pytest.raises(checkpoint.CheckpointError, match=array.name):
        checkpoint.load_params(copy, networks=("clamp",))


def test_checkpoints_with_all_averages_in_one_item_are_read(tmp_path):
    """As they were written before each network had its own."""
    step, state = checkpoint.folder(tmp_path) / "3", make_state(3)
    step.mkdir(parents=True)
    handler = checkpoint.ocp.StandardCheckpointer()
    handler.save(step / "ema", state.ema)
    handler.save(step / "state", {"step": state.step, "params": state.params, "opt_state": state.opt_state})
    handler.wait_until_finished()
    for name, document in (("config", CONFIG), ("statistics", STATISTICS)):
        (step / name).mkdir()
        (step / name / "metadata").write_text(checkpoint.json.dumps(document))
    manifest.write(step)
    assert_same(jax.tree.map(jnp.asarray, checkpoint.load_params(tmp_path).params), state.ema)
    assert set(checkpoint.load_params(tmp_path, networks=("policy",)).params) == {"policy"}
    with checkpoint.Checkpoints(tmp_path) as store:
        assert_same(store.restore(make_state(0), statistics=STATISTICS), state)


def test_without_verifying_bytes_go_unseen_and_another_model_does_not(copy):
    documents = checkpoint.folder(copy) / "3" / "config" / "metadata"
    documents.write_text(documents.read_text().replace("debug", "demos"))
    with pytest.raises(checkpoint.CheckpointError, match="config/metadata has sha256"):
        checkpoint.load_params(copy)
    assert checkpoint.load_params(copy, verified=False).config["model"]["preset"] == "demos"
    with checkpoint.Checkpoints(copy, verified=False) as store:
        assert_same(store.restore(make_state(0)), make_state(3))
        with pytest.raises(checkpoint.CheckpointError, match=r"clamp\.w: checkpoint has"):
            store.restore(make_state(width=5))
        with pytest.raises(checkpoint.CheckpointError, match="do not belong"):
            store.restore(make_state(0), statistics=STATISTICS | {"count": 8})


def on_devices(count: int):
    mesh = jax.make_mesh((count,), ("data",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:count])
    return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())


@pytest.mark.parametrize("count", [1, 2])
def test_a_state_of_four_devices_is_restored_on_fewer(tmp_path, count):
    with checkpoint.Checkpoints(tmp_path) as store:
        store.save(jax.device_put(make_state(3), on_devices(4)), CONFIG, STATISTICS)
        store.wait()
        restored = store.restore(jax.device_put(make_state(0), on_devices(count)))
    assert_same(restored, make_state(3))
    assert {leaf.sharding for leaf in jax.tree.leaves(restored)} == {on_devices(count)}


def test_a_process_with_one_device_restores_what_four_have_saved(tmp_path):
    """The devices that the checkpoint was written on do not exist there."""
    with checkpoint.Checkpoints(tmp_path) as store:
        store.save(jax.device_put(make_state(3), on_devices(4)), CONFIG, STATISTICS)
    code = """
import sys, jax, numpy as np
from test_checkpoint import assert_same, make_state
from clamp_jax import checkpoint
assert jax.device_count() == 1
with checkpoint.Checkpoints(sys.argv[1]) as store:
    assert_same(store.restore(make_state(0)), make_state(3))
print(checkpoint.load_params(sys.argv[1]).step)
"""
    path = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1])])
    environment = os.environ | {"XLA_FLAGS": "", "JAX_PLATFORMS": "cpu", "PYTHONPATH": path}
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], env=environment, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["3"]


def files(run) -> dict[str, bytes]:
    return {str(path.relative_to(run)): path.read_bytes() for path in sorted(run.rglob("*")) if path.is_file()}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # tensorstore answers a loop that orbax has closed
def test_a_disk_that_is_full_is_said_and_the_checkpoint_before_is_whole(tmp_path):
    """A limit of the operating system: tensorstore's writes fail in the background."""
    with checkpoint.Checkpoints(tmp_path) as store:
        store.save(make_state(1, width=4000), CONFIG, STATISTICS)
    before = files(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    message = r"checkpoint of step 2 could not be written .*; step 1 is the last that is there, and whole: make room"
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, hard))
    try:
        with pytest.raises(checkpoint.CheckpointError, match=message), checkpoint.Checkpoints(tmp_path) as store:
            store.save(make_state(2, width=4000), CONFIG, STATISTICS)
            store.wait()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert files(tmp_path) == before
    with checkpoint.Checkpoints(tmp_path) as store:
        assert_same(store.restore(make_state(0, width=4000)), make_state(1, width=4000))
        store.save(make_state(2, width=4000), CONFIG, STATISTICS)
    assert checkpoint.load_params(tmp_path).step == 2


@pytest.mark.parametrize("moment", ["check", "save", "exit"])
def test_the_error_of_a_save_in_the_background_surfaces(tmp_path, monkeypatch, moment):
    def full(step_folder):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with checkpoint.Checkpoints(tmp_path) as store:
        store.save(make_state(1), CONFIG, STATISTICS)
    monkeypatch.setattr(manifest, "write", full)
    expected = pytest.raises(checkpoint.CheckpointError, match=f"step 2 could not .*{re.escape(os.strerror(errno.ENOSPC))}.*step 1 is the")
    with expected, checkpoint.Checkpoints(tmp_path) as store:
        store.save(make_state(2), CONFIG, STATISTICS)
        if moment == "save":
            store.save(make_state(3), CONFIG, STATISTICS)
        while moment == "check":
            store.check()
    assert [path.name for path in checkpoint.folder(tmp_path).iterdir()] == ["1"]
    assert checkpoint.load_params(tmp_path).step == 1


def test_the_two_files_that_orbax_writes_last_are_read_by_nothing(copy):
    for name in manifest.AFTER_COMMIT:
        (checkpoint.folder(copy) / "3" / name).write_bytes(b"{]")
    assert checkpoint.load_params(copy).step == 3
    with checkpoint.Checkpoints(copy) as store:
        assert_same(store.restore(make_state(0)), make_state(3))
        store.save(make_state(4), CONFIG, STATISTICS)
    assert checkpoint.load_params(copy).step == 4


def test_a_save_leaves_no_objects_behind(tmp_path):
    """orbax's monitoring left 72 lists a save. What other tests' threads make meanwhile comes once; a leak comes every time."""
    counts = []
    with checkpoint.Checkpoints(tmp_path) as store:
        for step in range(1, 49):
            store.save(make_state(step), CONFIG, STATISTICS)
            store.wait()
            if step % 12 == 0:
                gc.collect()
                counts.append(len(gc.get_objects()))
    assert np.diff(counts).min() < 12 * 20
