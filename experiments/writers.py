"""Where figures go beside metrics.jsonl: tensorboard's files (an extra) and Weights & Biases (if it is installed), on request."""

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

Write = Callable[[int, Mapping[str, float]], None]

NEEDED = {"tensorboardX": "pip install 'clamp-jax[tensorboard]'", "wandb": "pip install wandb"}


class Writers:
    """Writes named figures of a step to all that were asked for; a context manager.

    tensorboard: event files go into RUN/tensorboard. wandb: a project's name, "" for none; the run's folder gives the run its name
    and, taken up again, its place. Raises ValueError that says what to install where a library is missing.
    """

    def __init__(self, run: Path, *, tensorboard: bool = False, wandb: str = "", config: Mapping[str, Any] | None = None):
        self._writes: list[Write] = []
        self._closes: list[Callable[[], Any]] = []
        if tensorboard:
            writer = need("tensorboardX", "--tensorboard").SummaryWriter(str(run / "tensorboard"))
            self._writes.append(lambda step, figures: [writer.add_scalar(name, value, step) for name, value in figures.items()])
            self._closes.append(writer.close)
        if wandb:
            name = run.resolve().name
            about = {"project": wandb, "name": name, "id": name, "resume": "allow", "dir": str(run), "config": dict(config or {})}
            begun = need("wandb", "--wandb").init(**about)
            self._writes.append(lambda step, figures: begun.log(dict(figures), step=step))
            self._closes.append(begun.finish)

    def __call__(self, step: int, figures: Mapping[str, float]) -> None:
        """Write the figures of a step."""
        for write in self._writes:
            write(step, figures)

    def __enter__(self) -> "Writers":
        return self

    def __exit__(self, *_: Any) -> None:
        for close in self._closes:
            close()


def need(module: str, flag: str) -> ModuleType:
    """A library that a flag asks for; ValueError that says how to install it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ValueError(f"{flag} needs the package {module}, which is not installed: {NEEDED[module]}, or leave the flag out") from error
