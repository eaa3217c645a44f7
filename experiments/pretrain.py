"""Stage (i): train image, action and text encoder with three sigmoid losses, and in parallel the diffusion policy.

    python -m experiments.pretrain --config experiments/configs/pretrain.py:demo --config.data.paths="('data/a', 'data/b')" --workdir runs/p

The same command again takes the run up where it stopped. Writes metrics.jsonl, config.json and checkpoints/ into the folder.
SIGTERM and SIGINT save and leave with code 75 after the step that is being made, a second one at once (docs/scale.md).
On several hosts or in several processes: --distributed, docs/scale.md.
"""

from clamp_jax import runtime

if __name__ == "__main__":
    runtime.setup(mjx=False)

import functools
from pathlib import Path

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from clamp_jax import checkpoint, parallel, processes, steps
from clamp_jax.structs import TrainState
from experiments import public, seeing, training, work


def run(
    config: ConfigDict,
    workdir: str | Path,
    *,
    text: str = "",
    resnet: str = "",
    stop_at: int | None = None,
    verified: bool = True,
    tell: training.Tell = training.print_progress,
    see: seeing.Seeing = seeing.NOTHING,
) -> TrainState:
    """Pre-train in a folder until `stop_at` (default: the config's number of steps), resuming what is there; returns the state.

    text, resnet: public weights to begin with, as the flags name them. verified: False restores without comparing hashes. see: what
    is shown beside `tell`.
    Raises ValueError for bad input, before anything is written.
    """
    if config.variant == "scratch":
        raise ValueError("variant 'scratch' has no stage (i); run experiments.finetune with it, or pretrain another variant")
    loaded = public.read(text, resnet)
    workdir = Path(workdir)
    config = training.as_begun(workdir, public.resolve(config, loaded))
    train = config.train
    spec = training.make_spec(config, "pretrain")
    on = parallel.mesh()
    batches, statistics = training.open_batches(config.data, spec.networks, batch=train.batch, seed=config.seed, tokenize=loaded.tokenize)
    example = batches.batch_at(0)
    parallel.check_divisible(example, on, spec.accumulate)
    fresh = functools.partial(training.fresh_state, spec, config.seed, example, loaded=loaded)
    shapes = training.state_shapes(spec, example)
    body, form = functools.partial(steps.pretrain_step, spec), train.get("pair_loss", "plain")
    step = parallel.map_step(body, on, mapping=train.mapping, pair_loss=form, compiler_options=dict(train.compiler_options))
    seeing.check(see)
    training.enter(workdir, config, "pretrain")

    keep = {"keep_last": train.keep_last, "keep_every": train.keep_every or None, "verified": verified}
    seen = seeing.open_run(see, workdir, training.plain(config), spec.networks, example)
    with training.Signals() as signals, checkpoint.Checkpoints(workdir, **keep) as store, seen as shown:
        state = training.begin_or_resume(store, fresh, shapes, statistics=statistics, on=on)
        about = {"batch": train.batch, "work": work.of(config, "pretrain", peak_tflops=see.peak_tflops)}
        log = training.Log(workdir, first=int(state.step), of=train.steps, tell=tell, write=shown.write, **about)
        return training.loop(
            shown.traced(step),
            state,
            batches=batches,
            on=on,
            train=train,
            threads=config.data.threads,
            stop_at=train.steps if stop_at is None else stop_at,
            log=log,
            watch=training.make_watch(workdir, batches, train),
            signals=signals,
            store=store,
            save=lambda state: store.save(state, training.plain(config), statistics),
        )


def main(_: list[str]) -> None:
    """The command line; bad input ends it with one line."""
    logging.set_verbosity(logging.WARNING)  # orbax tells of every file
    try:
        processes.start(FLAGS.distributed, FLAGS.processes, FLAGS.process)
        run(FLAGS.config, FLAGS.workdir, text=FLAGS.text, resnet=FLAGS.resnet, verified=FLAGS.verify == "on", see=seeing.from_flags())
    except (ValueError, OSError, ImportError, training.TrainingError) as error:
        raise SystemExit(f"error: {error}") from error


if __name__ == "__main__":
    FLAGS = flags.FLAGS
    config_flags.DEFINE_config_file("config", "experiments/configs/pretrain.py:demo", "file:preset", lock_config=True)
    flags.DEFINE_string("workdir", None, "folder of the run", required=True)
    flags.DEFINE_string("text", "", "clip:FOLDER, CLIP's text encoder, frozen: a folder with model.safetensors and tokenizer.json")
    flags.DEFINE_string("resnet", "", "FILE, ImageNet's ResNet-50 to begin with: torchvision's or timm's safetensors")
    flags.DEFINE_enum("verify", "on", ["on", "off"], "off: restore checkpoints without comparing their SHA-256; bad bytes go unseen")
    seeing.define_flags()
    flags.DEFINE_string("distributed", "off", processes.FLAG_HELP)
    flags.DEFINE_integer("processes", 0, processes.COUNT_HELP)
    flags.DEFINE_integer("process", -1, processes.INDEX_HELP)
    app.run(main)
