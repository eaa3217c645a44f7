"""What is left of the networks for inference: P inside the projections, no text encoder, attention that every platform runs."""

from collections.abc import Mapping
from typing import Any

from clamp_jax.models.attention import TransformerConfig
from clamp_jax.models.clamp import Clamp, ClampConfig
from clamp_jax.models.policy_net import PolicyNet
from clamp_jax.models.position import cayley, fold

TRAINING_ONLY = ("text", "text_projection", "image_text", "text_action", "image_action")  # of Clamp's parameters


def fold_clamp(clamp: Clamp, params: Mapping[str, Any]) -> tuple[Clamp, dict[str, Any]]:
    """Image and action encoder alone, with Cayley's P folded into the queries' and keys' projections.

    What is left of Cayley-STRING is "rope" with its learned frequencies: R(r) = RoPE(r) P (section 3 of arXiv 2502.02562).
    The embeddings are those of the unfolded network up to rounding.
    """
    config, params = clamp.config, {name: branch for name, branch in params.items() if name not in TRAINING_ONLY}
    image, action = config.image.transformer, config.action.transformer
    if image.position == "cayley":
        params["image"] = params["image"] | {"transformer": fold_transformer(params["image"]["transformer"])}
        image = image._replace(position="rope")
    image, action = config.image._replace(transformer=inference(image)), config.action._replace(transformer=inference(action))
    return Clamp(ClampConfig(image, action, text=None, embedding=config.embedding)), params


def fold_transformer(params: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters of a transformer's blocks with P in the projections and no P any more."""
    return {
        name: branch | {"self": fold_attention(branch["self"])} if name.startswith("block_") else branch for name, branch in params.items()
    }


def fold_attention(params: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters of one attention with P in its query and key; they are the same without P."""
    rest = {name: branch for name, branch in params.items() if name != "mixer"}
    if "mixer" not in params:
        return rest
    mixer = cayley(params["mixer"]["skew"])
    return rest | {name: {part: fold(value, mixer) for part, value in rest[name].items()} for name in ("query", "key")}


def inference_policy(policy: PolicyNet) -> PolicyNet:
    """The policy as it is exported; its parameters stay."""
    config = policy.config
    return PolicyNet(config._replace(encoder=inference(config.encoder), decoder=inference(config.decoder)))


def inference(config: TransformerConfig) -> TransformerConfig:
    """Attention of plain XLA operations, since a fused kernel does not export for several platforms, and nothing computed twice."""
    return config._replace(remat=False, implementation="plain" if config.implementation == "plain" else "xla")
