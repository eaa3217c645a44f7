"""Retrieval accuracy of a pre-training run's encoders on trajectories it was not trained on.

    python -m experiments.retrieve --checkpoint runs/pretrain --data runs/data/held_out --json out.json

A pool holds one frame each of 64 trajectories of one task, all at about the same progress; top-1 is how often the right partner
is the nearest by cosine, both ways, averaged over pools. Chance is 1 / 64. With the positions in the text permuted among the
pool's scenes, the sentences stay as good as before but no longer tell the scenes apart.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from clamp_jax import runtime

if __name__ == "__main__":
    runtime.setup(mjx=False)

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import ArrayLike

from clamp_jax import act, metrics, parallel, sensors, steps
from clamp_jax.data import pipeline, pools
from clamp_jax.data.prompts import Tokenize
from clamp_jax.data.transforms import Sizes
from clamp_jax.geometry.kinematics import aloha_calibration
from clamp_jax.models.clamp import PAIRS
from clamp_jax.networks import Networks
from clamp_jax.structs import Batch
from experiments import public, stages, training

SPLIT = 16  # examples embedded at once: bounds memory, not the result


def measure(
    run: act.RunPolicy, dataset: pipeline.Dataset, *, size: int = 64, draws: int = 5, seed: int = 0, text: str = ""
) -> dict[str, dict[str, float]]:
    """{pair: {top1, chance, top1_permuted}} of the run's averaged weights, means over `draws` pools of `size` trajectories.

    text: "clip:FOLDER" for a run with CLIP's text encoder. A pair without text does not see the permutation: its two numbers
    are one. Raises ValueError for a run without encoders or without text and for a data set with too few trajectories.
    """
    if run.networks.clamp is None:
        raise ValueError("this run has no encoders (its variant is a baseline); give one that was pre-trained with --config.variant=clamp")
    if run.networks.clamp.config.text is None:
        raise ValueError("this run has no text encoder (ablation.text was False); give one that was pre-trained with text")
    make = maker(run.networks, public.tokenizer(training.filled(run.loaded.config)["model"], text))
    embed, found = embedder(run.networks), []
    for pool in pools.retrieval_pools(dataset, make, seed=seed, size=size, draws=draws):
        true = embed(run.params, pool.batch)
        found.append(pool_accuracy(true, true | {"text": encode_text(run.networks, run.params, pool.permuted_tokens)}))
    mean = jax.tree.map(lambda *values: float(np.mean(values)), *found)
    return {pair: mean[pair] | {"chance": 1 / size} for pair in PAIRS}


def pool_accuracy(true: Mapping[str, Any], permuted: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Top-1 of each pair of one pool from its embeddings {"image", "text", "action"}, with true and with permuted sentences."""
    found = {}
    for pair in PAIRS:
        one, two = pair.split("_")
        top1 = [float(metrics.retrieval_top1(by_name[one], by_name[two]).top1) for by_name in (true, permuted)]
        found[pair] = dict(zip(("top1", "top1_permuted"), top1, strict=True))
    return found


def maker(networks: Networks, tokenize: Tokenize) -> pipeline.ExampleMaker:
    """Examples as these networks take them; geoms stand in the slots of the sensor's capacity."""
    sensor = networks.sensor
    calibration = aloha_calibration(sensor.height, sensor.width)
    sizes = Sizes(geoms=sensor.capacity)
    about = {"calibration": calibration, "delays": sensors.delays(sensor)}
    return pipeline.ExampleMaker(tokenize, text_length=networks.text_length, sizes=sizes, **about)


def embedder(networks: Networks) -> Any:
    """A function (params, batch) -> {"image", "text", "action"} of embeddings (b, d), compiled for parts of SPLIT examples."""

    @jax.jit
    def part(params: Any, batch: Batch) -> dict[str, jax.Array]:
        inputs, goals = steps.prepare(networks, batch, parallel.GLOBAL)
        image, action = steps.embed(networks, params, inputs)
        return {"image": image.pooled, "text": encode_text(networks, params, goals.tokens), "action": action.pooled}

    def whole(params: Any, batch: Batch) -> dict[str, np.ndarray]:
        count = len(batch.keys)
        index = np.arange(-(-count // SPLIT) * SPLIT).clip(max=count - 1).reshape(-1, SPLIT)  # the last part repeats its end
        parts = [part(params, jax.tree.map(lambda leaf, rows=rows: leaf[rows], batch)) for rows in index]
        return {name: np.concatenate([np.asarray(found[name]) for found in parts])[:count] for name in parts[0]}

    return whole


def encode_text(networks: Networks, params: Any, tokens: ArrayLike) -> jax.Array:
    """Embeddings (b, d) of sentences (b, l)."""
    return networks.clamp.apply({"params": params["clamp"]}, jnp.asarray(tokens), method="encode_text")


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Retrieval accuracy of pre-trained encoders on held-out trajectories.")
    parser.add_argument("--checkpoint", type=Path, required=True, help="folder of a pre-training run")
    parser.add_argument("--data", type=Path, required=True, help="data set of one task that the run was not trained on")
    parser.add_argument("--part", choices=("all", "held_out"), default="all", help="held_out: the tenth that training left out")
    parser.add_argument("--text", default="", help="clip:FOLDER, for a run that has CLIP's text encoder: the folder it began with")
    parser.add_argument("--pool", type=int, default=64)
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(argv)
    try:
        run = act.load_run(args.checkpoint)
        dataset = pipeline.open_dataset(args.data, part=args.part)
        run = run._replace(params=jax.tree.map(jnp.asarray, run.params))
        found = measure(run, dataset, size=args.pool, draws=args.draws, text=args.text)
    except (ValueError, OSError) as error:
        print(f"retrieve: {error}", file=sys.stderr)
        return 1
    for pair, entry in found.items():
        print(f"{pair}: top-1 {entry['top1']:.1%}, chance {entry['chance']:.1%}, positions permuted {entry['top1_permuted']:.1%}")
    if args.json:
        stages.write_json(args.json, found)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
