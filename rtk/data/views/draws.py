"""Random draws that depend on nothing but (seed, epoch, sample id, view).

A stateful generator gives a picture a different augmentation when the batch, the block or the number of
workers changes. A counter-based generator has no state: the draw for a sample is a hash of its own
coordinates, so that one worker and eight see the same pictures, and a resumed run continues with those that
the first one would have used.

Source: Philox-4x32-10 of Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
"""

import zlib

import numpy as np
from numpy.typing import ArrayLike, NDArray

_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_KEY_STEPS = (np.uint64(0x9E3779B9), np.uint64(0xBB67AE85))
_ROUNDS = 10
_LOW_32_BITS = np.uint64(0xFFFFFFFF)
_32 = np.uint64(32)
UNDERFLOW = 1e-290  # below it float64 loses digits, and then the number


def philox(counter: NDArray[np.uint64], key: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Philox-4x32-10: a block of four random words from a counter and a key.

    Args:
        counter: `(4, ...)` words below 2**32, held in uint64.
        key: `(2, ...)` words below 2**32, broadcast against the counter.

    Returns:
        `(4, ...)` words below 2**32, in uint64 (so that products of two words do not overflow).
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        product0, product1 = _MULTIPLIERS[0] * c0, _MULTIPLIERS[1] * c2
        c0, c1, c2, c3 = (
            (product1 >> _32) ^ c1 ^ k0,
            product1 & _LOW_32_BITS,
            (product0 >> _32) ^ c3 ^ k1,
            product0 & _LOW_32_BITS,
        )
        k0, k1 = (k0 + _KEY_STEPS[0]) & _LOW_32_BITS, (k1 + _KEY_STEPS[1]) & _LOW_32_BITS
    return np.stack([c0, c1, c2, c3])


def uniforms(seed: int, epoch: int, sample_ids: ArrayLike, view: str, count: int) -> NDArray[np.float64]:
    """Uniform numbers in the open interval (0, 1), one row per sample.

    Row `i` is a function of `(seed, epoch, sample_ids[i], view)` alone. Asking for more numbers leaves the
    first ones as they were. Different views ("crop", "pixmix", ...) are independent of each other.

    Args:
        seed: seed of the run, an integer of up to 64 bits.
        epoch: epoch, counted from 0.
        sample_ids: `(N,)` integers, the stable ids of the samples.
        view: name of what is drawn.
        count: how many numbers a sample needs.

    Returns:
        `(N, count)` float64 with 32 random bits each; never 0 nor 1, so logarithms and quantiles stay finite.

    Raises:
        ValueError: if `sample_ids` is not a vector of integers, or `epoch` or `count` is negative.
    """
    ids = np.asarray(sample_ids)
    if ids.ndim != 1 or not (np.issubdtype(ids.dtype, np.integer) or ids.size == 0):
        raise ValueError(f"sample_ids: got {ids.dtype} of shape {ids.shape}, wanted integers of shape (N,)")
    if epoch < 0 or count < 0:
        raise ValueError(f"epoch, count: got {epoch}, {count}, wanted both >= 0")

    # Seed, epoch and view are hashed into the key; sample and block number are the counter.
    view_hash = zlib.crc32(view.encode())  # hash() of a str changes from process to process
    key = philox(np.array([view_hash, 0, *_words(epoch)], np.uint64), np.array(_words(seed), np.uint64))[:2]
    low, high = ids.astype(np.uint64) & _LOW_32_BITS, ids.astype(np.uint64) >> _32
    block = np.arange(-(-count // 4), dtype=np.uint64)
    counter = np.stack(np.broadcast_arrays(block, np.uint64(0), low[:, None], high[:, None]))
    words = np.moveaxis(philox(counter, key), 0, -1).reshape(ids.size, 4 * block.size)[:, :count]
    return (words.astype(np.float64) + 0.5) * 2.0**-32


def beta(u: ArrayLike, a: float, b: float) -> NDArray[np.float64]:
    """Beta(a, b) variables as quantiles of uniform ones.

    Args:
        u: uniform numbers in (0, 1), any shape.
        a: first shape parameter, positive.
        b: second shape parameter, positive.

    Returns:
        Numbers in [0, 1], in the shape of `u`.

    Raises:
        ValueError: if a parameter is not positive and finite.
    """
    if not (0 < a < np.inf and 0 < b < np.inf):
        raise ValueError(f"a, b: got {a}, {b}, wanted both > 0 and finite")
    u = np.asarray(u, np.float64)
    if b == 1:
        return u ** (1 / a)
    if a == 1:
        return -np.expm1(np.log1p(-u) / b)  # 1 - (1-u)^(1/b), accurate for small u too
    from scipy import special

    return special.betaincinv(a, b, u)


def dirichlet(u: ArrayLike, alpha: float) -> NDArray[np.float64]:
    """Symmetric Dirichlet weights from uniform numbers, by normalised gamma variables.

    Args:
        u: `(..., K)` uniform numbers in (0, 1).
        alpha: concentration, positive.

    Returns:
        `(..., K)` weights that sum to 1 over the last axis.

    Raises:
        ValueError: if `alpha` is not positive and finite.
    """
    if not 0 < alpha < np.inf:
        raise ValueError(f"alpha: got {alpha}, wanted > 0 and finite")
    u = np.asarray(u, np.float64)
    if alpha == 1:
        gamma = -np.log(u)
    else:
        from scipy import special

        gamma = special.gammaincinv(alpha, u)
        # Small alphas take all gamma variables of a row below the smallest number. Their logarithms are exact
        # there, as the distribution function is x^alpha / Gamma(alpha + 1); one takes nearly all the weight.
        lost = gamma.max(axis=-1) < UNDERFLOW
        log_gamma = (np.log(u[lost]) + special.gammaln(alpha + 1)) / alpha
        gamma[lost] = np.exp(log_gamma - log_gamma.max(axis=-1, keepdims=True))
    return gamma / gamma.sum(axis=-1, keepdims=True)


def randint(u: ArrayLike, n: int) -> NDArray[np.int64]:
    """Integers in 0..n-1 from uniform numbers.

    Args:
        u: uniform numbers in (0, 1), any shape.
        n: number of values, positive.

    Returns:
        int64, in the shape of `u`.

    Raises:
        ValueError: if `n` is not positive.
    """
    if n <= 0:
        raise ValueError(f"n: got {n}, wanted > 0")
    return (np.asarray(u, np.float64) * n).astype(np.int64)


def check_draws(u: NDArray[np.float64], n: int, count: int) -> None:
    """Raise ValueError unless the uniform draws `u` have the shape `(n, count)`."""
    if u.shape != (n, count):
        raise ValueError(f"u: got shape {u.shape}, wanted {(n, count)}")


def _words(value: int) -> tuple[int, int]:
    """Low and high 32 bits of an integer (two's complement where it is negative)."""
    return value & 0xFFFFFFFF, (value >> 32) & 0xFFFFFFFF
