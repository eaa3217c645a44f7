"""What one sees of a run beside its progress lines: figures elsewhere, pictures of the first batch, a trace, a watcher of checkpoints."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
from absl import flags

from clamp_jax import processes
from clamp_jax.networks import Networks
from clamp_jax.structs import Batch
from experiments import first_batch
from experiments.writers import Write, Writers, need

Step = Callable[..., Any]
PROFILED = (10, 15)  # calls of the step that a trace is taken of: after its compilation and the first batches


class Seeing(NamedTuple):
    """What is asked for; none of it changes a number of the run."""

    tensorboard: bool = False
    wandb: str = ""  # project
    pictures: bool = False  # of the first batch
    profile: str = ""  # folder of a trace
    evaluate: str = ""  # task that a watcher rolls checkpoints out on
    evaluate_every: int = 0  # steps whose multiples it takes; 0: every checkpoint
    evaluate_trials: int = 50  # the paper's (arXiv 2602.00937)
    peak_tflops: float = 0.0  # of one device, for the MFU; 0: of the table in experiments/flops.py


NOTHING = Seeing()


def define_flags() -> None:
    """The command line's part of it."""
    flags.DEFINE_bool("tensorboard", False, "also write event files, into the run's folder (pip install 'clamp-jax[tensorboard]')")
    flags.DEFINE_string("wandb", "", "also log to this project of Weights & Biases (pip install wandb)")
    flags.DEFINE_bool("pictures", True, "draw the first batch's cameras and views into the run's folder")
    flags.DEFINE_string("profile", "", f"folder for a trace of steps {PROFILED[0]} to {PROFILED[1]}, for xprof or Perfetto")
    flags.DEFINE_string("evaluate", "", "task on which a second process, on the CPU, rolls checkpoints out as they come")
    flags.DEFINE_integer("evaluate_every", 0, "steps whose multiples it takes, 0 for every checkpoint; the paper's: 40000")
    flags.DEFINE_integer("evaluate_trials", 50, "trials of each evaluation; the paper's")
    flags.DEFINE_float("peak_tflops", 0.0, "of one device, for the MFU of a kind that is not in experiments/flops.py", lower_bound=0.0)


def from_flags() -> Seeing:
    """What the command line asks for."""
    return Seeing(*(flags.FLAGS[name].value for name in Seeing._fields))


def check(asked: Seeing) -> Seeing:
    """What was asked for itself; ValueError for a library that is not there, an unknown task, or numbers out of range."""
    for wanted, module, flag in ((asked.tensorboard, "tensorboardX", "--tensorboard"), (asked.wandb, "wandb", "--wandb")):
        if wanted:
            need(module, flag)
    if asked.evaluate:
        from clamp_jax.sim import tasks

        tasks.get(asked.evaluate)
        if asked.evaluate_every < 0 or asked.evaluate_trials < 1:
            numbers = f"--evaluate_every {asked.evaluate_every} --evaluate_trials {asked.evaluate_trials}"
            raise ValueError(f"{numbers}; give 0 or more steps and 1 or more trials")
    return asked


class Run(NamedTuple):
    """What a run that is seen is given."""

    write: Write  # figures of a step
    traced: Callable[[Step], Step]  # the step, some of whose calls are traced


@contextlib.contextmanager
def open_run(asked: Seeing, workdir: Path, config: Mapping[str, Any], networks: Networks, example: Batch) -> Iterator[Run]:
    """Draw, start the watcher, and give the writers; afterwards the watcher is waited for. Of several processes the first does it."""
    asked = asked if processes.first() else NOTHING
    trace = Trace(asked.profile)
    writers = Writers(workdir, tensorboard=asked.tensorboard, wandb=asked.wandb, config=config)
    with writers, contextlib.closing(trace), _watching(asked, workdir):
        if asked.pictures and not (workdir / first_batch.CAMERAS).exists():
            first_batch.draw(networks, example, workdir)
        yield Run(writers, trace.wrap)


@contextlib.contextmanager
def _watching(asked: Seeing, workdir: Path) -> Iterator[None]:
    """A watcher beside what is done, which may finish its last evaluation, unless that failed."""
    if not asked.evaluate:
        yield
        return
    from experiments import watch  # with it comes the simulator

    with watch.start(workdir, asked.evaluate, trials=asked.evaluate_trials, every=asked.evaluate_every) as watcher:
        try:
            yield
        except BaseException:
            watcher.terminate()
            raise


class Trace:
    """Traces the calls of PROFILED of a step into a folder; nothing without one."""

    def __init__(self, folder: str):
        self.folder, self._calls, self._running = folder, 0, False

    def wrap(self, step: Step) -> Step:
        """The step itself, or one that is traced on the way."""
        if not self.folder:
            return step

        def traced(*arguments: Any) -> Any:
            self._calls += 1
            if self._calls == PROFILED[0]:
                jax.profiler.start_trace(self.folder)
                self._running = True
            found = step(*arguments)
            if self._calls == PROFILED[1]:
                jax.block_until_ready(found)
                self.close()
            return found

        return traced

    def close(self) -> None:
        """End the trace, if one runs."""
        if self._running:
            jax.profiler.stop_trace()
            self._running = False
