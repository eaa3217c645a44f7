"""The two training steps: (state, batch, reduction) -> (state, metrics), pure, written for the global batch, not jitted here.

Stage (i) trains the three encoders with three sigmoid pair losses and, in parallel, the diffusion policy; stage (ii) trains
the policy alone, from stage (i)'s weights. `Networks` holds all that is static; parameters are a plain tree
{"clamp": ..., "policy": ...}, of which a variant without encoders has "policy" alone.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, UInt8, UInt32

from clamp_jax import batching, diffusion, losses, observe, optim, parallel
from clamp_jax.data.transforms import normalise
from clamp_jax.models.attention import Encoded, alone
from clamp_jax.networks import Networks
from clamp_jax.parallel import Reduction
from clamp_jax.structs import CAMERAS, Batch, Observation, StateExample, TrainState

Metrics = dict[str, Array]
Gradient = Callable[[dict[str, Any]], tuple[tuple[Array, Metrics], dict[str, Any]]]  # trained parameters -> ((loss, figures), gradients)


class Spec(NamedTuple):
    """What a training step is made of."""

    networks: Networks
    optimiser: optax.GradientTransformation  # of the trained networks' parameters
    trained: tuple[str, ...]  # which networks this stage updates; the others are frozen
    ema_power: float = 0.75
    ema_maximum: float = 0.9999
    mask_false_negatives: bool = True  # pairs of one trajectory or one prompt are no negatives
    accumulate: int = 1  # parts in which a device does its rows, one after the other; negatives are the whole batch's all the same


class Inputs(NamedTuple):
    """A batch as the networks take it."""

    rgb: UInt8[Array, "b k h w 3"]
    views: Float[Array, "b v h w 4"] | None  # None where no encoder reads them
    joints: Float[Array, "b 14"]  # normalised
    past: Float[Array, "b t 14"]  # normalised, 0 where the mask is False
    past_mask: Bool[Array, "b t"]
    embedded: Float[Array, "b 2 d"] | None = None  # of the image and the action encoder, where they were run before


class Goals(NamedTuple):
    """What the losses need beside the inputs."""

    tokens: Int[Array, "b l"]
    actions: Float[Array, "b t 14"]  # normalised
    mask: Bool[Array, "b t"]
    keys: Array  # (b,) for timesteps and noise
    ids: UInt32[Array, "b 3"] | None  # by which false negatives are told (`losses.row_ids`); None: all other rows are negatives


def make_optimiser(
    rates: Mapping[str, float],
    *,
    steps: int,
    warmup: int,
    weight_decay: float,
    clip: float,
    frozen: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> optax.GradientTransformation:
    """AdamW with warm-up and cosine for each network by name, with its own peak learning rate and its own clipping.

    Ours: the networks share no gradient, so a spike of one does not shrink the step of the other. frozen: paths of
    parameters that stay as they are, by the network's name.
    """
    each = {}
    for name, rate in rates.items():
        schedule = optim.warmup_cosine(rate, warmup=warmup, steps=steps)
        each[name] = optim.freeze(optim.adamw(schedule, weight_decay=weight_decay, clip=clip), frozen.get(name, ()))
    return optax.partition(each, {name: name for name in rates})


def frozen_parts(networks: Networks) -> dict[str, tuple[str, ...]]:
    """Paths of parameters that a stage that trains their network leaves alone: those of a text encoder that was loaded."""
    return {"clamp": ("clamp/text",)} if networks.clamp is not None and networks.clamp.config.text_frozen else {}


def init(spec: Spec, key: Array, batch: Batch) -> TrainState:
    """A fresh state whose shapes fit a batch; only the batch's shapes are used. To be run under jit or jax.eval_shape."""
    return begin(spec, init_params(spec.networks, key, batch))


def begin(spec: Spec, params: Mapping[str, Any]) -> TrainState:
    """The state before the first step, with these parameters: stage (ii) begins so with stage (i)'s weights."""
    params = jax.tree.map(jnp.asarray, dict(params))
    return TrainState(jnp.zeros((), jnp.int32), params, spec.optimiser.init(_trained(spec, params)), _copy(params))


def init_params(networks: Networks, key: Array, batch: Batch) -> dict[str, Any]:
    """Fresh parameters {"clamp": ..., "policy": ...}; those of the policy do not depend on whether there are encoders."""
    inputs, goals = jax.eval_shape(lambda batch: prepare(networks, batch, parallel.GLOBAL), batch)
    inputs, tokens, actions = jax.tree.map(lambda x: jnp.zeros((1, *x.shape[1:]), x.dtype), (inputs, goals.tokens, goals.actions))
    encoder_key, policy_key = jax.random.split(key)
    embeddings = (_nothing(networks, 1),) * 2 if networks.variant.embeddings else (None, None)
    params = {}
    if networks.clamp is not None:
        params["clamp"] = networks.clamp.init(encoder_key, inputs.views, inputs.past, inputs.past_mask, tokens)["params"]
    policy = networks.policy.init(policy_key, inputs.rgb, inputs.joints, *embeddings, actions, jnp.zeros(1, jnp.int32))
    return params | {"policy": policy["params"]}


def pretrain_step(spec: Spec, state: TrainState, batch: Batch, reduction: Reduction) -> tuple[TrainState, Metrics]:
    """One step of stage (i): three pair losses for the encoders, and the policy's diffusion loss behind a stop-gradient."""
    networks = spec.networks
    inputs, goals = prepare(networks, batch, reduction)
    goals = goals if spec.mask_false_negatives else goals._replace(ids=None)
    if spec.accumulate > 1:
        return _update(spec, state, accumulated(spec, state.params, inputs, goals, reduction), reduction)

    def objective(part: dict[str, Any]) -> tuple[Array, Metrics]:
        params = state.params | part
        contrastive, embeddings, found = contrast(networks, params, inputs, goals, reduction)
        read = ablate(networks, jax.lax.stop_gradient(embeddings), reduction)
        loss = diffuse(networks, params["policy"], inputs, goals, read, reduction)
        return contrastive + loss, found | {"loss/diffusion": loss}

    return _update(spec, state, jax.value_and_grad(objective, has_aux=True), reduction)


def finetune_step(spec: Spec, state: TrainState, batch: Batch, reduction: Reduction) -> tuple[TrainState, Metrics]:
    """One step of stage (ii): the diffusion loss alone; the encoders are frozen and no gradient is taken through them."""
    networks = spec.networks
    inputs, goals = prepare(networks, batch, reduction)
    if spec.accumulate > 1:
        return _update(spec, state, accumulated(spec, state.params, inputs, goals, reduction, contrasted=False), reduction)
    embeddings = ablate(networks, embed(networks, state.params, inputs), reduction)

    def objective(part: dict[str, Any]) -> tuple[Array, Metrics]:
        loss = diffuse(networks, (state.params | part)["policy"], inputs, goals, embeddings, reduction)
        return loss, {"loss/diffusion": loss}

    return _update(spec, state, jax.value_and_grad(objective, has_aux=True), reduction)


def prepare(networks: Networks, batch: Batch, reduction: Reduction) -> tuple[Inputs, Goals]:
    """Sense, render and normalise a batch; simulated examples get their images here, each by its own key.

    Every device prepares its own rows, its simulated ones first. Raises ValueError when simulated and recorded images differ in size.
    """
    return reduction.local(lambda _, rows: _prepare(networks, rows), None, batch)


def _prepare(networks: Networks, batch: Batch) -> tuple[Inputs, Goals]:
    keys = jax.vmap(lambda key: jax.random.split(key, 3))(batch.keys)
    embedded = kept_embeddings(batch)
    seen_by = networks if embedded is None else networks._replace(clamp=None)  # nobody looks at the views then
    inputs = see(seen_by, observations(networks, batch, keys[:, 0]), keys[:, 1])._replace(embedded=embedded)
    parts = [(part.labels, part.target) for part in (batch.states, batch.images) if part is not None]
    labels, target = _concatenate(parts)
    ids = losses.row_ids(labels.trajectory, labels.tokens)
    return inputs, Goals(labels.tokens, normalise(target.actions), target.mask, keys[:, 2], ids)


def kept_embeddings(batch: Batch) -> Array | None:
    """What frozen encoders gave of a batch's examples before, (b, 2, d); None where they are to be run.

    Raises ValueError where some examples have embeddings and some do not.
    """
    if batch.images is None or batch.images.embedded is None:
        return None
    if batch.states is not None:
        raise ValueError("recorded examples carry embeddings, simulated ones do not; give a batch of recorded ones alone, or none of them")
    return batch.images.embedded


def observations(networks: Networks, batch: Batch, keys: Array) -> Observation:
    """Observations of a batch, simulated examples first; without sight their images are zeros and nothing is sensed."""
    parts = []
    if batch.states is not None:
        states = batch.states
        make = _sense if networks.variant.sight else _unseen
        parts.append(batching.each(lambda one, key: make(networks, one, key), states, keys[: len(states.joints)]))
    if batch.images is not None:
        recorded = batch.images.observation
        parts.append(recorded if networks.variant.sight else recorded._replace(rgb=recorded.rgb * 0, depth_m=recorded.depth_m * 0))
    shapes = [part.rgb.shape[1:] for part in parts]
    if len(set(shapes)) > 1:
        raise ValueError(
            f"simulated images are {shapes[0]}, recorded ones {shapes[1]} (camera, height, width, 3); "
            "set camera_height and camera_width of the model's preset to the records'"
        )
    return _concatenate(parts)


def see(networks: Networks, observation: Observation, keys: Array) -> Inputs:
    """What the networks take of observations (b, ...); views are rendered only where an encoder reads them."""
    views = None
    if networks.clamp is not None:
        views = batching.each(lambda one, key: observe.render_views(one, networks.views, key), observation, keys)
    mask = observation.past_mask
    past = jnp.where(mask[..., None], normalise(observation.past_actions), 0.0)
    rgb = observation.rgb if networks.variant.sight else jnp.zeros_like(observation.rgb)
    return Inputs(rgb, views, normalise(observation.joints), past, mask)


Embeddings = tuple[Encoded, Encoded] | tuple[None, None]  # of the image and of the action encoder


def embed(networks: Networks, params: Mapping[str, Any], inputs: Inputs) -> Embeddings:
    """What image and action encoder give; zeros without sight, None where the policy reads nothing of them."""
    if not networks.variant.embeddings:
        return None, None
    if inputs.embedded is not None:
        return alone(inputs.embedded[:, 0]), alone(inputs.embedded[:, 1])
    if networks.clamp is None:
        return (_nothing(networks, len(inputs.joints)),) * 2
    variables, tokens = {"params": params["clamp"]}, networks.policy.config.embeddings == "tokens"
    image = networks.clamp.apply(variables, inputs.views, tokens=tokens, method="encode_images")
    return image, networks.clamp.apply(variables, inputs.past, inputs.past_mask, tokens=tokens, method="encode_actions")


def ablate(networks: Networks, embeddings: Embeddings, reduction: Reduction) -> Embeddings:
    """What the policy reads of them: all, zeros, or another example's, each then of the same distribution but of no use.

    A policy that acts on one observation alone has no other's and reads its own, which one trained so takes no notice of.
    """
    if networks.embeddings == "zeroed":
        return jax.tree.map(lambda x: x if x.dtype == bool else jnp.zeros_like(x), embeddings)
    return jax.tree.map(reduction.shift, embeddings) if networks.embeddings == "shuffled" else embeddings


def contrast(
    networks: Networks, params: Mapping[str, Any], inputs: Inputs, goals: Goals, reduction: Reduction
) -> tuple[Array, Embeddings, Metrics]:
    """Sum of the pair losses with equal weights (ours), what the encoders gave, and figures of each pair."""
    embeddings, by_name = encode(networks, params, inputs, goals.tokens)
    total, found = compare(networks, params, by_name, goals.ids, reduction)
    return total, embeddings, found


def encode(networks: Networks, params: Mapping[str, Any], inputs: Inputs, tokens: Array) -> tuple[Embeddings, dict[str, Array]]:
    """What the encoders give for the policy, and what is contrasted: the pooled embedding of each by its name."""
    embeddings = embed(networks, params, inputs)
    if networks.clamp is None:
        return embeddings, {}
    by_name = {"image": embeddings[0].pooled, "action": embeddings[1].pooled}
    if networks.clamp.config.text is not None:
        by_name["text"] = networks.clamp.apply({"params": params["clamp"]}, tokens, method="encode_text")
    return embeddings, by_name


def compare(
    networks: Networks, params: Mapping[str, Any], by_name: Mapping[str, Array], ids: Array | None, reduction: Reduction
) -> tuple[Array, Metrics]:
    """Sum of the pair losses of the global batch's embeddings, and figures of each pair; of the parameters it reads the temperatures."""
    total, found = jnp.zeros(()), {}
    if networks.clamp is None:
        return total, found
    scales = networks.clamp.apply({"params": params["clamp"]}, method="pairs")
    for pair in networks.clamp.config.pairs:
        one, two = (by_name[name] for name in pair.split("_"))
        log_scale, bias = scales[pair]
        loss, top1 = reduction.pair(one, two, log_scale, bias, ids)
        total = total + loss
        found |= {f"loss/{pair}": loss, f"top1/{pair}": top1, f"t/{pair}": jnp.exp(log_scale), f"b/{pair}": bias}
    return total, found


def diffuse(
    networks: Networks, policy: Any, inputs: Inputs, goals: Goals, embeddings: Embeddings, reduction: Reduction
) -> Array:
    """The policy's diffusion loss: this device's share, of which the mean over devices is the global batch's."""
    return _diffuse(networks, policy, inputs, goals, embeddings, of=reduction.mean(_unmasked(goals)))


def _unmasked(goals: Goals) -> Array:
    return jnp.sum(goals.mask).astype(jnp.float32)


def _diffuse(networks: Networks, policy: Any, inputs: Inputs, goals: Goals, embeddings: Embeddings, *, of: Array) -> Array:
    """The share of these rows in a loss over `of` unmasked steps: a mean over steps, of which parts and devices hold unequal numbers."""
    variables = {"params": policy}
    memory = networks.policy.apply(variables, inputs.rgb, inputs.joints, *embeddings, method="encode")
    loss = diffusion.diffusion_loss(
        lambda memory, noisy, timestep: networks.policy.apply(variables, memory, noisy, timestep, method="denoise"),
        memory,
        goals.actions,
        goals.mask,
        goals.keys,
        schedule=networks.schedule,
        draws=networks.draws,
        prediction=networks.policy.config.prediction,
    )
    return loss * _unmasked(goals) / jnp.maximum(of, 1)


def accumulated(
    spec: Spec, params: Mapping[str, Any], inputs: Inputs, goals: Goals, reduction: Reduction, *, contrasted: bool = True
) -> Gradient:
    """The gradient in `spec.accumulate` parts, for memory, with the negatives of the whole batch: two passes (GradCache, arXiv 2101.06983).

    First all embeddings, of which nothing is kept for a backward pass; of them the pair losses and their gradient. Then every part
    once more, with that gradient as its embeddings' cotangent. Inputs and keys are the same in both. The policy reads the first
    pass's embeddings: it takes no gradient through them.
    """
    networks, parts = spec.networks, spec.accumulate

    def first(params: Mapping[str, Any], *rows: Any) -> tuple[Embeddings, dict[str, Array]]:
        if contrasted:
            return batching.in_parts(functools.partial(encode, networks, params), parts, *rows)
        return batching.in_parts(functools.partial(embed, networks, params), parts, rows[0]), {}

    def share(trained: dict, params: Mapping[str, Any], of: Array, rows: tuple) -> tuple[Array, Array]:
        inputs, goals, read, cotangents = rows
        now = params | trained
        loss = _diffuse(networks, now["policy"], inputs, goals, read, of=of)
        by_name = encode(networks, now, inputs, goals.tokens)[1] if cotangents else {}
        return loss + sum(jnp.sum(by_name[name] * cotangents[name]) for name in cotangents), loss

    def second(shared: tuple, *rows: Any) -> tuple[Array, dict]:
        def of_part(*rows: Any) -> tuple[Array, dict]:
            (_, loss), gradients = jax.value_and_grad(share, has_aux=True)(*shared, rows)
            return loss, gradients

        return batching.sum_of_parts(of_part, parts, *rows)

    def gradient(trained: dict[str, Any]) -> tuple[tuple[Array, Metrics], dict[str, Any]]:
        now = params | trained
        embeddings, by_name = reduction.local(first, now, inputs, goals.tokens)
        pairs = lambda trained, by_name: compare(networks, params | trained, by_name, goals.ids, reduction)  # noqa: E731
        if contrasted:
            (loss, found), (of_scales, cotangents) = jax.value_and_grad(pairs, (0, 1), has_aux=True)(trained, by_name)
        else:
            loss, found, of_scales, cotangents = jnp.zeros(()), {}, jax.tree.map(jnp.zeros_like, trained), {}
        read, of = ablate(networks, embeddings, reduction), reduction.mean(_unmasked(goals))
        diffused, gradients = reduction.total(second, (trained, params, of), inputs, goals, read, cotangents)
        return (loss + diffused, found | {"loss/diffusion": diffused}), jax.tree.map(jnp.add, gradients, of_scales)

    return gradient


def _update(spec: Spec, state: TrainState, gradient: Gradient, reduction: Reduction) -> tuple[TrainState, Metrics]:
    """Gradient of the global batch, one step of the optimiser on the trained networks, and of their average."""
    trained = _trained(spec, state.params)
    (loss, found), gradients = gradient(trained)
    loss, found, gradients = reduction.mean((loss, found, gradients))
    updates, opt_state = spec.optimiser.update(gradients, state.opt_state, trained)
    new = optax.apply_updates(trained, updates)
    average = optim.ema_update(_trained(spec, state.ema), new, state.step, power=spec.ema_power, maximum=spec.ema_maximum)
    found |= {"loss": loss, "gradient_norm": optax.tree.norm(gradients)}
    found["update_ratio"] = optax.tree.norm(updates) / jnp.maximum(optax.tree.norm(trained), 1e-12)
    return TrainState(state.step + 1, state.params | new, opt_state, state.ema | average), found


def _trained(spec: Spec, params: Mapping[str, Any]) -> dict[str, Any]:
    return {name: params[name] for name in spec.trained}


def trained_networks(networks: Networks, stage: str) -> tuple[str, ...]:
    """Names of the networks a stage updates: all in "pretrain", the policy alone in "finetune"."""
    return ("clamp", "policy") if stage == "pretrain" and networks.clamp is not None else ("policy",)


def _nothing(networks: Networks, count: int) -> Encoded:
    """What an encoder gives that sees nothing."""
    return alone(jnp.zeros((count, networks.embedding)))


def _sense(networks: Networks, example: StateExample, key: Array) -> Observation:
    moment = (example.scene, example.calibration, example.joints, example.past_actions, example.past_mask)
    return observe.sense(*moment, config=networks.sensor, key=key)


def _unseen(networks: Networks, example: StateExample, key: Array) -> Observation:
    """An observation of darkness: what blind policies get, at no cost."""
    shape = (len(CAMERAS), networks.sensor.height, networks.sensor.width)
    rgb, depth_m = jnp.zeros((*shape, 3), jnp.uint8), jnp.zeros(shape)
    return Observation(rgb, depth_m, example.calibration, example.joints, example.past_actions, example.past_mask)


def _concatenate(parts: list[Any]) -> Any:
    return parts[0] if len(parts) == 1 else jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)


def _copy(tree: Any) -> Any:
    """Other buffers with the same values: a state is donated, and a buffer can be donated once."""
    return jax.tree.map(jnp.copy, tree)
