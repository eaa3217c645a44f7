"""Rigid transforms against analytic cases and against numpy in float64."""

import jax
import numpy as np
import pytest

from clamp_jax.geometry import transforms as tf

quat_to_matrix, pose = jax.jit(tf.quat_to_matrix), jax.jit(tf.pose)
RNG = np.random.default_rng(0)
QUATS = RNG.normal(size=(200, 4)).astype(np.float32)
POINTS = RNG.normal(size=(50, 3)).astype(np.float32)


def turn(quat: np.ndarray, point: np.ndarray) -> np.ndarray:
    """q p q* by Hamilton's product, in float64."""

    def product(a, b):
        w = a[0] * b[0] - a[1:] @ b[1:]
        return np.array([w, *(a[0] * b[1:] + b[0] * a[1:] + np.cross(a[1:], b[1:]))])

    quat = quat.astype(np.float64) / np.linalg.norm(quat.astype(np.float64))
    return product(product(quat, np.array([0.0, *point])), quat * [1, -1, -1, -1])[1:]


def test_quat_to_matrix_turns_points_as_hamiltons_product_does():
    turned = np.einsum("nij,nj->ni", quat_to_matrix(QUATS[:50]), POINTS)
    np.testing.assert_allclose(turned, list(map(turn, QUATS[:50], POINTS)), atol=2e-6)


def test_quarter_turns():
    half = np.float32(np.sqrt(0.5))
    np.testing.assert_allclose(quat_to_matrix(np.array([half, 0, 0, half])) @ np.array([1.0, 0, 0]), [0, 1, 0], atol=1e-6)
    turned = jax.jit(tf.rotation_about)(np.float32([1, 0, 0]), np.float32(np.pi / 2))
    np.testing.assert_allclose(turned @ np.array([0.0, 1, 0]), [0, 0, 1], atol=1e-6)


def test_the_zero_quaternion_is_no_rotation():
    np.testing.assert_array_equal(quat_to_matrix(np.zeros((2, 4), np.float32)), np.stack([np.eye(3, dtype=np.float32)] * 2))


def test_matrix_to_quat_returns_what_went_in():
    half_turns = np.eye(4, dtype=np.float32)
    quats = np.concatenate([QUATS / np.linalg.norm(QUATS, axis=1, keepdims=True), half_turns])
    back = np.asarray(jax.jit(tf.matrix_to_quat)(quat_to_matrix(quats)))
    assert (back[:, 0] >= 0).all()
    sign = np.sign(np.sum(back * quats, axis=1, keepdims=True))
    np.testing.assert_allclose(back * sign, quats, atol=2e-6)


def test_invert_and_compose_equal_numpys_in_float64():
    poses = np.asarray(pose(RNG.normal(size=(200, 3)).astype(np.float32), QUATS))
    np.testing.assert_allclose(jax.jit(tf.invert)(poses), np.linalg.inv(poses.astype(np.float64)), atol=3e-6)
    np.testing.assert_allclose(jax.jit(tf.compose)(poses[:100], poses[100:]), poses[:100].astype(np.float64) @ poses[100:], atol=3e-6)
    np.testing.assert_allclose(jax.jit(tf.transform)(poses[0], POINTS), POINTS @ poses[0, :3, :3].T + poses[0, :3, 3], atol=3e-6)


def test_look_at_has_opencv_axes():
    found = np.asarray(jax.jit(tf.look_at)(*np.float32([[1, 0, 2], [1, 3, 2], [0, 0, 1]])))
    np.testing.assert_allclose(found[:3, :3], np.array([[1, 0, 0], [0, 0, 1], [0, -1, 0]]), atol=1e-6)  # x right, y down, z forward
    np.testing.assert_allclose(found[:3, 3], [1, 0, 2])
    assert tf.is_rigid(found)


@pytest.mark.parametrize(
    "wrong",
    [
        np.diag([1.0, 1, -1, 1]),
        np.diag([1.001, 1, 1, 1]),
        np.diag([1.0, 1, 1, 0]),
        np.full((4, 4), np.nan),
        np.eye(4) + np.eye(4, k=-3),
    ],
    ids=["mirror", "scale", "last row", "nan", "translation in the last row"],
)
def test_is_rigid_refuses(wrong):
    assert not tf.is_rigid(wrong) and tf.is_rigid(np.eye(4))
