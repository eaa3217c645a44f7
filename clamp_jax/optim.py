"""Optimisers as optax chains: AdamW with warm-up and cosine, what decays, what is frozen, and the average of weights."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

DECAYED = ("kernel", "embedding")  # last names of the parameters that decay: not norms, biases, temperatures, positions


def path_name(path: tuple) -> str:
    """A parameter's path as "module/sub/kernel"."""
    return "/".join(str(getattr(part, "key", getattr(part, "name", getattr(part, "idx", part)))) for part in path)


def decay_mask(params: Any) -> Any:
    """True for the leaves that weight decay is for: kernels and embedding tables."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path_name(path).rsplit("/", 1)[-1] in DECAYED, params)


def warmup_cosine(peak: float, *, warmup: int, steps: int, end: float = 0.0) -> optax.Schedule:
    """Learning rate: linear from 0 to `peak` in `warmup` steps, then a cosine to `end` at `steps`."""
    if not 0 <= warmup < steps:
        raise ValueError(f"warm-up of {warmup} steps in a training of {steps}; expected fewer steps of warm-up than of training")
    return optax.warmup_cosine_decay_schedule(0.0 if warmup else peak, peak, warmup, steps, end)


def adamw(
    learning_rate: optax.ScalarOrSchedule, *, weight_decay: float = 1e-3, clip: float = 1.0, b2: float = 0.95
) -> optax.GradientTransformation:
    """AdamW on gradients clipped to a global norm, with decay on kernels alone."""
    return optax.chain(
        optax.clip_by_global_norm(clip),
        optax.adamw(learning_rate, b1=0.9, b2=b2, weight_decay=weight_decay, mask=decay_mask),
    )


def freeze_labels(params: Any, frozen: Sequence[str]) -> Any:
    """"frozen" for the leaves whose path starts with one of the names in `frozen`, "trained" for the others.

    Raises ValueError if a name matches nothing: a misspelt one would train what was meant to be frozen.
    """
    names = [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    for prefix in frozen:
        if not any(_under(name, prefix) for name in names):
            tops = ", ".join(sorted({name.split("/")[0] for name in names}))
            raise ValueError(f"nothing to freeze under {prefix!r}; the parameters start with: {tops}")
    return jax.tree_util.tree_map_with_path(
        lambda path, _: "frozen" if any(_under(path_name(path), prefix) for prefix in frozen) else "trained", params
    )


def _under(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(prefix.rstrip("/") + "/")


def freeze(transformation: optax.GradientTransformation, frozen: Sequence[str]) -> optax.GradientTransformation:
    """The optimiser with the parameters under the paths in `frozen` left as they are; they take no optimiser memory."""
    if not frozen:
        return transformation
    parts = {"trained": transformation, "frozen": optax.set_to_zero()}
    return optax.multi_transform(parts, lambda params: freeze_labels(params, frozen))


def ema_decay(step: ArrayLike, *, power: float = 0.75, maximum: float = 0.9999) -> jax.Array:
    """Decay of the average at a step counted from 0: 1 - (1 + step)^-power, at most `maximum` (diffusion policy's schedule)."""
    return jnp.minimum(1 - (1 + jnp.asarray(step, jnp.float32)) ** -power, maximum)


def ema_update(ema: Any, params: Any, step: ArrayLike, *, power: float = 0.75, maximum: float = 0.9999) -> Any:
    """Exponential moving average of the weights after the update of `step` (from 0, where it becomes the weights)."""
    decay = ema_decay(step, power=power, maximum=maximum)
    return jax.tree.map(lambda old, new: old + (1 - decay).astype(old.dtype) * (new - old), ema, params)
