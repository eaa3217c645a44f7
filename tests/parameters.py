"""Parameters for tests of networks, drawn with numpy: compiling an `init` costs more than the test."""

from typing import Any

import flax.linen as nn
import jax
import numpy as np

from clamp_jax.optim import path_name


def random_parameters(model: nn.Module, *inputs: Any, **options: Any) -> dict:
    """Variables of a network as after some training: nothing is zero, norms scale by about 1, layers keep their size."""
    return drawn(jax.eval_shape(lambda: model.init(jax.random.key(0), *inputs, **options)))


def drawn(shapes: Any) -> Any:
    """The same for a tree of shapes."""
    rng = np.random.default_rng(0)

    def draw(path: tuple, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        last = path_name(path).rsplit("/", 1)[-1]
        fan = leaf.size / leaf.shape[-1] if last == "kernel" else 4.0
        if last == "theta":
            return (20 * rng.normal(size=leaf.shape)).astype(np.float32)
        return ((last == "scale") + rng.normal(size=leaf.shape) / np.sqrt(fan)).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes)
