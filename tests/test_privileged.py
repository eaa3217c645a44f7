"""Nothing privileged reaches a policy: what it is given has no place for it, and what no camera sees changes no bit of it.

Two worlds differ in three objects that are out of sight: a ball in a closed box, a thing behind all cameras, and one that
has no shape at all. In a third world the closed box itself has moved.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import synthetic
import tiny
from replay import Replay

from clamp_jax import observe, parallel, steps
from clamp_jax.data.folders import Writer
from clamp_jax.data.pipeline import open_dataset, stack
from clamp_jax.data.transforms import count_geoms, pad_geoms
from clamp_jax.deploy import artifact
from clamp_jax.geometry.kinematics import aloha_calibration
from clamp_jax.sim import rollout
from clamp_jax.structs import CHUNK, HISTORY, Batch, Observation, SceneState
from experiments import training

SIZE, STEPS = 12, 4
NAMES = ("closed box", "ball", "far box", "ghost")
SEEN = {
    "rgb": ((4, SIZE, SIZE, 3), np.uint8),
    "depth_m": ((4, SIZE, SIZE), np.float32),
    "calibration/intrinsics": ((4, 4), np.float32),
    "calibration/parent_from_camera": ((4, 4, 4), np.float32),
    "calibration/mount": ((4,), np.int32),
    "calibration/world_from_base": ((2, 4, 4), np.float32),
    "joints": ((14,), np.float32),
    "past_actions": ((HISTORY, 14), np.float32),
    "past_mask": ((HISTORY,), np.bool_),
}
# positions (m) of NAMES in each world
WORLDS = {
    "one": [(0.0, 0.1, 0.06), (0.0, 0.1, 0.06), (0.0, 0.0, 3.0), (0.1, 0.1, 0.1)],
    "other": [(0.0, 0.1, 0.06), (0.014, 0.088, 0.07), (1.0, -2.0, 4.0), (-0.1, 0.2, 0.05)],
    "box moved": [(-0.1, 0.2, 0.06), (0.0, 0.1, 0.06), (0.0, 0.0, 3.0), (0.1, 0.1, 0.1)],
}


def world(name: str):
    """A state episode of a world whose arms stand still."""
    made = synthetic.episode(0, STEPS + 1, names=NAMES)
    positions = np.repeat(np.float32(WORLDS[name])[None], STEPS + 1, axis=0)
    joints = np.repeat(made.joints[:1], STEPS + 1, axis=0)
    size, kept = made.geoms.size.copy(), np.arange(len(made.geom_types) - 1)  # the ghost's shape is left out
    size[-3] = (0.01, 0, 0)  # the ball: well within the box of half 0.03
    geoms = jax.tree.map(lambda column: column[kept], made.geoms._replace(size=size))
    moved = {"qpos": synthetic._qpos(joints, positions), "object_positions": positions, "joints": joints, "actions": joints}
    return made._replace(geom_types=made.geom_types[kept], geoms=geoms, **moved)


def leaves(tree) -> dict:
    found = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf) for path, leaf in found}


def differing(one, other) -> set:
    one, other = leaves(one), leaves(other)
    assert one.keys() == other.keys()
    return {name for name in one if not np.array_equal(one[name], other[name])}


@pytest.fixture(scope="module")
def received():
    """World -> all that a policy is handed in a rollout there, by sensors with every fault."""
    episode = world("one")
    capacity = count_geoms(episode.geom_types)
    scene = SceneState(episode.qpos[0], episode.tree, pad_geoms(episode.geom_types, episode.geoms, capacity))
    config = observe.preset("d405", SIZE)._replace(capacity=capacity, image_delay_s=0.04, joint_delay_s=0.02)
    sense, found = rollout.make_sense(jax.tree.map(jnp.asarray, scene), aloha_calibration(SIZE, SIZE), config), {}
    for name in WORLDS:
        states, handed = world(name).qpos[None], []

        def policy(*given, handed=handed):
            handed.append(given)
            return np.zeros((1, CHUNK, 14), np.float32)

        rollout.rollout(Replay(states), policy, rollout.Starts(states[:, 0], np.zeros(1, np.int32), 0), sense, steps=STEPS, replan=2)
        found[name] = handed
    return found


def test_a_policy_is_handed_an_observation_and_a_key_and_nothing_else(received):
    for handed in received.values():
        assert len(handed) == 2
        for observation, keys in handed:
            assert type(observation) is Observation and jnp.issubdtype(keys.dtype, jax.dtypes.prng_key)
            found = leaves(observation)
            assert {name: (leaf.shape, leaf.dtype) for name, leaf in found.items()} == {
                name: ((1, *shape), np.dtype(dtype)) for name, (shape, dtype) in SEEN.items()
            }


def test_a_served_policy_is_sent_the_same_a_seed_and_its_own_commands():
    names = {name.split("/")[-1] for name in SEEN} - {"mount"}  # which camera rides on which arm is the artifact's own
    assert set(artifact.input_spec(SIZE, SIZE)) == names | {"seed", "frozen_actions", "frozen_steps"}  # commands that are decided already


def test_what_no_camera_sees_changes_no_bit_of_an_observation(received):
    for (one, _), (other, _), (moved, _) in zip(*received.values(), strict=True):
        assert differing(one, other) == set()
        assert differing(one, moved) == {"rgb", "depth_m"}, "a box in sight does"


def any_params(networks, batch):
    """Some numbers for every weight: quicker than an initialisation, which has to be compiled."""
    shapes, rng = jax.eval_shape(lambda: steps.init_params(networks, jax.random.key(0), batch)), np.random.default_rng(0)
    return jax.tree.map(lambda leaf: (0.1 * rng.normal(size=leaf.shape)).astype(leaf.dtype), shapes)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """World -> (the networks' inputs, the goals' tokens, embeddings, the policy's memory) of its batch in training."""
    root = tmp_path_factory.mktemp("worlds")
    spec, room = tiny.spec("finetune", data__capacity__box=5), tiny.config("finetune", data__capacity__box=5).data
    networks, maker, found, params = spec.networks, training.make_examples(room, spec.networks), {}, None

    def look(params, batch):
        inputs, goals = steps.prepare(networks, batch, parallel.GLOBAL)
        embeddings = steps.embed(networks, params, inputs)
        memory = networks.policy.apply({"params": params["policy"]}, inputs.rgb, inputs.joints, *embeddings, method="encode")
        return inputs._asdict(), goals.tokens, embeddings, memory

    look = jax.jit(look, compiler_options=tiny.FAST)
    for name in WORLDS:
        with Writer(root / name, task=synthetic.TASK, kind="state") as writer:
            writer.add(world(name))
        batch = Batch(stack([maker.example_at(open_dataset(root / name), 0, 2)]), None, jax.random.key(0)[None])
        params = params or any_params(networks, batch)
        found[name] = look(params, batch)
    return found


def test_what_no_camera_sees_reaches_no_network_but_the_text_encoder_in_training(trained):
    one, other, moved = trained.values()
    assert set(one[0]) == {"rgb", "views", "joints", "past", "past_mask", "embedded"} and one[0]["embedded"] is None
    assert (one[1] != other[1]).any(), "the sentence, a label, names every object's place"
    for part in (0, 2, 3):
        assert differing(one[part], other[part]) == set()
        assert differing(one[part], moved[part]), "a box in sight changes it"
