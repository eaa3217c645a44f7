"""Pictures of the first batch: they are of what the step sees."""

import jax
import numpy as np
import tiny

from clamp_jax import parallel, steps
from experiments import first_batch, pictures, sights


def test_views_and_cameras_are_those_of_the_step(tmp_path, monkeypatch):
    written = {}
    monkeypatch.setattr(pictures, "write_png", lambda path, image: written.setdefault(path.name, image) is None or path)
    spec = tiny.spec()
    batch = tiny.make_batches(tmp_path, spec).batch_at(0)
    few = first_batch.first(batch, 2)
    states = len(batch.states.joints)
    chosen = np.array([0, 1, states, states + 1])
    np.testing.assert_array_equal(jax.random.key_data(few.keys), np.asarray(jax.random.key_data(batch.keys))[chosen])
    first_batch.draw(spec.networks, batch, tmp_path)
    inputs, _ = jax.jit(lambda few: steps.prepare(spec.networks, few, parallel.GLOBAL), compiler_options=tiny.FAST)(few)
    views = pictures.column([sights.view_picture(view, spec.networks.views) for view in np.asarray(inputs.views)])
    assert np.mean(np.abs(written[first_batch.VIEWS].astype(int) - views) > 2) < 0.01  # a pixel may fall on its border otherwise
    cameras, period = written[first_batch.CAMERAS], 2 * tiny.SIZE + 8  # colour, gap, depth, gap
    for row, rgb in enumerate(np.asarray(batch.images.observation.rgb)[:2], start=2):  # the simulated ones stand first
        np.testing.assert_array_equal(cameras[row * period, : tiny.SIZE], (255 * (rgb[0, 0] / 255) ** (1 / 2.2)).astype(np.uint8))


def test_a_policy_without_sight_has_none(tmp_path):
    spec = tiny.spec(variant="blind")
    assert first_batch.draw(spec.networks, None, tmp_path) == []
