"""Where a token is in space, for attention: STRING in three coordinates (arXiv 2502.02562), in metres.

A STRING turns queries and keys by R(r) = RoPE(r) P, with one orthogonal P per head and r the token's position, so that
logits depend on the vector between two tokens alone. Frequencies act on metres: with RoPE's usual ones a 1.2 m table
turns a phase by about 1 rad and position is almost invisible, so ours start between one turn per 2.4 m and a quarter
turn per 2 cm.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Complex, Float

STRING_KINDS = ("cayley", "circulant", "rope")  # turn queries and keys
KINDS = (*STRING_KINDS, "absolute", "none")  # "absolute": learned, one vector a patch, added by the view encoder

TABLE_SPAN_M = 1.2
RESOLUTION_M = 0.02
LOWEST_FREQUENCY = 2 * np.pi / (2 * TABLE_SPAN_M)  # rad/m: no aliasing over the table
HIGHEST_FREQUENCY = np.pi / 2 / RESOLUTION_M  # rad/m: a quarter turn in 2 cm

# Steps of Newton towards the nearest orthogonal matrix: the inverse is off by up to 1e-3 where S is large, each step squares that.
POLISHES = 2


def check_kind(kind: str) -> str:
    """The kind of position encoding itself; ValueError if there is no such kind."""
    if kind not in KINDS:
        raise ValueError(f"position encoding is {kind!r}; expected one of {', '.join(KINDS)}")
    return kind


def frequencies(key: jax.Array, heads: int, blocks: int) -> Float[Array, "heads 3 blocks"]:
    """Starting frequencies of the 2x2 blocks, rad/m: log-spaced sizes in directions drawn uniformly on the sphere.

    Directions are ours: axis-aligned ones would leave a third of the blocks to each coordinate and none to diagonals.
    """
    size = np.geomspace(LOWEST_FREQUENCY, HIGHEST_FREQUENCY, blocks).astype(np.float32)
    direction = jax.random.normal(key, (heads, 3, blocks))
    return direction / jnp.linalg.norm(direction, axis=1, keepdims=True) * size[None, None, :]


def angles(positions_m: Float[ArrayLike, "... n 3"], theta: Float[ArrayLike, "heads 3 blocks"]) -> Float[Array, "... n heads blocks"]:
    """Angle of each 2x2 block, sum_k r_k theta_{k,n}, rad (section 3 of arXiv 2502.02562)."""
    return jnp.einsum("...nk,hkd->...nhd", positions_m, theta, precision=jax.lax.Precision.HIGHEST)


def rotate(vectors: Float[ArrayLike, "... n heads d"], angle: Float[ArrayLike, "... n heads blocks"]) -> Float[Array, "... n heads d"]:
    """Turn block n, made of the entries n and n + d/2, by its angle in rad: RoPE.

    Halves are doubled and swapped by products with constants, which XLA does in half the time of slices on CPU.
    """
    vectors = jnp.asarray(vectors)
    eye = np.eye(vectors.shape[-1] // 2, dtype=np.float32)
    double = np.concatenate([eye, eye], axis=1)
    quarter_turn = np.block([[np.zeros_like(eye), eye], [-eye, np.zeros_like(eye)]])
    cos, sin = (_exact(part.astype(vectors.dtype), double) for part in (jnp.cos(angle), jnp.sin(angle)))
    return vectors * cos + _exact(vectors, quarter_turn) * sin


def _exact(x: jax.Array, matrix: np.ndarray) -> jax.Array:
    """x @ matrix of 0 and +-1 without rounding x, whatever the device's default precision is."""
    return jnp.matmul(x, jnp.asarray(matrix, x.dtype), precision=jax.lax.Precision.HIGHEST)


def cayley(raw: Float[ArrayLike, "heads d d"]) -> Float[Array, "heads d d"]:
    """P = (I - S)(I + S)^-1 of the antisymmetric S = raw - raw^T, one per head: orthogonal whatever `raw` holds.

    Section 3 of arXiv 2502.02562.
    """
    raw = jnp.asarray(raw, jnp.float32)
    return _cayley_of_skew(raw - raw.swapaxes(-1, -2))


@jax.custom_vjp
def _cayley_of_skew(skew: jax.Array) -> jax.Array:
    return _cayley_forward(skew)[0]


def _cayley_forward(skew: jax.Array) -> tuple[jax.Array, jax.Array]:
    """P = 2 (I + S)^-1 - I, and the inverse for the backward pass."""
    eye = jnp.broadcast_to(jnp.eye(skew.shape[-1], dtype=skew.dtype), skew.shape)
    mixer = 2 * _invert(eye + skew) - eye
    for _ in range(POLISHES):
        gram = jnp.matmul(mixer.swapaxes(-1, -2), mixer, precision=jax.lax.Precision.HIGHEST)
        mixer = mixer + 0.5 * jnp.matmul(mixer, eye - gram, precision=jax.lax.Precision.HIGHEST)
    return mixer, 0.5 * (mixer + eye)


def _cayley_backward(inverse: jax.Array, gradient: jax.Array) -> tuple[jax.Array]:
    """d(A^-1) = -A^-1 dA A^-1."""
    transposed = inverse.swapaxes(-1, -2)
    product = jnp.matmul(transposed, gradient, precision=jax.lax.Precision.HIGHEST)
    return (-2 * jnp.matmul(product, transposed, precision=jax.lax.Precision.HIGHEST),)


_cayley_of_skew.defvjp(_cayley_forward, _cayley_backward)


def _invert(matrices: jax.Array) -> jax.Array:
    """Inverses (heads, d, d) by Gauss-Jordan without pivots, which I + S never needs: its symmetric part is I.

    Ours: a LAPACK solve wakes BLAS's own threads, which fight XLA's for the cores and double the time of an attention.
    """
    size = matrices.shape[-1]

    def eliminate(k: jax.Array, a: jax.Array) -> jax.Array:
        here = jnp.arange(size) == k
        at_row, at_column = here[None, :, None], here[None, None, :]
        row, column = jax.lax.dynamic_slice_in_dim(a, k, 1, -2), jax.lax.dynamic_slice_in_dim(a, k, 1, -1)
        row = jnp.where(at_column, 1.0, row) / jax.lax.dynamic_slice_in_dim(row, k, 1, -1)
        rest = jnp.where(at_column, 0.0, a) - jnp.where(at_row, 0.0, column) * row
        return jnp.where(at_row, row, rest)

    return jax.lax.fori_loop(0, size, eliminate, matrices)


def spectrum(generator: Float[ArrayLike, "heads 3 d"]) -> Complex[Array, "heads 3 half"]:
    """Eigenvalues mu of L = C - C^T for circulant C with first column `generator`: FFT(c) - conj(FFT(c)), imaginary."""
    transform = jnp.fft.rfft(jnp.asarray(generator, jnp.float32), axis=-1)
    return transform - jnp.conj(transform)


def circulant(
    vectors: Float[ArrayLike, "... n heads d"],
    positions_m: Float[ArrayLike, "... n 3"],
    generator: Float[ArrayLike, "heads 3 d"],
) -> Float[Array, "... n heads d"]:
    """exp(sum_k r_k L_k) applied to each vector by FFT in O(d log d) (section 3 of arXiv 2502.02562)."""
    vectors = jnp.asarray(vectors)
    phase = angles(positions_m, jnp.imag(spectrum(generator)))
    turned = jnp.fft.rfft(vectors.astype(jnp.float32), axis=-1) * jnp.exp(1j * phase)
    return jnp.fft.irfft(turned, n=vectors.shape[-1], axis=-1).astype(vectors.dtype)


def circulant_generator(key: jax.Array, heads: int, head_dim: int) -> Float[Array, "heads 3 d"]:
    """First columns c_k whose circulant STRING starts with the frequencies of `frequencies`.

    The constant and the Nyquist component of a real vector cannot turn, so d/2 - 1 blocks carry position.
    """
    theta = frequencies(key, heads, head_dim // 2 - 1)
    spectrum_half = jnp.pad(theta, ((0, 0), (0, 0), (1, 1))) * 0.5j
    return jnp.fft.irfft(spectrum_half, n=head_dim, axis=-1)


def fold(kernel: Float[ArrayLike, "... heads d"], mixer: Float[ArrayLike, "heads d d"]) -> Float[Array, "... heads d"]:
    """P applied to the last axis: of a query or key projection (kernel or bias), which P folds into, or of a vector."""
    return jnp.einsum("...hd,hed->...he", kernel, mixer, precision=jax.lax.Precision.HIGHEST)


class Mixer(nn.Module):
    """Cayley's P, one per head, from an S that is learned and starts at 0, where P is the identity.

    P stands between a projection and the rotation, so it goes into the projection's weights (`fold`), in training too:
    that costs nothing, and deployment stores the product.
    """

    heads: int
    head_dim: int

    @nn.compact
    def __call__(self) -> Float[Array, "heads d d"]:
        return cayley(self.param("skew", nn.initializers.zeros_init(), (self.heads, self.head_dim, self.head_dim)))


class StringPosition(nn.Module):
    """Turns queries and keys by their tokens' positions; the same parameters for both, which makes logits invariant.

    kind: "circulant", or "rope", which learns its frequencies; "cayley" is "rope" after a `Mixer`.
    """

    kind: str

    @nn.compact
    def __call__(
        self,
        query: Float[Array, "b n heads d"],
        key: Float[Array, "b n heads d"],
        positions_m: Float[ArrayLike, "b n 3"],
    ) -> tuple[Float[Array, "b n heads d"], Float[Array, "b n heads d"]]:
        heads, head_dim = query.shape[-2:]
        if head_dim % 2 or head_dim < 4:
            raise ValueError(f"width of one head is {head_dim}; STRING turns 2x2 blocks: pass an even width of 4 or more")
        if self.kind == "circulant":
            generator = self.param("generator", circulant_generator, heads, head_dim)
            return circulant(query, positions_m, generator), circulant(key, positions_m, generator)
        angle = angles(positions_m, self.param("theta", frequencies, heads, head_dim // 2))
        return rotate(query, angle), rotate(key, angle)
