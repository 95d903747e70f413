"""A guard that is linear in embeddings and pixels: its smoothed score is a sum over all token noise."""

import itertools

import jax.numpy as jnp
import numpy as np
from scipy.stats import norm


def linear_margin(parameters, embeddings, images):
    weights, pixels, bias = parameters
    return (embeddings * weights).sum((1, 2)) + (images * pixels).sum((1, 2, 3)) + bias


class LinearGuard:
    """Random weights; `table[v] . weights[l]` is what token v at position l adds to the margin."""

    def __init__(self, seed, vocab=5, length=3, width=2, side=2, bias=1.0, dtype=np.float32):
        rng = np.random.default_rng(seed)
        self.table = rng.normal(size=(vocab, width)).astype(dtype)
        self.weights = rng.normal(size=(length, width)).astype(dtype)
        self.pixels = rng.normal(size=(side, side, 1)).astype(dtype)
        self.bias = dtype(bias)

    @property
    def parameters(self):
        return jnp.asarray(self.weights), jnp.asarray(self.pixels), jnp.asarray(self.bias)

    def embedded(self):
        return linear_margin, self.parameters, jnp.asarray(self.table)

    def margin(self, tokens, images):
        return linear_margin(self.parameters, jnp.asarray(self.table)[tokens], images)

    def __call__(self, tokens, images):
        return self.margin(tokens, images) > 0

    def score(self, tokens, image, beta, sigma, shift=0.0):
        """Exact smoothed score under uniform replacement everywhere; `shift`: l2 length of the best pixel attack."""
        vocab, length = len(self.table), len(tokens)
        added = (self.table.astype(float) @ self.weights.T.astype(float)).T
        chance = np.full((length, vocab), beta / (vocab - 1))
        chance[np.arange(length), tokens] = 1 - beta
        slope = np.linalg.norm(self.pixels.astype(float))
        base = float(self.bias) + (image.astype(float) * self.pixels).sum() - shift * slope
        total = 0.0
        for drawn in itertools.product(range(vocab), repeat=length):
            places = np.arange(length), list(drawn)
            total += chance[places].prod() * norm.cdf((base + added[places].sum()) / (sigma * slope))
        return total

    def worst_score(self, tokens, image, beta, sigma, d, epsilon):
        """Exact minimum over all token changes of at most d positions, with the best pixel attack."""
        vocab, length = len(self.table), len(tokens)
        found = [
            self.score(np.array(other), image, beta, sigma, epsilon)
            for other in itertools.product(range(vocab), repeat=length)
            if (np.array(other) != tokens).sum() <= d
        ]
        return min(found)
