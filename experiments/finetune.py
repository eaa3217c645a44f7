"""Stage (ii): train a policy for one task from stage (i)'s weights, with the encoders frozen; and its baselines.

    python -m experiments.finetune --config experiments/configs/finetune.py:demo --config.init_from=runs/p \
        --config.data.paths="('data/task',)" --workdir runs/f

The same command again takes the run up where it stopped. Writes metrics.jsonl, config.json and checkpoints/ into the folder.
SIGTERM and SIGINT save and leave with code 75 after the step that is being made, a second one at once (docs/scale.md).
On several hosts or in several processes: --distributed, docs/scale.md.
"""

from clamp_jax import runtime

if __name__ == "__main__":
    runtime.setup(mjx=False)

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from clamp_jax import act, checkpoint, parallel, processes, steps
from clamp_jax.networks import VARIANTS, Networks
from clamp_jax.structs import TrainState
from experiments import embedding, public, seeing, training, work

SAME = ("model", "views", "variant", "ablation")  # sections of both stages' configs that say what the networks are
# What the policy reads may differ (to take it away in stage (ii) alone is a study of its own), and the type of the computation.
FREE = ("ablation.embeddings", "model.dtype")


def run(
    config: ConfigDict,
    workdir: str | Path,
    *,
    resnet: str = "",
    stop_at: int | None = None,
    verified: bool = True,
    embeddings: str = embedding.AUTO,
    tell: training.Tell = training.print_progress,
    see: seeing.Seeing = seeing.NOTHING,
) -> TrainState:
    """Fine-tune in a folder until `stop_at` (default: the config's number of steps), resuming what is there; returns the state.

    resnet: public weights that a policy from scratch begins with, as the flag names them; others have those of stage (i).
    verified: False restores checkpoints, stage (i)'s too, without comparing their hashes.
    embeddings: folder in which what the frozen encoders give of recorded data is kept, "auto" or "off" (experiments/embedding.py).
    Raises ValueError for bad input, before anything is written.
    """
    stage_one = load_stage_one(config, resnet, verified=verified)
    loaded = public.read(resnet=resnet)
    config = public.resolve(config, loaded) if stage_one is None else public.adopt(config, training.filled(stage_one.config))
    workdir, train = Path(workdir), config.train
    spec = training.make_spec(config, "finetune")
    pretrained = {} if stage_one is None else weights(stage_one, training.plain(config), spec.networks, verified=verified)
    on = parallel.mesh()
    batches, statistics = training.open_batches(config.data, spec.networks, batch=train.batch, seed=config.seed, tokenize=public.unread)
    example = batches.batch_at(0)
    parallel.check_divisible(example, on, spec.accumulate)
    fresh = functools.partial(training.fresh_state, spec, config.seed, example, pretrained, loaded)
    shapes = training.state_shapes(spec, example)
    checkpoint.check_structure(pretrained, {name: shapes.params[name] for name in pretrained}, "stage (i) run")
    seeing.check(see)
    kept = embedding.choose(embeddings, workdir, spec.networks, batches.datasets, processes.rank()[1])
    training.enter(workdir, config, "finetune")
    if kept is not None:
        batches = embedding.keep(kept, spec.networks, pretrained["clamp"], batches, tell=functools.partial(print, flush=True))

    body = functools.partial(steps.finetune_step, spec)
    step = parallel.map_step(body, on, mapping=train.mapping, compiler_options=dict(train.compiler_options))
    keep = {"keep_last": train.keep_last, "keep_every": train.keep_every or None, "verified": verified}
    seen = seeing.open_run(see, workdir, training.plain(config), spec.networks, example)
    with training.Signals() as signals, checkpoint.Checkpoints(workdir, **keep) as store, seen as shown:
        state = training.begin_or_resume(store, fresh, shapes, statistics=statistics, on=on)
        about = {"batch": train.batch, "work": work.of(config, "finetune", peak_tflops=see.peak_tflops, encoders=kept is None)}
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


def load_stage_one(config: ConfigDict, resnet: str, *, verified: bool = True) -> checkpoint.Loaded | None:
    """The config and statistics of the stage (i) run that this config begins with; None for a variant that takes none.

    Raises ValueError when the run is missing or damaged, was made with other ranges, or names something the variant has no use for.
    """
    variant = VARIANTS.get(config.variant)
    if variant is None:
        raise ValueError(f"variant is {config.variant!r}; expected one of {', '.join(VARIANTS)}")
    if not variant.pretrained:
        if config.init_from:
            named = config.init_from
            raise ValueError(f"variant {config.variant!r} begins with fresh weights; leave config.init_from empty, not {named!r}")
        return None
    if not config.init_from:
        raise ValueError(f"variant {config.variant!r} begins with a stage (i) run; name its folder: --config.init_from=FOLDER")
    if resnet:
        raise ValueError(f"variant {config.variant!r} has the ResNet of its stage (i) run; leave --resnet out")
    loaded = checkpoint.load_params(config.init_from, networks=(), verified=verified)
    act.check_working_range(loaded.statistics)
    return loaded


def weights(loaded: checkpoint.Loaded, config: Mapping, networks: Networks, *, verified: bool = True) -> dict[str, Any]:
    """Stage (i)'s weights for this config, and no others are read from disk.

    ValueError when they are of another variant or were made with other networks or views.
    """
    before = training.filled(loaded.config)
    found = (line for name in SAME for line in training.compare(before[name], config[name], name))
    differences = [line for line in found if line.split(":")[0] not in FREE]
    if differences:
        told = "; ".join(differences)
        raise ValueError(f"{config['init_from']} was pre-trained otherwise; {told}. Use the same sections in both configs")
    names = ("clamp", "policy") if networks.clamp is not None else ("policy",)
    return checkpoint.load_params(config["init_from"], step=loaded.step, networks=names, verified=verified).params


def main(_: list[str]) -> None:
    """The command line; bad input ends it with one line."""
    logging.set_verbosity(logging.WARNING)  # orbax tells of every file
    try:
        processes.start(FLAGS.distributed, FLAGS.processes, FLAGS.process)
        about = {"resnet": FLAGS.resnet, "verified": FLAGS.verify == "on", "embeddings": FLAGS.embeddings}
        run(FLAGS.config, FLAGS.workdir, **about, see=seeing.from_flags())
    except (ValueError, OSError, training.TrainingError) as error:
        raise SystemExit(f"error: {error}") from error


if __name__ == "__main__":
    FLAGS = flags.FLAGS
    config_flags.DEFINE_config_file("config", "experiments/configs/finetune.py:demo", "file:preset", lock_config=True)
    flags.DEFINE_string("workdir", None, "folder of the run", required=True)
    flags.DEFINE_string("resnet", "", "FILE, for variant scratch: ImageNet's ResNet-50, torchvision's or timm's safetensors")
    flags.DEFINE_enum("verify", "on", ["on", "off"], "off: restore checkpoints without comparing their SHA-256; bad bytes go unseen")
    help_text = "folder for what frozen encoders give of recorded data; auto: the run's, where that serves; off: run them at every step"
    flags.DEFINE_string("embeddings", embedding.AUTO, help_text)
    seeing.define_flags()
    flags.DEFINE_string("distributed", "off", processes.FLAG_HELP)
    flags.DEFINE_integer("processes", 0, processes.COUNT_HELP)
    flags.DEFINE_integer("process", -1, processes.INDEX_HELP)
    app.run(main)
