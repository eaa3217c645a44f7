"""Evaluation: the same start for every policy, sensors that do not depend on padding, films, retrieval figures."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clamp_jax import observe
from clamp_jax.data.transforms import SIZES, pad_geoms, pad_qpos, pad_tree
from clamp_jax.geometry import kinematics
from clamp_jax.sim import rollout, scene, tasks
from clamp_jax.structs import CHUNK, HISTORY, SceneState
from experiments import evaluate, pictures, retrieve

TASK = "drawer_close"


@pytest.fixture(scope="module")
def sensor():
    return observe.clean(12)


def waving(observation, keys):
    """Moves the waist by an amount that depends on what is seen and on the trial's key."""
    seen = jnp.mean(observation.rgb.astype(jnp.float32), axis=(1, 2, 3, 4)) / 255
    drawn = jax.vmap(lambda key: jax.random.uniform(key))(keys)
    turn = 0.2 * seen + 0.05 * drawn
    return jnp.asarray(rollout.HOME_ACTION)[None, None] + jnp.zeros((len(keys), CHUNK, 14)).at[:, :, 0].set(turn[:, None])


def test_every_policy_meets_the_same_trials(sensor):
    settings = evaluate.Settings(TASK, trials=2, backend="native", replan=10, limit_s=0.2)
    candidates = {name: evaluate.Candidate(policy, sensor) for name, policy in (("a", waving), ("b", rollout.hold_still), ("c", waving))}
    told = []
    found = evaluate.run_all(candidates, settings, lambda name, done, of: told.append((name, done, of)))
    np.testing.assert_array_equal(found["a"].qpos[:, 0], found["b"].qpos[:, 0])
    np.testing.assert_array_equal(found["a"].qpos, found["c"].qpos)
    assert np.abs(found["a"].qpos[:, -1, 0]).min() > 0.01 > np.abs(found["b"].qpos[:, -1, 0]).max()
    assert told[0] == ("a", 0, 10) and told[-1] == ("c", 10, 10)
    summary = evaluate.summarise(found)["b"]
    assert (summary["successes"], summary["trials"]) == (0, 2) and summary["low"] == 0 and 0.6 < summary["high"] < 0.7


def test_sensors_do_not_depend_on_how_a_scene_is_padded(sensor):
    built, start = scene.build(TASK), rollout.initial_states(tasks.get(TASK), 1, 0)
    keys = jax.random.split(jax.random.key(0), 1)
    rest = (np.zeros((1, HISTORY, 14), np.float32), np.zeros((1, HISTORY), bool), keys, keys)
    calibration = kinematics.aloha_calibration(sensor.height, sensor.width)
    tight = evaluate.make_sense(TASK, sensor)(start.qpos[:, None], *rest)
    tree, geoms = pad_tree(built.tree, SIZES.bodies), pad_geoms(built.geom_types, built.geoms, SIZES.geoms)
    padded = SceneState(pad_qpos(np.zeros(built.model.nq), SIZES.qpos), tree, geoms)
    wide = rollout.make_sense(jax.tree.map(jnp.asarray, padded), calibration, sensor)(start.qpos[:, None], *rest)
    np.testing.assert_allclose(tight.depth_m, wide.depth_m, atol=1e-4)  # the slot stands in the low bits of a depth
    assert np.mean(np.asarray(tight.rgb) != np.asarray(wide.rgb)) < 0.01
    np.testing.assert_array_equal(tight.joints, wide.joints)
    assert (np.asarray(tight.depth_m) > 0).mean() > 0.3


def test_evaluation_fixes_the_looks_and_keeps_the_sensors_noise():
    noisy = observe.noisy(16)
    fixed = evaluate.fixed_looks(noisy)
    assert (fixed.colour_jitter, fixed.light_jitter, fixed.camera_jitter_m, fixed.camera_jitter_rad) == (0, 0, 0, 0)
    assert (fixed.depth_noise_m, fixed.dropout) == (noisy.depth_noise_m, noisy.dropout)
    late = observe.preset("upstream", 16)
    assert evaluate.fixed_looks(late) == late


def test_a_named_preset_takes_the_place_of_the_policys_sensors_at_its_size():
    own = observe.noisy()._replace(height=12, width=16)
    assert evaluate.with_preset(own, None) == own
    assert evaluate.with_preset(own, "d405") == observe.preset("d405")._replace(height=12, width=16)
    assert evaluate.parse(["--task", TASK]).sensors is None and evaluate.parse(["--task", TASK, "--sensors", "clean"]).sensors == "clean"


def result(success, steps, length=10):
    qpos = np.tile(np.asarray(rollout.initial_states(tasks.get(TASK), len(success), 0).qpos)[:, None], (1, length + 1, 1))
    return rollout.Rollout(np.array(success), np.array(steps), qpos, np.zeros((len(success), length, 14)))


def test_a_film_turns_green_when_a_trial_succeeds(monkeypatch):
    monkeypatch.setattr(evaluate, "FILM_CELL", (12, 16))
    frames = list(evaluate.film_frames(result([True, False], [4, 10]), scene.build(TASK), 2))
    assert len(frames) == 6 + evaluate.FILM_RATE
    first = [tuple(frame[0, 0]) for frame in frames[:6]]
    assert first == [evaluate.GREY, evaluate.GREY] + [evaluate.GREEN] * 4
    assert all(tuple(frame[0, 16]) == evaluate.GREY for frame in frames)
    assert np.ptp(frames[0][4:8, 4:12].astype(int)) > 20, "there is something to see"


def test_a_film_is_read_back(tmp_path):
    av = pytest.importorskip("av", reason="films need PyAV, the extra viz")
    images = [np.full((32, 48, 3), value, np.uint8) for value in (40, 120, 200)]
    assert pictures.film(iter(images), tmp_path / "a.mp4", 25) is None
    with av.open(str(tmp_path / "a.mp4")) as container:
        decoded = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(decoded) == 3
    for image, back in zip(images, decoded, strict=True):
        assert abs(float(back.mean()) - float(image.mean())) < 4
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


def test_without_pyav_there_is_a_line_and_no_film(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    message = pictures.film(iter([]), tmp_path / "a.mp4", 25)
    assert "clamp-jax[viz]" in message and not list(tmp_path.iterdir())


def test_bad_arguments_are_refused(capsys):
    with pytest.raises(ValueError, match="nothing to evaluate"):
        evaluate.named_candidates([], [], None)
    with pytest.raises(ValueError, match="two policies are called 'a'"):
        evaluate.named_candidates(["runs/a"], ["a=ws://127.0.0.1:1"], None)
    with pytest.raises(ValueError, match="policy 'checkpoint' is not known"):
        evaluate.named_candidates([], ["checkpoint"], None)
    assert evaluate.main(["--task", TASK, "--checkpoint", "/nowhere/run"]) == 1
    assert "/nowhere/run" in capsys.readouterr().err
    assert evaluate.main(["--task", "drawer_clos", "--policy", "hold_still", "--backend", "native"]) == 1
    assert "did you mean 'drawer_close'" in capsys.readouterr().err


def test_every_pair_is_compared_on_its_trials():
    found = {name: result(success, [10] * 4) for name, success in (("a", [1, 1, 1, 0]), ("b", [0, 0, 1, 0]), ("c", [0, 0, 0, 1]))}
    pairs = evaluate.compare({name: one._replace(success=one.success.astype(bool)) for name, one in found.items()})
    assert [(pair["first"], pair["second"]) for pair in pairs] == [("a", "b"), ("a", "c"), ("b", "c")]
    assert [(pair["first_only"], pair["second_only"]) for pair in pairs] == [(2, 0), (3, 1), (1, 1)]
    assert [pair["p_value"] for pair in pairs] == pytest.approx([0.5, 0.625, 1.0])


def test_retrieval_figures_of_known_embeddings():
    rng = np.random.default_rng(0)
    own = np.eye(6, 8) * rng.uniform(0.5, 2, (6, 1))
    true = {"image": own, "text": 3 * own, "action": np.ones((6, 8))}
    found = retrieve.pool_accuracy(true, true | {"text": np.roll(own, 1, axis=0)})
    assert found["image_text"] == {"top1": 1.0, "top1_permuted": 0.0}
    assert found["image_action"]["top1"] == found["image_action"]["top1_permuted"]
