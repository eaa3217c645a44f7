"""The faults of simulated cameras, each against what it should be on made-up depth, and the presets' values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clamp_jax import sensors
from clamp_jax.networks import make_networks
from clamp_jax.sensors import SensorConfig
from experiments.configs import finetune, pretrain, shared

KEYS = sensors.draw_keys(jax.random.key(3))
SIDE = 200  # pixels: 40,000 draws an image
quick_measure, quick_share = (jax.jit(function, static_argnums=2) for function in (sensors.measure, sensors.hidden_share))


def images(*values) -> jnp.ndarray:
    """(k, SIDE, SIDE), each image of one depth."""
    return jnp.tile(jnp.float32(values)[:, None, None], (1, SIDE, SIDE))


def measure(depth_m, keys=KEYS, *, fx=317.0, **faults) -> np.ndarray:
    depth_m = jnp.asarray(depth_m)
    return np.asarray(quick_measure(depth_m, jnp.full(len(depth_m), fx), SensorConfig(far_m=5.0, **faults), keys))


@pytest.mark.parametrize("noise_m", [0.004, 0.02])
def test_noise_grows_with_the_square_of_depth(noise_m):
    depths = np.float32([0.1, 0.3, 0.5, 1.0, 1.9])
    found = measure(images(*depths), depth_noise_m=noise_m).astype(np.float64)
    count, expected = SIDE**2, noise_m * depths.astype(np.float64) ** 2
    spread, mean = found.std(axis=(1, 2)), found.mean(axis=(1, 2))
    np.testing.assert_allclose(spread, expected, rtol=5 / np.sqrt(2 * count))  # five deviations of a deviation
    assert (np.abs(mean - depths) < 5 * expected / np.sqrt(count)).all()
    neighbours = np.mean((found[:, :, 1:] - depths[:, None, None]) * (found[:, :, :-1] - depths[:, None, None]), axis=(1, 2))
    assert (np.abs(neighbours / expected**2) < 5 / np.sqrt(count)).all(), "each pixel has its own"


def test_dropout_loses_its_share():
    found = measure(images(0.5, 0.5), dropout=0.03)
    share, deviation = np.mean(found == 0, axis=(1, 2)), np.sqrt(0.03 * 0.97 / SIDE**2)
    assert (np.abs(share - 0.03) < 5 * deviation).all()
    assert ((found == 0) | (found == 0.5)).all() and (found[0] != found[1]).any()


def test_dropout_in_squares_loses_the_same_share_whole_squares_at_a_time():
    lost = measure(images(0.5, 0.5)[:, :, :-2], dropout=0.1, dropout_px=4) == 0  # 198 columns: the last square is cut
    squares = lost[:, ::4, ::4]
    np.testing.assert_array_equal(lost, squares.repeat(4, axis=1).repeat(4, axis=2)[:, :, :-2])
    assert abs(squares.mean() - 0.1) < 5 * np.sqrt(0.1 * 0.9 / squares.size)
    with pytest.raises(ValueError, match="dropout_px is 0; expected 1 or more"):
        measure(images(0.5), dropout=0.1, dropout_px=0)


def hidden(depth_m, fx: float = 200.0, baseline_m: float = 0.018) -> np.ndarray:
    depth_m = jnp.float32(depth_m)
    return np.asarray(quick_share(depth_m, jnp.full(len(depth_m), fx), baseline_m))


def test_a_near_thing_hides_a_band_as_wide_as_the_disparities_differ():
    depth_m = np.full((1, 3, 100), 0.6)
    depth_m[:, 1, 40:60] = 0.3
    found, wide = hidden(depth_m, fx=210.0), 210 * 0.018 * (1 / 0.3 - 1 / 0.6)  # 6.3 pixels
    expected = np.zeros((1, 3, 100))
    expected[0, 1, 34:40], expected[0, 1, 33] = 1, wide - 6
    np.testing.assert_allclose(found, expected, atol=1e-4)
    np.testing.assert_array_equal(hidden(depth_m[:, :, ::-1])[0, 1, 60:], 0)  # nothing to the right of the thing
    depth_m[depth_m == 0.6] = 0  # nothing is there: as far as sight reaches
    np.testing.assert_allclose(hidden(depth_m).sum(), 3.6 * (1 / 0.3 - 0.1), rtol=1e-4)


def slow_hidden(row, fx: float, baseline_m: float, parts: int = 50) -> np.ndarray:
    """Share of each pixel whose points the right imager does not see, point by point, of pixels that are little flat tiles."""
    share = np.zeros(len(row))
    shift = fx * baseline_m / row
    for column in range(len(row)):
        for place in (np.arange(parts) + 0.5) / parts:
            stands = column + place - shift[column]
            before = [i for i in range(len(row)) if row[i] < row[column] and i - shift[i] <= stands < i + 1 - shift[i]]
            share[column] += bool(before) / parts
    return share


def test_hidden_shares_equal_a_slow_count():
    rng = np.random.default_rng(0)
    for _ in range(5):  # things of 8 to 14 pixels: wider than the shifts
        row = np.concatenate([np.full(width, rng.choice([0.25, 0.4, 0.6, 1.0, 1.5])) for width in rng.permutation([8, 9, 11, 13, 14])])
        np.testing.assert_allclose(hidden(row[None, None], fx=90.0)[0, 0], slow_hidden(row, 90.0, 0.018), atol=0.021)


def test_nothing_is_hidden_on_a_plane():
    rows, columns = np.mgrid[:60, :80]
    for a, b, c in ((0, 0, 1.2), (0.01, 0, 1.0), (-0.01, 0.02, 1.9), (0, 0.5, 0.6)):  # 1/z of a plane is linear in an image
        assert not hidden(1 / (a * columns + b * rows + c)[None]).any(), (a, b, c)


def test_edges_are_lost_by_their_share_and_nothing_else_is():
    depth_m = np.full((4, SIDE, 60), 0.6, np.float32)
    depth_m[:, :, 40:] = 0.3
    share = hidden(depth_m, fx=210.0)
    lost = measure(depth_m, fx=210.0, baseline_m=0.018) == 0
    np.testing.assert_array_equal(lost[share == 1], True)
    np.testing.assert_array_equal(lost[share == 0], False)
    part = share[(share > 0) & (share < 1)]
    assert len(part) == 4 * SIDE and abs(lost[(share > 0) & (share < 1)].mean() - 0.3) < 5 * np.sqrt(0.21 / len(part))
    assert not (measure(images(0.6), baseline_m=0.018) == 0).any()


def test_the_moment_draws_noise_and_the_episode_all_else():
    one, two, episode = (jax.random.key(i) for i in range(3))
    data = lambda *keys: [jax.random.key_data(key) for key in sensors.draw_keys(*keys)]  # noqa: E731
    for first, second in zip(data(one, episode)[:3], data(two, episode)[:3], strict=True):
        np.testing.assert_array_equal(first, second)
    for first, second in zip(data(one, episode)[3:], data(one, two)[3:], strict=True):
        np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(data(one), jax.random.key_data(jax.random.split(one, 5)))
    assert len(np.unique(np.concatenate([data(one, episode), data(two, episode)]), axis=0)) == 3 + 4


def test_delays_are_whole_control_steps():
    assert sensors.delays(sensors.preset("upstream")) == (15, 5)
    assert sensors.delays(sensors.clean()) == (0, 0)
    assert sensors.delays(SensorConfig(image_delay_s=1.0, joint_delay_s=0.02)) == (50, 1)
    for value in (0.31, -0.02, 1.02, float("nan")):
        with pytest.raises(ValueError, match=r"image_delay_s is .* s; expected a whole number of control steps of 0.02 s"):
            sensors.delays(SensorConfig(image_delay_s=value))
    with pytest.raises(ValueError, match="joint_delay_s is 0.11 s"):
        sensors.delays(SensorConfig(joint_delay_s=0.11))


NOISY = {"near_m": 0.0, "far_m": 2.0, "depth_noise_m": 0.004, "dropout": 0.02, "colour_jitter": 0.15, "light_jitter": 0.4,
         "camera_jitter_m": 0.002, "camera_jitter_rad": 0.004}  # fmt: skip
OFF = {"baseline_m": 0.0, "dropout_px": 1, "image_delay_s": 0.0, "joint_delay_s": 0.0}


def test_presets_are_what_the_table_says():
    exact = {name: 0.0 for name in NOISY} | {"far_m": 2.0} | OFF
    table = {
        "clean": exact,
        "upstream": exact | {"far_m": 10.0, "image_delay_s": 0.3, "joint_delay_s": 0.1},
        "noisy": NOISY | OFF,
        "d405": NOISY | OFF | {"near_m": 0.07, "baseline_m": 0.018, "dropout_px": 4},
    }
    assert set(table) == set(sensors.PRESETS)
    for name, values in table.items():
        found = sensors.preset(name, 48)
        assert (found.height, found.width) == (48, 48) and hash(found) == hash(sensors.preset(name, 48))
        assert {field: getattr(found, field) for field in values} == values
        assert set(values) | {"height", "width", "capacity"} == set(found._fields)
        assert shared.sensor(name).to_dict() == values
    with pytest.raises(ValueError, match="no preset 'd435' of sensors; expected one of clean, upstream, noisy, d405"):
        sensors.preset("d435")


def test_the_demo_keeps_its_sensors_and_training_at_scale_has_those_of_the_real_cell():
    for module in (pretrain, finetune):
        for preset in module.PRESETS:
            expected = "d405" if preset == "paper" else "noisy"
            assert module.get_config(preset).sensor.to_dict() == shared.sensor(expected).to_dict()


def test_a_config_from_before_a_field_was_there_makes_the_same_sensors():
    views = {"projection": "perspective", "points": 0, "radius_px": 0}
    model = {"preset": "debug", "overrides": ()}
    old, new = (make_networks(model=model, views=views, sensor=s, variant="blind") for s in (NOISY, NOISY | OFF))
    assert old == new and old.sensor == sensors.noisy()._replace(height=old.sensor.height, width=old.sensor.width)
