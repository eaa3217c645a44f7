"""Diffusion: the schedule and both samplers against closed forms, and the sampler on a density that is known."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clamp_jax import diffusion

SCHEDULE = diffusion.squared_cosine(50)
MODES, WEIGHTS, SIGMA = np.array([-0.8, 0.5]), np.array([0.3, 0.7]), 0.05


def test_schedule_is_the_squared_cosine():
    def alpha_bar(time):
        return np.cos((time / 50 + 0.008) / 1.008 * np.pi / 2) ** 2

    product = 1.0
    for step in range(50):
        beta = min(1 - alpha_bar(step + 1) / alpha_bar(step), 0.999)
        product *= 1 - beta
        np.testing.assert_allclose([SCHEDULE.beta[step], SCHEDULE.alpha_bar[step]], [beta, product], rtol=1e-5)
    np.testing.assert_allclose(SCHEDULE.alpha_bar[:49] * alpha_bar(0), alpha_bar(np.arange(1, 50)), rtol=1e-4)


def test_added_noise_has_the_forward_process_mean_and_variance():
    actions = jnp.full((4000, 5, 1), 0.7)
    timestep = jnp.full(4000, 20, jnp.int32)
    noisy = diffusion.add_noise(SCHEDULE, actions, jax.random.normal(jax.random.key(0), actions.shape), timestep)
    alpha_bar = float(SCHEDULE.alpha_bar[20])
    np.testing.assert_allclose(noisy.mean(), 0.7 * np.sqrt(alpha_bar), atol=0.02)
    np.testing.assert_allclose(noisy.var(), 1 - alpha_bar, atol=0.02)


def test_draws_are_stratified_and_belong_to_their_example():
    keys = jax.random.split(jax.random.key(0), 300)
    actions = jnp.arange(300.0)[:, None, None] * jnp.ones((1, 2, 1)) / 300
    found = diffusion.draw(SCHEDULE, actions, keys, 4)
    timestep = np.asarray(found.timestep).reshape(300, 4)
    for stratum in range(4):
        assert timestep[:, stratum].min() >= int(stratum * 12.5) and timestep[:, stratum].max() <= int((stratum + 1) * 12.5)
    assert np.abs(np.histogram(timestep, 5, (0, 50))[0] / 1200 - 0.2).max() < 0.03
    alone = diffusion.draw(SCHEDULE, actions[17:18], keys[17:18], 4)  # an example's noise does not depend on its batch
    np.testing.assert_array_equal(alone.noise, found.noise[68:72])
    want = diffusion.add_noise(SCHEDULE, jnp.repeat(actions, 4, 0), found.noise, found.timestep)
    np.testing.assert_allclose(found.noisy, want, atol=1e-6)


def test_loss_of_an_exact_denoiser_is_zero_and_padding_counts_for_nothing():
    actions = jax.random.uniform(jax.random.key(1), (3, 4, 2))
    mask = np.array([[True] * 4, [True, True, False, False], [False] * 4])
    junk = jnp.where(mask[..., None], actions, 5.0)  # what padding holds must not be needed

    def denoise(memory, noisy, timestep, error):
        alpha_bar = SCHEDULE.alpha_bar[timestep][:, None, None]
        seen = jnp.repeat(jnp.asarray(mask), 2, 0)[..., None]
        return (noisy - jnp.sqrt(alpha_bar) * memory) / jnp.sqrt(1 - alpha_bar) + jnp.where(seen, error, 9.0)

    keys = jax.random.split(jax.random.key(2), 3)
    for error in (0.0, 0.3):
        loss = diffusion.diffusion_loss(partial(denoise, error=error), junk, junk, mask, keys, schedule=SCHEDULE, draws=2)
        np.testing.assert_allclose(loss, error**2, atol=1e-5)


def test_loss_is_the_mean_over_unmasked_steps():
    predicted, noise = np.random.default_rng(0).normal(size=(2, 4, 3, 2)).astype(np.float32)
    mask = np.array([[True, False, True], [True, True, False]])
    terms = [((predicted[n, t] - noise[n, t]) ** 2).mean() for n in range(4) for t in range(3) if mask[n // 2, t]]
    np.testing.assert_allclose(diffusion.masked_error(predicted, noise, mask), np.mean(terms), rtol=1e-6)


def test_ddim_with_all_steps_and_eta_1_is_ddpm():
    """Mean and variance of one step equal the posterior q(x_{t-1} | x_t, x_0) of arXiv 2006.11239, eqs. 6 and 7."""
    beta, alpha_bar = np.asarray(SCHEDULE.beta, np.float64), np.asarray(SCHEDULE.alpha_bar, np.float64)
    x, eps = 0.4, -0.9
    for step in range(1, 49):
        x0 = (x - np.sqrt(1 - alpha_bar[step]) * eps) / np.sqrt(alpha_bar[step])
        by_x0 = np.sqrt(alpha_bar[step - 1]) * beta[step] / (1 - alpha_bar[step])
        by_x = np.sqrt(1 - beta[step]) * (1 - alpha_bar[step - 1]) / (1 - alpha_bar[step])
        variance = (1 - alpha_bar[step - 1]) / (1 - alpha_bar[step]) * beta[step]
        found = diffusion.ddim_coefficients(alpha_bar[step], alpha_bar[step - 1], 1.0)
        np.testing.assert_allclose(found[0] * x0 + found[1] * eps, by_x0 * x0 + by_x * x, atol=2e-4)
        np.testing.assert_allclose(found[2] ** 2, variance, rtol=1e-2, atol=1e-6)


def test_ddim_follows_the_exact_path_of_a_single_mode():
    """For one point the noise is known, and every number of steps ends at the point."""
    point = jnp.asarray(np.random.default_rng(0).uniform(-0.9, 0.9, (3, 2)).astype(np.float32))

    def denoise(x, timestep):
        alpha_bar = SCHEDULE.alpha_bar[timestep][..., None, None]
        return (x - jnp.sqrt(alpha_bar) * point[None]) / jnp.sqrt(1 - alpha_bar)

    noise = jax.random.normal(jax.random.key(0), (4, 3, 2))
    for steps in (1, 7, 50):
        found = jax.jit(lambda noise, steps=steps: diffusion.ddim(denoise, SCHEDULE, noise, steps))(noise)
        np.testing.assert_allclose(found, jnp.broadcast_to(point[None], found.shape), atol=2e-3)


def _mixture_denoiser(x, timestep):
    """E[eps | x_t] of a mixture of two Gaussians, exact."""
    alpha_bar = SCHEDULE.alpha_bar[timestep][..., None, None, None]
    mean, variance = jnp.sqrt(alpha_bar) * MODES, alpha_bar * SIGMA**2 + 1 - alpha_bar
    log_weight = np.log(WEIGHTS) - (x[..., None] - mean) ** 2 / (2 * variance)
    score = (jax.nn.softmax(log_weight, axis=-1) * (mean - x[..., None])).sum(-1) / variance[..., 0]
    return -jnp.sqrt(1 - alpha_bar[..., 0]) * score


@pytest.mark.parametrize(("steps", "eta"), [(50, 0.0), (50, 1.0), (16, 0.0), (10, 0.0)])
def test_sampler_finds_the_modes_of_a_mixture(steps, eta):
    count = 20_000
    with jax.numpy_rank_promotion("allow"):  # the reference is written for reading
        sample = jax.jit(lambda noise: diffusion.ddim(_mixture_denoiser, SCHEDULE, noise, steps, eta=eta, key=jax.random.key(1)))
        found = np.asarray(sample(jax.random.normal(jax.random.key(0), (count, 1, 1)))).ravel()
    right = found > (MODES.mean())
    print(f"{steps} steps, eta {eta}: weight {right.mean():.4f}, means {found[~right].mean():.4f} {found[right].mean():.4f}, "
          f"deviations {found[~right].std():.4f} {found[right].std():.4f}")  # fmt: skip
    tolerance = 0.01 if steps == 50 else 0.03
    np.testing.assert_allclose([found[~right].mean(), found[right].mean()], MODES, atol=tolerance)
    if steps == 50:
        assert abs(right.mean() - WEIGHTS[1]) < 2.576 * np.sqrt(WEIGHTS.prod() / count)
    if steps == 50 and not eta:  # the last step takes the mean of what may have been: narrower than the mode, by this much
        shrunk = SIGMA**2 / np.sqrt(SIGMA**2 + 1 - float(SCHEDULE.alpha_bar[0]))
        np.testing.assert_allclose([found[~right].std(), found[right].std()], shrunk, rtol=0.05)


def test_predicting_clean_actions_samples_as_predicting_the_noise_does():
    def clean(x, timestep):
        alpha_bar = SCHEDULE.alpha_bar[timestep][..., None, None]
        return (x - jnp.sqrt(1 - alpha_bar) * _mixture_denoiser(x, timestep)) / jnp.sqrt(alpha_bar)

    noise = jax.random.normal(jax.random.key(0), (200, 1, 1))
    with jax.numpy_rank_promotion("allow"):
        by_noise = diffusion.ddim(_mixture_denoiser, SCHEDULE, noise, 16, clip=None)
        by_sample = diffusion.ddim(clean, SCHEDULE, noise, 16, clip=None, prediction="sample")
    np.testing.assert_allclose(by_sample, by_noise, atol=2e-3)


def test_loss_on_clean_actions_is_zero_for_who_knows_them():
    actions = jax.random.normal(jax.random.key(0), (3, 4, 2))
    settings = {"schedule": SCHEDULE, "draws": 2, "prediction": "sample"}
    for error in (0.0, 0.5):
        denoise = lambda memory, noisy, timestep, error=error: memory + error  # noqa: E731
        keys = jax.random.split(jax.random.key(1), 3)
        loss = diffusion.diffusion_loss(denoise, actions, actions, jnp.ones((3, 4), bool), keys, **settings)
        np.testing.assert_allclose(loss, error**2, atol=1e-6)


def test_clipping_tames_an_error_at_the_last_timestep():
    point = 0.5

    def denoise(x, timestep):
        alpha_bar = SCHEDULE.alpha_bar[timestep][..., None, None]
        return (x - jnp.sqrt(alpha_bar) * point) / jnp.sqrt(1 - alpha_bar) + 0.01

    noise = jax.random.normal(jax.random.key(0), (8, 3, 2))
    clipped = np.abs(diffusion.ddim(denoise, SCHEDULE, noise, 10) - point).max()
    plain = np.abs(diffusion.ddim(denoise, SCHEDULE, noise, 10, clip=None) - point).max()
    assert clipped < 0.01 and plain >= clipped


def test_bad_requests_are_refused():
    with pytest.raises(ValueError, match="60 steps; the schedule has 50"):
        diffusion.sampling_steps(50, 60)
    with pytest.raises(ValueError, match="prediction is 'velocity'; expected one of"):
        diffusion.ddim(lambda x, t: x, SCHEDULE, jnp.zeros((1, 1)), prediction="velocity")
    with pytest.raises(ValueError, match="eta = 1.0 draws fresh noise; pass key"):
        diffusion.ddim(lambda x, t: x, SCHEDULE, jnp.zeros((1, 1)), eta=1.0)


def gaussian_denoiser(schedule, covariance):
    """The best prediction of clean rows that are jointly normal, mean 0, each action dimension alike: E[x0 | x] = sqrt(abar) C S^-1 x."""

    def denoise(noisy, timestep):
        alpha_bar = schedule.alpha_bar[timestep]
        spread = alpha_bar * covariance + (1 - alpha_bar) * jnp.eye(len(covariance))
        return jnp.sqrt(alpha_bar) * jnp.einsum("ij,...ja->...ia", covariance @ jnp.linalg.inv(spread), noisy)

    return denoise


def test_given_rows_come_out_as_given_and_the_rest_goes_on_from_them():
    """Rows of a random walk: painted in, they begin where the given ones end; drawn without, they do not."""
    schedule, rows, given = diffusion.squared_cosine(50), 12, 5
    time = np.arange(rows)
    covariance = jnp.asarray(0.25 * np.exp(-np.abs(time[:, None] - time) / 30), jnp.float32)
    denoise = gaussian_denoiser(schedule, covariance)
    noise = jax.random.normal(jax.random.key(0), (400, rows, 2))
    actions = jnp.full((400, rows, 2), 0.8).at[:, given:].set(0)
    mask = jnp.broadcast_to(jnp.arange(rows) < given, (400, rows))
    sample = lambda known: diffusion.ddim(  # noqa: E731
        lambda x, t: denoise(x, t[0]), schedule, noise, 50, clip=None, prediction="sample", known=known
    )
    painted, free = sample(diffusion.Known(actions, mask)), sample(None)
    np.testing.assert_array_equal(painted[:, :given], actions[:, :given])
    exact = covariance[given:, :given] @ np.linalg.inv(covariance[:given, :given]) @ np.full(given, 0.8)
    found = np.asarray(painted[:, given:]).mean((0, 2))
    assert np.abs(found - exact).max() < 0.2 * np.abs(exact).min()  # guidance is no exact conditioning: it falls some 10 % short
    left = covariance[given:, given:] - covariance[given:, :given] @ np.linalg.inv(covariance[:given, :given]) @ covariance[:given, given:]
    np.testing.assert_allclose(np.asarray(painted[:, given:]).std((0, 2)), np.sqrt(np.diag(left)), rtol=0.25)
    assert np.abs(np.asarray(free[:, given:]).mean((0, 2))).max() < 0.1
    step = np.abs(np.asarray(painted[:, given] - painted[:, given - 1])).mean()
    jump = np.abs(np.asarray(free[:, given] - 0.8)).mean()
    assert step < 0.25 * jump


def test_with_no_row_given_nothing_changes():
    schedule = diffusion.squared_cosine(50)
    denoise = gaussian_denoiser(schedule, 0.2 * jnp.eye(6))
    noise = jax.random.normal(jax.random.key(3), (2, 6, 3))
    known = diffusion.Known(jnp.ones((2, 6, 3)), jnp.zeros((2, 6), bool))
    for how in ({}, {"prediction": "sample"}, {"clip": None}):
        plain, same = (diffusion.ddim(lambda x, t: denoise(x, t[0]), schedule, noise, 10, known=k, **how) for k in (None, known))
        np.testing.assert_allclose(plain, same, rtol=1e-4, atol=1e-5)


def test_given_rows_are_seen_at_the_level_of_noise_of_the_others():
    """At every step they are sqrt(abar) given + sqrt(1 - abar) noise, with the noise that they start from, however wide they are."""
    seen = []

    def denoise(x, timestep):
        jax.debug.callback(lambda t, x: seen.append((int(t), np.asarray(x))), timestep[0], x)
        return jnp.full_like(x, 0.3)

    rng = np.random.default_rng(0)
    given, noise = rng.uniform(-2, 2, (2, 1, 6, 3)).astype(np.float32)  # beyond what predictions are clipped to
    known = diffusion.Known(jnp.asarray(given), jnp.arange(6)[None] < 2)
    diffusion.ddim(denoise, SCHEDULE, noise, 5, known=known)
    jax.effects_barrier()
    assert {timestep for timestep, _ in seen} == {0, 12, 24, 37, 49}
    for timestep, x in seen:
        want = diffusion.add_noise(SCHEDULE, given, noise, np.array([timestep]))
        np.testing.assert_allclose(x[:, :2], want[:, :2], atol=1e-5)
