"""The marker's cap: friction holds it, a pull takes it off, whatever way the marker lies."""

import mujoco
import numpy as np
import pytest

from clamp_jax.sim import randomise, scene
from clamp_jax.sim.objects.marker import CAP_Y
from clamp_jax.sim.tasks.base import HOME_QPOS

STEPS_A_SECOND = round(1 / scene.TIMESTEP_S)
CAP_WEIGHT = 0.0015 * 9.81


def _afloat(model: mujoco.MjModel) -> mujoco.MjData:
    """Marker and cap in mid-air, without gravity, the cap on, along y."""
    model.opt.gravity[:] = 0.0
    data = mujoco.MjData(model)
    data.qpos[:16] = HOME_QPOS
    data.qpos[16:23], data.qpos[23:30] = (0, 0, 0.5, 1, 0, 0, 0), (0, CAP_Y, 0.5, 1, 0, 0, 0)
    return data


def _moved(data: mujoco.MjData, model: mujoco.MjModel, force: np.ndarray, seconds: float = 1.0) -> np.ndarray:
    """How far (m) the cap goes in the marker's frame under a force (N, that frame at first) on it, its opposite on the marker."""
    data.xfrc_applied[model.body("cap").id, :3] = force
    data.xfrc_applied[model.body("marker").id, :3] = -force
    mujoco.mj_step(model, data, nstep=round(seconds * STEPS_A_SECOND))
    rotation = data.body("marker").xmat.reshape(3, 3)
    return rotation.T @ (data.body("cap").xpos - data.body("marker").xpos) - (0, CAP_Y, 0)


def _model(factor: float = 1.0) -> mujoco.MjModel:
    """A copy with masses and friction multiplied."""
    ranges = randomise.Ranges((factor, factor), (factor, factor), (1.0, 1.0), (1.0, 1.0))
    return randomise.randomise(scene.build("marker_remove_lid"), ranges, np.random.default_rng(0)).model


@pytest.mark.parametrize("factor", (0.7, 1.0, 1.4))
def test_the_cap_holds_ten_times_its_weight_and_comes_off_by_six_newtons(factor):
    model = _model(factor)
    assert np.linalg.norm(_moved(_afloat(model), model, np.array([0.0, 10 * CAP_WEIGHT, 0.0]))) < 1e-3
    assert _moved(_afloat(model), model, np.array([0.0, 6.0, 0.0]), 0.5)[1] > 0.02


def test_the_cap_stops_at_the_barrel_and_stays_on_by_a_push_from_the_side():
    for force in ((0.0, -3.0, 0.0), (3.0, 0.0, 0.0), (0.0, 0.0, -3.0)):
        model = _model()
        marker = model.body("marker").id  # as heavy as a hand that holds it: else both turn under the forces
        model.body_mass[marker], model.body_inertia[marker] = 0.5, 0.05
        mujoco.mj_setConst(model, mujoco.MjData(model))
        assert np.abs(_moved(_afloat(model), model, np.array(force), 0.3)).max() < 1e-3


def test_nothing_moves_of_itself_and_the_cap_does_not_turn_or_tilt():
    model = _model()
    data = _afloat(model)
    assert np.linalg.norm(_moved(data, model, np.zeros(3), 2.0)) < 2e-6
    data = _afloat(model)
    data.xfrc_applied[model.body("cap").id, 3:] = (0.003, 0.002, 0.0)  # N m: 0.2 N at the cap's end, 0.2 N at its side
    data.xfrc_applied[model.body("marker").id, 3:] = (-0.003, -0.002, 0.0)
    mujoco.mj_step(model, data, nstep=STEPS_A_SECOND)
    turned = data.body("marker").xmat.reshape(3, 3).T @ data.body("cap").xmat.reshape(3, 3)
    assert np.degrees(np.arccos(np.clip((np.trace(turned) - 1) / 2, -1, 1))) < 3.0
