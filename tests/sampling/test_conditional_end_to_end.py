"""From draws to bound: the deployed filter under every attack, by enumeration, against what is certified."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest

import hybrid_rs_jax as hrs
from hybrid_rs_jax.kernels import AbsorbingKernel, Conditional, HybridSmoothing, UniformKernel, run_key
from hybrid_rs_jax.sampling.engine import sample_counts

SYMBOLS, LENGTH, ALPHA, CLASSIFIERS = 3, 3, 0.05, 60
TEXTS = np.array(list(itertools.product(range(SYMBOLS + 1), repeat=LENGTH)))  # symbol 3 is the mask


def look_up(table, tokens, images):
    place = tokens[:, 0] * (SYMBOLS + 1) ** 2 + tokens[:, 1] * (SYMBOLS + 1) + tokens[:, 2]
    return table[place]


class Table:
    """A classifier that is any function of the text."""

    on_host = False

    def __init__(self, table):
        self.table = jnp.asarray(table)

    def functional(self):
        return look_up, self.table

    def __call__(self, tokens, images):
        return look_up(self.table, tokens, images)


def deployed(kernel, text):
    """Mass of each noisy text."""
    masking = isinstance(kernel, AbsorbingKernel)
    law = np.ones(len(TEXTS))
    for place, symbol in enumerate(text):
        shown = TEXTS[:, place]
        other = (shown == SYMBOLS) * kernel.beta if masking else (shown < SYMBOLS) * kernel.beta / (SYMBOLS - 1)
        law *= np.where(shown == symbol, 1 - kernel.beta, other)
    return law


def least_under_attack(kernel, table, clean, forced):
    attacks = itertools.product(range(SYMBOLS), repeat=len(forced))
    texts = []
    for change in attacks:
        text = list(clean)
        for place, symbol in zip(forced, change, strict=True):
            text[place] = symbol
        texts.append(text)
    return min(deployed(kernel, text) @ table for text in texts)


@pytest.mark.parametrize(
    "kernel", [UniformKernel(0.4, SYMBOLS), AbsorbingKernel(0.4, SYMBOLS)], ids=["uniform", "mask"]
)
@pytest.mark.parametrize("forced", [(1,), (0, 2), (0, 1, 2)])
def test_bounds_from_our_draws_are_below_the_enumerated_score_as_often_as_promised(kernel, forced):
    rng = np.random.default_rng(len(forced))
    smoothing, clean = HybridSmoothing(kernel, None), (0, 1, 2)
    mask = np.isin(np.arange(LENGTH), forced)
    broken, close = 0, 0.0
    for number in range(CLASSIFIERS):
        table = rng.random(len(TEXTS)) < rng.choice([0.7, 0.95])
        counts = sample_counts(
            Table(table), np.array([clean], np.int32), np.zeros((1, 1, 1, 1), np.float32), smoothing, 400,
            run_key(number), forced=mask,
        )  # fmt: skip
        drawn = HybridSmoothing(Conditional(kernel), None)
        certificate = hrs.certify(counts[:, None], 400, drawn, 0.5, ALPHA, [len(forced)])
        truth, bound = least_under_attack(kernel, table, clean, forced), certificate.worst_case(0.0)[0, 0]
        broken += bound > truth
        close = max(close, bound / truth if truth > 0 else 0.0)
    assert broken <= ALPHA * CLASSIFIERS + 3 * (ALPHA * CLASSIFIERS) ** 0.5
    assert close > kernel.beta ** len(forced), "bounds that are far below prove nothing"
