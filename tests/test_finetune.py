"""Stage (ii) through its own entry point: where its weights come from, what stays frozen, what is refused."""

import jax
import numpy as np
import pytest
import synthetic
import tiny

from clamp_jax import checkpoint
from experiments import finetune, pretrain, training


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return synthetic.write(tmp_path_factory.mktemp("data") / "image", 6, kind="image")


def silent(progress):
    pass


@pytest.fixture(scope="module")
def stage_one(data, tmp_path_factory):
    """A stage (i) run of the variant without encoders."""
    workdir = tmp_path_factory.mktemp("run") / "one"
    pretrain.run(tiny.config("pretrain", data, variant="policy_pretrained"), workdir, tell=silent)
    return workdir


def run(data, workdir, stage_one, *, stop_at=None, **changes):
    config = tiny.config("finetune", data, init_from=str(stage_one), **changes)
    return jax.device_get(finetune.run(config, workdir, stop_at=stop_at, tell=silent))


def test_the_policy_begins_with_stage_ones_average_and_resumes(data, stage_one, tmp_path):
    straight = run(data, tmp_path / "straight", stage_one, variant="policy_pretrained")
    run(data, tmp_path / "cut", stage_one, stop_at=2, variant="policy_pretrained")
    resumed = run(data, tmp_path / "cut", stage_one, variant="policy_pretrained")
    for a, b in zip(jax.tree.leaves(straight), jax.tree.leaves(resumed), strict=True):
        np.testing.assert_array_equal(a, b)
    begun = checkpoint.load_params(stage_one).params
    distance = tiny.relative(begun, straight.params)
    fresh = checkpoint.load_params(stage_one, step=2).params
    assert 0 < distance < 0.1
    assert set(straight.params) == set(fresh) == {"policy"}


def test_frozen_encoders_come_from_stage_one_untouched(tmp_path):
    spec = tiny.spec("finetune")
    batch = tiny.make_batches(tmp_path, spec).batch_at(0)
    shapes = training.state_shapes(spec, batch).params
    given = jax.tree.map(lambda x: np.random.default_rng(0).normal(size=x.shape).astype(x.dtype), shapes)
    state = training.fresh_state(spec, 0, batch, given)
    assert tiny.relative(given, state.params) == tiny.relative(given, state.ema) == 0
    assert set(tiny.gradient(state)) == {"policy"}
    fresh = training.fresh_state(spec, 0, batch, {"clamp": given["clamp"]})
    assert tiny.relative(given["clamp"], fresh.params["clamp"]) == 0
    assert tiny.relative(given["policy"], fresh.params["policy"]) > 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"variant": "scratch"}, "variant 'scratch' begins with fresh weights; leave config.init_from empty"),
        ({"variant": "clamp"}, "was pre-trained otherwise; variant: was 'policy_pretrained', is 'clamp'"),
        ({"variant": "policy_pretrained", "init_from": ""}, "begins with a stage \\(i\\) run; name its folder"),
        ({"variant": "policy_pretrained", "init_from": "/nowhere"}, "no checkpoint in /nowhere"),
        ({"variant": "policy_pretrained", "views.radius_px": 1}, "views.radius_px: was 0, is 1"),
    ],
)
def test_bad_input_is_refused_and_leaves_nothing(data, stage_one, tmp_path, changes, message):
    config = tiny.config("finetune", data, init_from=str(stage_one))
    config.update_from_flattened_dict(changes)
    with pytest.raises(ValueError, match=message):
        finetune.run(config, tmp_path / "run", tell=silent)
    assert not (tmp_path / "run").exists()


def test_a_damaged_stage_one_is_refused(data, stage_one, tmp_path):
    path = checkpoint.folder(stage_one) / "4" / "statistics" / "metadata"
    text = path.read_text()
    path.write_text(text.replace("1", "2", 1))
    with pytest.raises(ValueError, match="statistics/metadata has sha256"):
        run(data, tmp_path / "run", stage_one, variant="policy_pretrained")
    path.write_text(text)
    assert not (tmp_path / "run").exists()
