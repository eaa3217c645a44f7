"""MuJoCo Warp behind MJX's interface: made for NVIDIA accelerators, takes meshes; the extra [warp]. Runs on a CPU too."""

import numpy as np
from jaxtyping import ArrayLike

from clamp_jax.sim.engines import mjx
from clamp_jax.sim.engines.base import OverflowedError, Physics, Trace


class Engine(mjx.Engine):
    """Steps a batch of environments with Warp; where it is missing, ImportError says what to install.

    The first step compiles some forty kernels (half a minute on a CPU); Warp keeps them on disk for the next process.
    """

    name, impl = "warp", "warp"

    def run(self, physics: Physics, actions: ArrayLike) -> tuple[Physics, Trace]:
        """As MJX's; raises OverflowedError when contacts had no slot in any of the environments."""
        physics, trace = super().run(physics, actions)
        lost = np.argwhere(np.asarray(trace.overflow))
        if len(lost):
            where = f"environment {lost[0, 0]}, control step {lost[0, 1]} of this call"
            raise OverflowedError(f"Warp ran out of contact slots in {self.scene.name!r} ({where}); raise scene.warp_capacity")
        return physics, trace
