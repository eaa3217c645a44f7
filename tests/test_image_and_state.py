"""An episode as states and as images: the same views within what the sensors' noise explains, and the same losses.

Exact sensors: pixels are equal but for those that rounding may choose, by the rule of experiments/benchmark/render.py.
A D405's: a pixel's depth may differ by NOISE deviations of two measurements of a point there, and by what the exact view spans
around it: noise moves points over pixels' edges, and beside an edge what is behind it shows. Of a measurement the deviation is
the noise of depth, and the calibration error of the camera that measures it from farthest off.
"""

from typing import NamedTuple

import jax
import numpy as np
import pytest
import synthetic
import tiny

from clamp_jax import parallel, sensors, steps
from clamp_jax.data.pipeline import example_keys, open_dataset, stack
from clamp_jax.geometry import kinematics
from clamp_jax.render.views import view_cameras
from clamp_jax.structs import Batch, Capacity, ImageExample
from data_tools import materialise
from experiments import training
from experiments.benchmark import exporting
from experiments.benchmark.render import explained

SIDE, EVERY, EPISODES, FRAMES = 32, 20, 4, 2  # pixels of a camera's side; ticks between two images
CAPACITY = Capacity(plane=1, sphere=1, capsule=4, cylinder=0, box=4)  # what the made-up scene has
NOISE = 5.0  # deviations
FLAT_M = 0.02  # of a pixel's surroundings
PLACES = [(episode, frame) for episode in range(EPISODES) for frame in range(FRAMES)]


class Kinds(NamedTuple):
    """What one preset of sensors makes of the same moments."""

    state: ImageExample  # of state records, as the training step draws them
    image: ImageExample  # of materialised image records


class Outcome(NamedTuple):
    """What the networks see, and the losses of both stages."""

    views: np.ndarray  # (b, v, h, w, 4)
    pretrain: float
    finetune: float


@pytest.fixture(scope="module")
def run():
    """The smallest networks; no weight is 0, so that all that is seen counts. Temperatures and biases are those of a beginning."""
    found = exporting.random_run("debug", overrides=(*tiny.OVERRIDES, ("camera_height", SIDE), ("camera_width", SIDE)))
    config, clamp = found.networks.clamp.config, found.params["clamp"]
    begun = {"log_scale": np.float32(np.log(config.scale)), "bias": np.float32(config.bias)}
    return found._replace(params=found.params | {"clamp": clamp | dict.fromkeys(config.pairs, begun)})


@pytest.fixture(scope="module")
def kinds(run, tmp_path_factory):
    """preset -> Kinds."""
    root = tmp_path_factory.mktemp("records")
    synthetic.write(root / "states", EPISODES, steps=50)
    exact = _kinds(root, "clean", run.networks)
    with pytest.MonkeyPatch.context() as patch:  # compiled without optimisation, in half of the time
        quick = jax.jit(materialise.draw_images.__wrapped__, static_argnames="config", compiler_options=tiny.FAST)
        patch.setattr(materialise, "draw_images", quick)
        return {"clean": exact, "d405": _kinds(root, "d405", run.networks)}


def _kinds(root, name, networks):
    networks = networks._replace(sensor=sensors.preset(name, SIDE)._replace(capacity=CAPACITY))
    about = {"every": EVERY, "config": networks.sensor, "seed": 5, "exact_depth": name == "clean"}
    materialise.materialise_all(root / "states", root / name, **about)
    data = tiny.config("pretrain", root / "states", data__capacity=CAPACITY._asdict()).data
    maker = training.make_examples(data, networks)
    states, images = open_dataset(root / "states"), open_dataset(root / name)
    simulated = stack([maker.example_at(states, episode, EVERY * frame) for episode, frame in PLACES])
    sense = jax.jit(lambda batch: steps.observations(networks, batch, batch.keys), compiler_options=tiny.FAST)
    drawn = jax.device_get(sense(Batch(simulated, None, example_keys(1, 0, np.arange(len(PLACES))))))
    recorded = stack([maker.example_at(images, episode, frame) for episode, frame in PLACES])
    return Kinds(ImageExample(drawn, simulated.labels, simulated.target), recorded)


@pytest.fixture(scope="module")
def see(run):
    """ImageExample -> Outcome, with the same weights and keys for all."""
    specs = [tiny.spec(stage)._replace(networks=run.networks) for stage in ("pretrain", "finetune")]
    keys = example_keys(0, 0, np.arange(len(PLACES)))

    def both(params, batch):
        views = steps.prepare(run.networks, batch, parallel.GLOBAL)[0].views
        bodies = zip((steps.pretrain_step, steps.finetune_step), specs, strict=True)
        return views, *(body(spec, steps.begin(spec, params), batch, parallel.GLOBAL)[1]["loss"] for body, spec in bodies)

    compiled = jax.jit(both, compiler_options=tiny.FAST)
    return lambda examples: Outcome(*jax.device_get(compiled(run.params, Batch(None, examples, keys))))


@pytest.fixture(scope="module")
def outcomes(kinds, see):
    return {name: Kinds(*map(see, pair)) for name, pair in kinds.items()}


class Eyes(NamedTuple):
    """Cameras of one example, as `explained` takes the virtual ones."""

    world_from_camera: np.ndarray
    intrinsics: np.ndarray


@pytest.fixture(scope="module")
def eyes(run, kinds):
    """The virtual and the physical cameras of all examples, (b, v, ...) and (b, k, ...)."""

    def both(calibration, joints):
        virtual = view_cameras(run.networks.views, kinematics.gripper_poses(joints, calibration.world_from_base))
        real = kinematics.camera_poses(calibration, joints)
        return [Eyes(cameras.world_from_camera, cameras.intrinsics) for cameras in (virtual, real)]

    observation = kinds["clean"].state.observation
    return jax.device_get(jax.jit(jax.vmap(both), compiler_options=tiny.FAST)(observation.calibration, observation.joints))


def test_exact_images_and_states_give_the_same_pixels_but_for_rounding(kinds, outcomes, eyes):
    pair, (one, other) = kinds["clean"], outcomes["clean"]
    assert np.abs(pair.state.observation.depth_m - pair.image.observation.depth_m).max() < 2e-6
    different = [tuple(place) for place in np.argwhere(np.abs(one.views - other.views).max(-1) > 1e-5)]
    assert len(different) < 0.01 * one.views[..., 0].size and (one.views[..., 0] > 0).mean() > 0.4
    for place in different:
        made = Eyes(*(part[place[0]] for part in eyes[0]))
        assert explained(one.views[place], other.views[place], made, place[1]), place
    assert one.pretrain == pytest.approx(other.pretrain, rel=1e-3) and one.finetune == pytest.approx(other.finetune, rel=1e-4)


def deviation_m(poses, views):
    """(b, v, h, w) how far off D405s at poses (b, k, 4, 4) may measure the points of views: one standard deviation."""
    config, points = sensors.preset("d405"), views[..., 1:].reshape(len(views), 1, -1, 3)
    z = ((points - poses[..., None, :3, 3]) @ poses[..., :3, 2:3])[..., 0]  # along each camera's axis
    z = np.where((z > 0) & (z < config.far_m), z, 0).max(1)
    parts = config.depth_noise_m * z**2, config.camera_jitter_m, config.camera_jitter_rad * z
    return np.sqrt(sum(np.square(part) for part in parts)).reshape(views.shape[:-1])


def spans(views):
    """(b, v, h, w) by how much the depth of the 3 x 3 pixels around each differs, what is empty left out."""
    empty, wide = views[..., 0] == 0, ((0, 0), (0, 0), (1, 1), (1, 1))
    sides = []
    for sign in (1, -1):
        depth = np.pad(np.where(empty, -np.inf, sign * views[..., 0]), wide, constant_values=-np.inf)
        sides.append(np.lib.stride_tricks.sliding_window_view(depth, (3, 3), axis=(2, 3)).max((-1, -2)))
    return np.where(empty, 0, sides[0] + sides[1])


@pytest.fixture(scope="module")
def compare(outcomes, eyes):
    """(views, other views) -> share of pixels that noise explains; mean difference on what is flat, in deviations of a difference."""
    exact = outcomes["clean"].state.views
    deviation, span = np.sqrt(2) * deviation_m(eyes[1].world_from_camera, exact), spans(exact)

    def found(one, other):
        shown = (exact[..., 0] > 0) & (one[..., 0] > 0) & (other[..., 0] > 0)
        apart = np.abs(one[..., 0] - other[..., 0])
        flat = shown & (span < FLAT_M)
        assert shown.mean() > 0.4 and flat.mean() > 0.04
        return (apart <= NOISE * deviation + span)[shown].mean(), (apart / deviation)[flat].mean()

    return found


def test_a_d405s_views_differ_by_its_noise_and_the_losses_by_less_than_a_twentieth(outcomes, compare):
    one, other = outcomes["d405"]
    share, apart = compare(one.views, other.views)
    assert share > 0.995
    assert 0.1 < apart < np.sqrt(2 / np.pi)  # the mean of a normal distribution's absolute value
    holes = (one.views[..., 0] > 0) != (other.views[..., 0] > 0)
    assert holes.mean() < 0.05
    assert one.pretrain == pytest.approx(other.pretrain, rel=0.05) and one.finetune == pytest.approx(other.finetune, rel=0.05)


@pytest.mark.parametrize("fault", ["scaled", "another moment", "wrists changed places", "mirrored"])
def test_depth_that_is_wrong_is_not_explained(fault, kinds, outcomes, see, compare):
    image = kinds["d405"].image
    depth_m = image.observation.depth_m
    wrong = {
        "scaled": depth_m * np.float32(1.03),
        "another moment": np.roll(depth_m, 1, axis=0),
        "wrists changed places": depth_m[:, [0, 1, 3, 2]],
        "mirrored": depth_m[..., ::-1],
    }[fault]
    found = see(image._replace(observation=image.observation._replace(depth_m=wrong)))
    share, apart = compare(outcomes["d405"].state.views, found.views)
    assert share < 0.96 or apart > 1.2


def test_images_that_show_nothing_change_the_losses(kinds, outcomes, see):
    image, before = kinds["d405"].image, outcomes["d405"].image
    dark = see(image._replace(observation=image.observation._replace(rgb=image.observation.rgb * 0)))
    blind = see(image._replace(observation=image.observation._replace(depth_m=image.observation.depth_m * 0)))
    assert abs(dark.finetune / before.finetune - 1) > 0.05
    assert abs(blind.pretrain / before.pretrain - 1) > 0.05
