"""Pre-LN transformer blocks, the same for every network here: no dropout, no mutable collections."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from clamp_jax.models.position import STRING_KINDS, Mixer, StringPosition, check_kind, fold

IMPLEMENTATIONS = ("auto", "plain", "xla", "cudnn")
MASKED = -1e30  # added to logits; a row in which all are masked stays finite


class TransformerConfig(NamedTuple):
    """Size and switches of a stack of blocks."""

    width: int
    depth: int
    heads: int
    mlp_ratio: float = 4.0
    position: str = "none"  # models.position.KINDS
    causal: bool = False
    activation: str = "gelu"  # "gelu", "exact_gelu" or "quick_gelu" (CLIP's)
    remat: bool = False  # recompute the blocks in the backward pass: less memory, a third more time
    # Of attention: "plain" (ours, half the time on CPU), or jax.nn's "auto", "xla" (what exports), or "cudnn", the fused kernel of an
    # NVIDIA GPU in bfloat16, where it takes the shapes (not a probe's one query, not 51 masked commands); XLA's there.
    implementation: str = "auto"
    dtype: str = "float32"  # of the computation; parameters are float32
    epsilon: float = 1e-5  # of LayerNorm; CLIP's


class Encoded(NamedTuple):
    """What an encoder gives: one embedding of all, and its tokens with the mask of those that carry something."""

    pooled: Array  # (b, width)
    tokens: Array  # (b, n, width)
    mask: Array  # (b, n) bool; the other tokens are to be masked out


def alone(pooled: Float[ArrayLike, "b width"]) -> Encoded:
    """An embedding whose one token is itself."""
    pooled = jnp.asarray(pooled)
    return Encoded(pooled, pooled[:, None], jnp.ones((pooled.shape[0], 1), bool))


def activation(name: str) -> Callable[[jax.Array], jax.Array]:
    """The activation function called `name`; ValueError if there is none."""
    exact = partial(nn.gelu, approximate=False)
    table = {"gelu": nn.gelu, "exact_gelu": exact, "quick_gelu": lambda x: x * nn.sigmoid(1.702 * x), "relu": nn.relu}
    if name not in table:
        raise ValueError(f"activation is {name!r}; expected one of {', '.join(table)}")
    return table[name]


def layer_norm(config: TransformerConfig, name: str) -> nn.LayerNorm:
    """The LayerNorm of a stack of blocks."""
    return nn.LayerNorm(epsilon=config.epsilon, dtype=config.dtype, name=name)


def attend(
    query: Float[Array, "b n heads d"],
    key: Float[Array, "b m heads d"],
    value: Float[Array, "b m heads d"],
    mask: Bool[ArrayLike, "b m"] | None = None,
    *,
    causal: bool = False,
    implementation: str = "auto",
) -> Float[Array, "b n heads d"]:
    """softmax(q.k / sqrt(d)) v over the keys where `mask` is True; the plain mean of all values where it is nowhere.

    implementation: of TransformerConfig. Raises ValueError for another, and for the fused kernel with other than half precision.
    """
    if implementation not in IMPLEMENTATIONS:
        raise ValueError(f"implementation of attention is {implementation!r}; expected one of {', '.join(IMPLEMENTATIONS)}")
    mask = None if mask is None else jnp.asarray(mask)[:, None, None, :]
    if implementation == "plain":
        return _plain_attention(query, key, value, mask, causal)
    if implementation == "cudnn" and not _fits_cudnn(query, key, mask):
        implementation = "xla"
    if implementation == "cudnn" and mask is not None:  # the kernel does not broadcast over queries
        mask = jnp.broadcast_to(mask, (*mask.shape[:2], query.shape[1], key.shape[1]))
    chosen = None if implementation == "auto" else implementation
    return jax.nn.dot_product_attention(query, key, value, mask=mask, is_causal=causal, implementation=chosen)


def _fits_cudnn(query: jax.Array, key: jax.Array, mask: jax.Array | None) -> bool:
    """Whether the fused kernel takes this attention: with a mask it trains on even numbers of queries and keys alone."""
    if query.dtype not in (jnp.bfloat16, jnp.float16):
        raise ValueError(f'attention "cudnn" got {query.dtype}; it computes in half precision: override ("*.dtype", "bfloat16") too')
    return query.shape[-1] % 8 == 0 and (mask is None or (query.shape[1] % 2 == 0 and key.shape[1] % 2 == 0))


def _plain_attention(query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array | None, causal: bool) -> jax.Array:
    """Attention that divides by the sum of weights at the end, on n x d numbers and not on n x n."""
    query, key, value = (x.swapaxes(1, 2) for x in (query * query.shape[-1] ** -0.5, key, value))
    logits = jnp.einsum("bhnd,bhmd->bhnm", query, key, preferred_element_type=jnp.float32)
    if mask is not None:
        logits = logits + jnp.where(mask, 0, MASKED)
    if causal:
        logits = logits + jnp.where(np.tri(*logits.shape[-2:], dtype=bool), 0, MASKED)[None, None]
    weight = jnp.exp(logits - jax.lax.stop_gradient(logits.max(axis=-1, keepdims=True)))
    out = jnp.einsum("bhnm,bhmd->bhnd", weight.astype(value.dtype), value, preferred_element_type=jnp.float32)
    return (out / weight.sum(axis=-1, keepdims=True)).astype(value.dtype).swapaxes(1, 2)


class Mlp(nn.Module):
    """Two layers with an activation between them: (..., c) to (..., width)."""

    hidden: int
    width: int
    activation: str = "gelu"
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Float[ArrayLike, "... c"]) -> Float[Array, "... width"]:
        x = activation(self.activation)(nn.Dense(self.hidden, dtype=self.dtype, name="up")(x))
        return nn.Dense(self.width, dtype=self.dtype, name="down")(x)


class Projection(nn.Module):
    """Linear map to the vectors of all heads, with P folded into it if `mixer` is given."""

    heads: int
    head_dim: int
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "b n c"], mixer: Float[Array, "heads d d"] | None = None) -> Float[Array, "b n heads d"]:
        init = nn.initializers.lecun_normal(in_axis=0, out_axis=(1, 2))
        kernel = self.param("kernel", init, (x.shape[-1], self.heads, self.head_dim))
        bias = self.param("bias", nn.initializers.zeros_init(), (self.heads, self.head_dim))
        if mixer is not None:
            kernel, bias = fold(kernel, mixer), fold(bias, mixer)
        flat = x.astype(self.dtype) @ kernel.astype(self.dtype).reshape(x.shape[-1], -1)  # flat: one plain matrix product
        return flat.reshape(*x.shape[:2], self.heads, self.head_dim) + bias.astype(self.dtype)[None, None]


class Attention(nn.Module):
    """Multi-head attention of x to itself, or to `memory` (cross-attention, which takes no positions)."""

    config: TransformerConfig

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b n w"],
        *,
        mask: Bool[ArrayLike, "b m"] | None = None,
        positions_m: Float[ArrayLike, "b n 3"] | None = None,
        memory: Float[Array, "b m u"] | None = None,
    ) -> Float[Array, "b n w"]:
        """Attend to the tokens where `mask` is True; a row that sees nothing gets their plain mean, never NaN."""
        config = self.config
        source, kind = (x, config.position) if memory is None else (memory, "none")
        placed = positions_m is not None and kind in STRING_KINDS
        mixer = Mixer(config.heads, self._head_dim(), name="mixer")() if placed and kind == "cayley" else None
        query, key = self._project("query")(x, mixer), self._project("key")(source, mixer)
        if placed:
            query, key = StringPosition("rope" if kind == "cayley" else kind, name="string")(query, key, positions_m)
        causal = config.causal and memory is None
        value = self._project("value")(source)
        out = attend(query, key, value, mask, causal=causal, implementation=config.implementation)
        return nn.DenseGeneral(x.shape[-1], axis=(-2, -1), dtype=config.dtype, name="out")(out)

    def _head_dim(self) -> int:
        width, heads = self.config.width, self.config.heads
        if width % heads:
            raise ValueError(f"width {width} does not divide into {heads} heads; pass a multiple")
        return width // heads

    def _project(self, name: str) -> Projection:
        return Projection(self.config.heads, self._head_dim(), self.config.dtype, name=name)


class Block(nn.Module):
    """Self-attention, cross-attention if `memory` is given, MLP; each after a LayerNorm and added to the stream."""

    config: TransformerConfig

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b n w"],
        *,
        mask: Bool[ArrayLike, "b n"] | None = None,
        positions_m: Float[ArrayLike, "b n 3"] | None = None,
        memory: Float[Array, "b m u"] | None = None,
        memory_mask: Bool[ArrayLike, "b m"] | None = None,
    ) -> Float[Array, "b n w"]:
        config = self.config
        normed = layer_norm(config, "norm_self")(x)
        x = x + Attention(config, name="self")(normed, mask=mask, positions_m=positions_m)
        if memory is not None:
            normed = layer_norm(config, "norm_cross")(x)
            x = x + Attention(config, name="cross")(normed, mask=memory_mask, memory=memory)
        hidden = round(config.width * config.mlp_ratio)
        return x + Mlp(hidden, config.width, config.activation, config.dtype, name="mlp")(layer_norm(config, "norm_mlp")(x))


class Transformer(nn.Module):
    """`depth` blocks and a last LayerNorm."""

    config: TransformerConfig

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b n w"],
        *,
        mask: Bool[ArrayLike, "b n"] | None = None,
        positions_m: Float[ArrayLike, "b n 3"] | None = None,
        memory: Float[Array, "b m u"] | None = None,
        memory_mask: Bool[ArrayLike, "b m"] | None = None,
    ) -> Float[Array, "b n w"]:
        check_kind(self.config.position)
        block = nn.remat(Block) if self.config.remat else Block
        for index in range(self.config.depth):
            layer = block(self.config, name=f"block_{index}")
            x = layer(x, mask=mask, positions_m=positions_m, memory=memory, memory_mask=memory_mask)
        return layer_norm(self.config, "norm")(x)


class AttentionPool(nn.Module):
    """MAP head: a learned probe attends to the tokens, then an MLP (arXiv 2106.04560's pooling): (b, n, w) to (b, w)."""

    config: TransformerConfig

    @nn.compact
    def __call__(self, x: Float[Array, "b n w"], mask: Bool[ArrayLike, "b n"] | None = None) -> Float[Array, "b w"]:
        config = self.config
        probe = self.param("probe", nn.initializers.xavier_uniform(), (1, 1, config.width))
        probe = jnp.broadcast_to(probe, (x.shape[0], 1, config.width)).astype(x.dtype)
        pooled = Attention(config, name="cross")(probe, mask=mask, memory=x)
        hidden = round(config.width * config.mlp_ratio)
        mlp = Mlp(hidden, config.width, config.activation, config.dtype, name="mlp")
        return (pooled + mlp(layer_norm(config, "norm")(pooled)))[:, 0]
