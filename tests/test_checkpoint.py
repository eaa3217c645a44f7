"""Checkpoints: what was saved comes back bit for bit, what is damaged or foreign is refused by name."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from clamp_jax import checkpoint
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
    document = checkpoint.folder(copy) / "3" / "statistics" / "metadata"
    document.write_text(document.read_text().replace("0.25", "0.26"))
    with pytest.raises(checkpoint.CheckpointError, match="statistics/metadata has sha256"):
        checkpoint.load_params(copy)


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
