"""What the model benchmark measures in one process. Imports no jax, so that a case can say on how many devices jax starts."""

import json
from typing import Any, NamedTuple


class Case(NamedTuple):
    """What is measured."""

    preset: str
    batch: int = 1  # of all devices together
    dtype: str = "float32"
    remat: bool = False
    implementation: str | None = None  # of attention; None: the preset's
    overrides: tuple[tuple[str, Any], ...] = ()  # further ones: clamp_jax/models/presets.py
    records: str = "states"  # "states": cameras and views are made in the step; "images": recorded RGB-D, only the views are
    devices: int | None = None  # None: all there are
    repeats: int = 5
    compile_only: bool = False  # FLOPs and memory, nothing is run
    trace_only: bool = False  # of its memory: what jax's trace says, nothing is compiled
    quick: bool = False  # on a CPU: compiled without LLVM's optimisation, in a fraction of the time, for a slower program
    ratio_to_stored: bool = False
    peak_tflops: float | None = None  # None: of the table in experiments/flops.py
    profile: str | None = None  # folder for a trace
    agree_steps: int = 200
    learning_rate: float | None = None  # peak, of the training in two types; None: the config's
    data: tuple[str, ...] = ()

    @property
    def changes(self) -> tuple[tuple[str, Any], ...]:
        """The preset's overrides."""
        how = (("*.dtype", self.dtype), ("*.remat", self.remat))
        return (*how, *((("*.implementation", self.implementation),) if self.implementation else ()), *self.overrides)


def read_case(text: str) -> Case:
    """A case that was written as JSON."""
    fields = json.loads(text)
    return Case(**fields | {"overrides": tuple(map(tuple, fields.get("overrides", ()))), "data": tuple(fields.get("data", ()))})
