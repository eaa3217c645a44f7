"""How much of what the devices could do a run does: FLOPs of a sample by hand (flops.py), against the peak of a device's kind."""

from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict

from clamp_jax.models.presets import Preset
from clamp_jax.networks import VARIANTS, Ablation, ablate_sizes, make_sizes
from experiments import flops

ENCODERS = ("view", "action", "text")


class Work(NamedTuple):
    """What a sample costs, and what there is to do it with."""

    flop: float  # of a sample in a step of this stage; 0: not known
    devices: int
    peak_tflops: float | None  # of one device; None for a kind that is not listed

    def figures(self, samples_per_s: float) -> dict[str, float]:
        """{"tflops": of one device, "mfu": model FLOPs utilisation}, as far as they are known."""
        if not self.flop:
            return {}
        tflops = self.flop * samples_per_s / self.devices / 1e12
        return {"tflops": tflops} | ({"mfu": tflops / self.peak_tflops} if self.peak_tflops else {})


UNKNOWN = Work(0.0, 1, None)


def of(config: ConfigDict, stage: str, *, peak_tflops: float = 0.0, encoders: bool = True) -> Work:
    """The work of a run of a stage on this machine's devices; `peak_tflops` of one of them, 0 for the table's.

    encoders: False where the examples carry what the encoders gave, and none is run.
    """
    ablation = Ablation(**config.ablation.to_dict())
    sizes = ablate_sizes(make_sizes(config.model.to_dict()), ablation)
    variant = VARIANTS[config.variant]
    sizes = sizes._replace(policy=sizes.policy._replace(use_embeddings=variant.embeddings))
    if not ablation.wrist_views:  # the count is of all five views
        return UNKNOWN
    kind = jax.devices()[0].device_kind
    peak = peak_tflops or flops.peak_tflops(kind, config.model.dtype)
    return Work(float(sample(sizes, stage, encoders=encoders and variant.encoders)), jax.device_count(), peak)


def sample(sizes: Preset, stage: str, *, encoders: bool) -> int:
    """FLOPs of a sample in a step: forward and backward of what is trained, forward of what is frozen, nothing of what is not run."""
    return sum(cost * passes(name, sizes, stage, encoders=encoders) for name, cost in flops.forward(sizes).items())


def passes(name: str, sizes: Any, stage: str, *, encoders: bool) -> int:
    """How often the forward pass of a network is paid: 3 where it is trained, 1 where it is frozen, 0 where it is not run."""
    trained = 1 + flops.BACKWARD
    if name not in ENCODERS:
        return trained
    if not encoders or (name == "text" and stage == "finetune"):
        return 0
    frozen = stage == "finetune" or (name == "text" and sizes.clamp.text_frozen)
    return 1 if frozen else trained
