"""Materialised records: the image of a state is what the sensors make of it, and both kinds give one Observation."""

import jax
import numpy as np
import pytest
import synthetic

from clamp_jax.data.folders import Reader
from clamp_jax.data.pipeline import Batches, ExampleMaker, open_dataset, stack
from clamp_jax.data.records import round_depth
from clamp_jax.geometry.kinematics import aloha_calibration
from clamp_jax.observe import check_observation, clean
from data_tools import materialise

SIZE, EVERY, SEED = 16, 20, 5
# noise and looks on, so that the keys of frames and of episodes count
CONFIG = clean(SIZE)._replace(depth_noise_m=0.004, colour_jitter=0.2, camera_jitter_m=0.01, camera_jitter_rad=0.05)
LATE = CONFIG._replace(image_delay_s=0.3, joint_delay_s=0.1)  # the same program


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("materialise")
    states = synthetic.write(folder / "states", 2, steps=50)
    materialise.materialise_all(states, folder / "images", every=EVERY, config=CONFIG, seed=SEED)
    return states, folder / "images"


def test_both_kinds_of_record_give_the_same_observation(folders):
    states, images = map(open_dataset, folders)
    maker = ExampleMaker(synthetic.tokenize, text_length=120, calibration=aloha_calibration(SIZE, SIZE))
    # other frames than materialise chose, in one call of its size: what is drawn hangs on scene and tick alone
    ticks = np.array([0, 7, EVERY, 13, 2 * EVERY, 1, 2, 3], np.int32)
    assert len(ticks) == materialise.CHUNK_FRAMES
    for episode in range(2):
        found = [maker.example_at(states, episode, int(tick)) for tick in ticks]
        key = jax.random.fold_in(jax.random.key(SEED), episode)
        rgb, depth_m = materialise.draw_images(stack([s.scene for s in found]), found[0].calibration, key, ticks, config=CONFIG)
        for frame, row in enumerate((0, 2, 4)):
            state, image = found[row], maker.example_at(images, episode, frame)
            check_observation(image.observation)
            np.testing.assert_array_equal(image.observation.depth_m, round_depth(depth_m[row]))
            np.testing.assert_array_equal(image.observation.rgb, rgb[row])
            assert np.mean(image.observation.depth_m > 0) > 0.3 and np.std(image.observation.rgb) > 10, "something is in sight"
            other = (state.calibration, state.joints, state.past_actions, state.past_mask, state.labels, state.target)
            same = (*image.observation[2:], image.labels, image.target)
            for a, b in zip(jax.tree.leaves(same), jax.tree.leaves(other), strict=True):
                np.testing.assert_array_equal(a, b)


def test_depth_is_kept_in_tenths_of_a_millimetre_unless_asked_for_as_drawn(folders, tmp_path):
    materialise.materialise_all(folders[0], tmp_path, every=EVERY, config=CONFIG, seed=SEED, exact_depth=True)
    rounded, exact = (Reader(folder).frame(1, 2) for folder in (folders[1], tmp_path))
    tenths_mm = rounded.depth_m.astype(np.float64) * 1e4
    assert np.abs(tenths_mm - np.rint(tenths_mm)).max() < 2e-3 and len(np.unique(tenths_mm)) > 100
    difference = np.abs(rounded.depth_m.astype(np.float64) - exact.depth_m)
    assert 0.00003 < difference.max() <= 0.0000501 and (rounded.rgb == exact.rgb).all()


def test_states_and_their_images_are_one_trajectory_in_a_mixture(folders):
    """Both sets of two trajectories: in a batch of two the state is of one, the image of the other, and both turns come."""
    maker = ExampleMaker(synthetic.tokenize, text_length=120, calibration=aloha_calibration(SIZE, SIZE))
    batches = Batches([open_dataset(folder) for folder in folders], maker, batch=2, seed=0)
    pairs = {tuple(row.episode for row in batches.rows(step)) for step in range(30)}
    assert pairs == {(0, 1), (1, 0)}
    batch = batches.batch_at(0)
    assert {int(batch.states.labels.trajectory[0]), int(batch.images.labels.trajectory[0])} == {0, 1}
    with pytest.raises(ValueError, match="4 slots together with the data of the same trajectories in a batch of 4 but 2 trajectories"):
        Batches([open_dataset(folder) for folder in folders], maker, batch=4, seed=0)
    with pytest.raises(ValueError, match="same trajectories, but different parts of them; give both the same part"):
        Batches([open_dataset(folders[0], part="train", held_out=0.5), open_dataset(folders[1])], maker, batch=2, seed=0)


def test_numbers_stay_and_the_privileged_state_goes(folders):
    states, images = map(Reader, folders)
    assert images.frames.tolist() == [3, 3] and images.meta["cameras"] == [4, SIZE, SIZE]
    for i in range(2):
        state, image = states[i], images[i]
        assert image.qpos is None and image.tree is None and image.geoms is None
        for name in ("joints", "actions", "progress", "object_positions", "instruction", "seed", "object_names"):
            np.testing.assert_array_equal(getattr(image, name), getattr(state, name))


def test_late_frames_show_an_earlier_world_in_looks_that_last(folders):
    states, key = open_dataset(folders[0]), jax.random.key(SEED)
    episode = states.episode(0)
    found = materialise.materialise(episode, every=EVERY, config=LATE, key=key)
    maker = ExampleMaker(synthetic.tokenize, text_length=120, calibration=aloha_calibration(SIZE, SIZE))

    def draw(shown, ticks):
        scenes = stack([maker.example_at(states, 0, tick).scene for tick in shown])
        return materialise.draw_images(scenes, aloha_calibration(SIZE, SIZE), key, np.int32(ticks), config=CONFIG)

    rgb, depth_m = draw([0, 5, 25, 0, 0, 0, 0, 0], [0, 20, 40, 0, 0, 0, 0, 0])
    np.testing.assert_array_equal(found.rgb, rgb[:3])
    np.testing.assert_array_equal(found.depth_m, depth_m[:3])
    np.testing.assert_array_equal(found.joints, episode.joints[np.maximum(np.arange(len(episode.joints)) - 5, 0)])
    np.testing.assert_array_equal(found.object_positions, episode.object_positions)
    rgb, depth_m = map(np.asarray, draw([7] * 8, range(8)))
    assert (rgb == rgb[:1]).all() and (depth_m[1:] != depth_m[:1])[np.repeat(depth_m[:1] > 0, 7, axis=0)].mean() > 0.9
    scene = stack([maker.example_at(states, 0, 7).scene] * 8)
    other = materialise.draw_images(scene, aloha_calibration(SIZE, SIZE), jax.random.key(9), np.arange(8, dtype=np.int32), config=CONFIG)
    assert (np.asarray(other[0]) != rgb).mean() > 0.3


def test_bad_input_is_one_line_and_leaves_nothing(folders, tmp_path, capsys):
    states, images = map(str, folders)
    for arguments, message in (
        (["--data", images, "--out", str(tmp_path / "a")], "kind 'image'; expected 'state'"),
        (["--data", str(tmp_path), "--out", str(tmp_path / "a")], "holds no finished data set"),
        (["--data", states, "--out", images], "already holds a finished data set"),
        (["--data", states, "--out", str(tmp_path / "a"), "--every", "0"], "every is 0; expected 1 or more"),
    ):
        with pytest.raises(SystemExit, match=message):
            materialise.main(arguments)
    assert not list(tmp_path.iterdir())
