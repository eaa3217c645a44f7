"""Denoising diffusion over chunks of normalised actions: schedule, forward process, loss, DDIM (arXiv 2006.11239, 2010.02502)."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

PREDICTIONS = ("noise", "sample")  # what a denoiser gives: the noise (the paper's), or the clean actions (ours, for small networks)
GUIDANCE = 5.0  # largest weight of what leads a chunk to its given rows (arXiv 2506.07339)
CLIP_X0 = 1.2  # predicted clean actions are held to +-1.2: the working range with a margin (ours)


class Schedule(NamedTuple):
    """A noise schedule; timestep 0 is the least noisy."""

    beta: jax.Array  # (steps,)
    alpha_bar: jax.Array  # (steps,) product of 1 - beta up to and with each step


class Known(NamedTuple):
    """Rows of a chunk that are given."""

    actions: jax.Array  # (*lead, t, a) clean and normalised; rows that are not given do not matter, but are finite
    mask: jax.Array  # (*lead, t) bool, True where given


class Noised(NamedTuple):
    """Training pairs of the denoiser; n = b * draws, the draws of one example stand together."""

    noisy: jax.Array  # (n, t, a)
    timestep: jax.Array  # (n,) int32
    noise: jax.Array  # (n, t, a) the target


def squared_cosine(steps: int = 50) -> Schedule:
    """abar(t) = cos^2((t/T + s)/(1 + s) pi/2), s = 0.008, beta <= 0.999 (arXiv 2102.09672, eq. 17)."""
    time = (np.arange(steps + 1) / steps + 0.008) / 1.008
    alpha_bar = np.cos(time * np.pi / 2) ** 2
    beta = np.minimum(1 - alpha_bar[1:] / alpha_bar[:-1], 0.999)
    return Schedule(jnp.asarray(beta, jnp.float32), jnp.asarray(np.cumprod(1 - beta), jnp.float32))


def _match(values: ArrayLike, like: ArrayLike) -> jax.Array:
    """Values of a leading shape with as many trailing axes of 1 as `like` has more."""
    values = jnp.asarray(values)
    return values.reshape(*values.shape, *(1,) * (jnp.ndim(like) - values.ndim))


def add_noise(
    schedule: Schedule, actions: Float[ArrayLike, "*lead t a"], noise: Float[ArrayLike, "*lead t a"], timestep: Int[ArrayLike, "*lead"]
) -> Float[Array, "*lead t a"]:
    """Forward process: sqrt(abar) actions + sqrt(1 - abar) noise (eq. 4 of arXiv 2006.11239)."""
    alpha_bar = _match(schedule.alpha_bar[timestep], actions)
    return jnp.sqrt(alpha_bar) * actions + jnp.sqrt(1 - alpha_bar) * noise


def draw(
    schedule: Schedule, actions: Float[ArrayLike, "b t a"], keys: ArrayLike, draws: int = 1
) -> Noised:
    """Noise each chunk `draws` times, at timesteps spread over the schedule.

    keys (b,) typed, one an example. Several draws reuse one encoded observation, which is what costs (ours); the
    timesteps of one example are stratified, each still uniform over the schedule when averaged (ours: less variance).
    """
    actions = jnp.asarray(actions)
    timestep, noise = jax.vmap(lambda key: _draw_one(key, len(schedule.beta), draws, actions.shape[1:]))(keys)
    repeated = repeat(actions, draws)
    timestep, noise = timestep.reshape(-1), noise.reshape(repeated.shape)
    return Noised(add_noise(schedule, repeated, noise, timestep), timestep, noise)


def _draw_one(key: jax.Array, steps: int, draws: int, shape: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
    key_time, key_noise = jax.random.split(key)
    stratum = (jnp.arange(draws) + jax.random.uniform(key_time, (draws,))) / draws
    timestep = jnp.minimum((stratum * steps).astype(jnp.int32), steps - 1)
    return timestep, jax.random.normal(key_noise, (draws, *shape))


def repeat(tree: Any, draws: int) -> Any:
    """Each leaf (b, ...) with every row `draws` times in a row, (b * draws, ...): an encoded observation for its draws."""
    return jax.tree.map(lambda leaf: leaf if draws == 1 else jnp.repeat(leaf, draws, axis=0), tree)


def masked_error(
    predicted: Float[ArrayLike, "n t a"], target: Float[ArrayLike, "n t a"], mask: Bool[ArrayLike, "b t"]
) -> Float[Array, ""]:
    """Mean squared error over the steps where `mask` is True; n = b * draws as `draw` orders them."""
    error = jnp.square(jnp.asarray(predicted, jnp.float32) - jnp.asarray(target, jnp.float32)).mean(axis=-1)
    weight = repeat(jnp.asarray(mask, jnp.float32), error.shape[0] // jnp.shape(mask)[0])
    return jnp.sum(error * weight) / jnp.maximum(jnp.sum(weight), 1)


def diffusion_loss(
    denoise: Callable[[Any, jax.Array, jax.Array], jax.Array],
    memory: Any,
    actions: Float[ArrayLike, "b t a"],
    mask: Bool[ArrayLike, "b t"],
    keys: ArrayLike,
    *,
    schedule: Schedule,
    draws: int = 1,
    prediction: str = "noise",
) -> Float[Array, ""]:
    """DDPM loss of denoise(memory, noisy, timestep), memory encoded once for all `draws` (eq. 14 of arXiv 2006.11239).

    prediction "sample": the denoiser gives the clean actions and the error is theirs, which weighs all noise levels alike
    where the error of the noise hardly weighs those that decide which way to go (ours: small networks learn that in fewer steps).
    """
    check_prediction(prediction)
    noised = draw(schedule, actions, keys, draws)
    predicted = denoise(repeat(memory, draws), noised.noisy, noised.timestep)
    target = noised.noise if prediction == "noise" else repeat(jnp.asarray(actions), draws)
    return masked_error(predicted, target, mask)


def check_prediction(prediction: str) -> None:
    """Raise ValueError unless it is one of PREDICTIONS."""
    if prediction not in PREDICTIONS:
        raise ValueError(f"prediction is {prediction!r}; expected one of {PREDICTIONS}")


def sampling_steps(train_steps: int, steps: int) -> np.ndarray:
    """Timesteps that DDIM visits, falling from the last to the first, (steps,) int; ValueError if there are not so many.

    Both ends are visited (ours): from pure noise down to the least noisy step, whose x0 is blurred least.
    """
    if not 1 <= steps <= train_steps:
        raise ValueError(f"DDIM is asked for {steps} steps; the schedule has {train_steps}: pass 1 to {train_steps}")
    return np.round(np.linspace(train_steps - 1, 0, steps)).astype(np.int32)


def ddim_coefficients(
    alpha_bar: Float[ArrayLike, ""], alpha_bar_next: Float[ArrayLike, ""], eta: float
) -> tuple[Float[Array, ""], Float[Array, ""], Float[Array, ""]]:
    """Factors of x0, of the predicted noise and of fresh noise in one DDIM step (eqs. 12 and 16 of arXiv 2010.02502)."""
    alpha_bar, alpha_bar_next = jnp.asarray(alpha_bar), jnp.asarray(alpha_bar_next)
    variance = (1 - alpha_bar_next) / (1 - alpha_bar) * (1 - alpha_bar / alpha_bar_next)
    sigma = eta * jnp.sqrt(jnp.maximum(variance, 0))
    return jnp.sqrt(alpha_bar_next), jnp.sqrt(jnp.maximum(1 - alpha_bar_next - sigma**2, 0)), sigma


def ddim(
    denoise: Callable[[jax.Array, jax.Array], jax.Array],
    schedule: Schedule,
    noise: Float[ArrayLike, "*lead t a"],
    steps: int = 10,
    *,
    eta: float = 0.0,
    key: jax.Array | None = None,
    clip: float | None = CLIP_X0,
    prediction: str = "noise",
    known: Known | None = None,
) -> Float[Array, "*lead t a"]:
    """Sample actions from noise by `steps` DDIM steps of denoise(noisy, timestep of shape *lead).

    eta = 1 with all steps has DDPM's mean and variance and needs `key`. `clip` holds the predicted clean actions to
    +-clip, and the noise to what then explains the sample (ours: at the last timestep an error of 0.01 in the noise is
    one of 10 in the actions); None for the plain sampler. `prediction`: what `denoise` gives, as in `diffusion_loss`.
    `known`: rows of the clean actions that are given, and come out as given; the denoiser paints the others in (`_painted`).
    """
    check_prediction(prediction)
    if eta and key is None:
        raise ValueError(f"DDIM with eta = {eta} draws fresh noise; pass key")
    visited = sampling_steps(len(schedule.beta), steps)
    after = jnp.concatenate([schedule.alpha_bar[visited[1:]], jnp.ones(1)])
    keys = jax.random.split(jax.random.key(0) if key is None else key, steps)
    noise = jnp.asarray(noise, jnp.float32)
    start = schedule.alpha_bar[visited[0]]
    given = known and Known(jnp.asarray(known.actions, jnp.float32), jnp.asarray(known.mask)[..., None])
    first = noise if given is None else jnp.where(given.mask, jnp.sqrt(start) * given.actions + jnp.sqrt(1 - start) * noise, noise)

    def step(x: jax.Array, inputs: tuple) -> tuple[jax.Array, None]:
        timestep, alpha_bar, alpha_bar_next, step_key = inputs
        predict = lambda x: denoise(x, jnp.broadcast_to(timestep, x.shape[:-2]))  # noqa: E731
        if given is None:
            x0, eps = _clean(x, predict(x), alpha_bar, clip, prediction)
        else:
            x0, eps = _painted(predict, x, given, alpha_bar, clip, prediction)
        by_x0, by_eps, by_fresh = ddim_coefficients(alpha_bar, alpha_bar_next, eta)
        x = by_x0 * x0 + by_eps * eps
        return (x + by_fresh * jax.random.normal(step_key, x.shape) if eta else x), None

    inputs = (jnp.asarray(visited), schedule.alpha_bar[visited], after, keys)
    return jax.lax.scan(step, first, inputs)[0]


def _painted(
    predict: Callable, x: jax.Array, given: Known, alpha_bar: jax.Array, clip: float | None, prediction: str
) -> tuple[jax.Array, jax.Array]:
    """Clean actions and noise that agree with the given rows.

    The prediction is led by its error at the given rows, pulled back through the denoiser (arXiv 2305.04391, eq. 8 with r^2 =
    1 - abar; real-time chunking, arXiv 2506.07339, does the same for flows and holds the weight to GUIDANCE). Then the given rows
    are put in their place, so that the next step sees them noised as much as the rest.
    """
    x0, pull_back = jax.vjp(lambda x: _clean(x, predict(x), alpha_bar, None, prediction)[0], x)
    (led,) = pull_back(jnp.where(given.mask, given.actions - x0, 0.0))
    x0 = x0 + jnp.minimum(1 / jnp.sqrt(alpha_bar), GUIDANCE) * led
    x0 = jnp.where(given.mask, given.actions, x0 if clip is None else jnp.clip(x0, -clip, clip))
    return x0, (x - jnp.sqrt(alpha_bar) * x0) / jnp.sqrt(1 - alpha_bar)


def _clean(x: jax.Array, predicted: jax.Array, alpha_bar: jax.Array, clip: float | None, prediction: str) -> tuple[jax.Array, jax.Array]:
    """Predicted clean actions and the noise that goes with them."""
    x0 = predicted if prediction == "sample" else (x - jnp.sqrt(1 - alpha_bar) * predicted) / jnp.sqrt(alpha_bar)
    if clip is None and prediction == "noise":
        return x0, predicted
    x0 = x0 if clip is None else jnp.clip(x0, -clip, clip)
    return x0, (x - jnp.sqrt(alpha_bar) * x0) / jnp.sqrt(1 - alpha_bar)
