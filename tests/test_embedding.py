"""Embeddings that are kept: the same step with and without them, made once, under the hash of weights and records."""

import jax
import numpy as np
import pytest
import synthetic
import tiny

from clamp_jax import parallel, steps
from clamp_jax.data import pipeline
from clamp_jax.data.embeddings import Store
from clamp_jax.data.folders import Reader, Writer
from experiments import embedding, finetune, pretrain, training
from experiments.configs import shared


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Spec, batches of recorded examples, a state, and the batches that carry embeddings."""
    root = tmp_path_factory.mktemp("made")
    spec = tiny.spec("finetune")
    folder = synthetic.write(root / "image", 6, kind="image")
    batches = training.open_batches(tiny.config("finetune", folder).data, spec.networks, batch=4, seed=0)[0]
    state = tiny.init(spec, batches.batch_at(0))
    said = []
    kept = embedding.keep(root / "kept", spec.networks, state.params["clamp"], batches, tell=said.append)
    return spec, batches, state, kept, root, said


def test_a_step_with_kept_embeddings_is_the_step_that_runs_the_encoders(made):
    spec, batches, state, kept, _, _ = made
    step = jax.jit(lambda *args: steps.finetune_step(spec, *args, parallel.GLOBAL), compiler_options=tiny.FAST)
    with_encoders, one = step(state, batches.batch_at(3))
    without, two = step(state, kept.batch_at(3))
    assert float(one["loss"]) == pytest.approx(float(two["loss"]), rel=1e-6)
    assert tiny.relative(tiny.gradient(with_encoders), tiny.gradient(without)) < 1e-5
    assert tiny.relative(state.params["policy"], without.params["policy"]) > 0


def test_embeddings_are_of_the_frame_they_stand_with(made):
    spec, _, state, kept, _, _ = made
    batch = kept.batch_at(5).images
    assert len({row.tobytes() for row in np.asarray(batch.embedded)}) == 4  # of four trajectories
    seen = steps.see(spec.networks, batch.observation, jax.random.split(jax.random.key(9), 4))
    image, action = steps.embed(spec.networks, state.params, seen)
    np.testing.assert_allclose(batch.embedded, np.stack([image.pooled, action.pooled], 1), atol=1e-5)


def test_the_plan_says_how_much_before_it_begins_and_a_second_time_there_is_nothing_to_do(made):
    spec, batches, state, _, root, said = made
    frames = sum(d.frames(int(e)) for d in batches.datasets for e in d.episodes)
    assert len(said) == 1 and f"embedding 5 episodes, {frames} frames" in said[0] and " h and " in said[0] and "GiB" in said[0]
    embedding.keep(root / "kept", spec.networks, state.params["clamp"], batches, tell=said.append)
    assert len(said) == 1


def test_other_weights_have_other_embeddings(made):
    spec, batches, state, _, root, _ = made
    other = jax.tree.map(lambda x: x * 1.001, state.params["clamp"])
    assert embedding.weights_hash(spec.networks, state.params["clamp"]) != embedding.weights_hash(spec.networks, other)
    views = spec.networks._replace(views=spec.networks.views._replace(radius_px=1))
    assert embedding.weights_hash(spec.networks, other) != embedding.weights_hash(views, other)


def test_a_changed_pixel_has_another_name(tmp_path):
    episode, changed = synthetic.image_episode(3), synthetic.image_episode(3)
    changed.rgb[1, 2, 3, 4, 0] ^= 1
    hashes = []
    for name, one in (("a", episode), ("b", episode), ("c", changed)):
        with Writer(tmp_path / name, task=one.task, kind="image") as writer:
            writer.add(one)
        hashes.append(Reader(tmp_path / name).record_hash(0))
    assert hashes[0] == hashes[1] != hashes[2]


def test_a_damaged_file_is_made_again_and_missing_ones_are_named(made, tmp_path):
    batches = made[1]
    dataset, episode = batches.datasets[0], int(batches.datasets[0].episodes[0])
    store = Store(tmp_path, "w" * 64, 3)
    with pytest.raises(ValueError, match="no embeddings of episode"):
        store(dataset, episode)
    numbers = np.random.default_rng(0).normal(size=(dataset.frames(episode), 2, 3)).astype(np.float32)
    store.write(dataset, episode, numbers)
    np.testing.assert_array_equal(store(dataset, episode), numbers)
    path = store.path(dataset, episode)
    content = bytearray(path.read_bytes())
    content[5] ^= 4
    path.write_bytes(content)
    assert Store(tmp_path, "w" * 64, 3).read(dataset, episode) is None
    path.write_bytes(content[:10])
    assert Store(tmp_path, "w" * 64, 3).read(dataset, episode) is None
    with pytest.raises(ValueError, match="finite: False"):
        store.write(dataset, episode, numbers * np.nan)


def test_where_embeddings_are_of_no_use_they_are_not_kept(made, tmp_path):
    spec, batches, *_ = made
    networks, data = spec.networks, batches.datasets
    assert embedding.choose("auto", tmp_path, networks, data, 1) == tmp_path / "embeddings"
    assert embedding.choose("off", tmp_path, networks, data, 1) is None
    for other, sets, processes, word in (
        (networks._replace(clamp=None), data, 1, "variant"),
        (networks._replace(views=networks.views._replace(points=100)), data, 1, "points"),
        (networks, [pipeline.open_dataset(synthetic.write(tmp_path / "s", 2))], 1, "simulated"),
        (networks, data, 2, "processes"),
    ):
        assert embedding.choose("auto", tmp_path, other, sets, processes) is None
        with pytest.raises(ValueError, match=word):
            embedding.choose("somewhere", tmp_path, other, sets, processes)


def test_some_with_and_some_without_are_refused(made, tmp_path):
    spec, _, _, kept, _, _ = made
    images = kept.batch_at(0)
    states = tiny.make_batches(tmp_path, spec, batch=4, images=False).batch_at(0)
    with pytest.raises(ValueError, match="recorded examples carry embeddings"):
        steps.kept_embeddings(images._replace(states=states.states))


@pytest.mark.slow
def test_fine_tuning_keeps_them_and_gives_the_same_loss(tmp_path):
    data = synthetic.write(tmp_path / "image", 6, kind="image")
    pretrain.run(tiny.config("pretrain", data), tmp_path / "one", tell=lambda progress: None)
    losses = {}
    for mode in ("off", "auto"):
        told = []
        config = tiny.config("finetune", data, init_from=str(tmp_path / "one"))
        finetune.run(config, tmp_path / mode, embeddings=mode, tell=told.append)
        losses[mode] = [progress.metrics["loss"] for progress in told]
    np.testing.assert_allclose(losses["off"], losses["auto"], rtol=1e-4)
    assert len(list((tmp_path / "auto" / "embeddings").rglob("*.f32"))) == 5
    assert not (tmp_path / "off" / "embeddings").exists()
    assert shared.views().points == 0  # the default that lets them be kept
