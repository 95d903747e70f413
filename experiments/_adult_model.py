"""Linear SVMs on one-hot fields and standardized numbers, and their exact worst case under joint attacks.

The score of a row is `f(t, x) = sum_l u_l[t_l] + v.x + b`; an income above 50K is predicted where `f > 0`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from _adult_data import Rows
from jaxtyping import Array, Bool, Float32, Float64, Int32, PRNGKeyArray

import hybrid_rs_jax as hrs


@dataclasses.dataclass(frozen=True)
class LinearModel:
    """`symbols` float64[sum K_l]: the weights u of all fields, one after the other; `numeric` float64[F]; `bias`."""

    symbols: Float64[np.ndarray, " symbols"]
    numeric: Float64[np.ndarray, " features"]
    bias: float
    cardinalities: tuple[int, ...]

    @property
    def offsets(self) -> Int32[np.ndarray, " fields"]:
        """Where each field begins in `symbols`."""
        return np.concatenate([[0], np.cumsum(self.cardinalities)[:-1]]).astype(np.int32)

    def score(self, rows: Rows) -> Float64[np.ndarray, " n"]:
        """`f` of each row."""
        return self.symbols[rows.tokens + self.offsets].sum(axis=1) + rows.numeric @ self.numeric + self.bias

    def accuracy(self, rows: Rows) -> float:
        """Share of right predictions, without noise."""
        return float(np.mean((self.score(rows) > 0) == rows.positive))


def train(
    rows: Rows,
    cardinalities: tuple[int, ...],
    smoothing: hrs.HybridSmoothing | None,
    key: PRNGKeyArray,
    copies: int = 4,
    balanced: bool = False,
) -> LinearModel:
    """Linear SVM (squared hinge, l2 penalty): on the rows, or on `copies` noisy copies of each, drawn from `smoothing`.

    `balanced` weighs the two classes equally; else the larger one (three in four rows) weighs more.
    """
    from scipy import sparse
    from sklearn.svm import LinearSVC

    tokens, numeric, labels = rows.tokens, rows.numeric, rows.positive
    if smoothing is not None:
        draw = jax.jit(jax.vmap(smoothing.sample))
        x = jnp.asarray(numeric, jnp.float32)
        drawn = [draw(jax.random.split(own, len(rows)), tokens, x) for own in jax.random.split(key, copies)]
        tokens, numeric = (np.concatenate([np.asarray(part[i]) for part in drawn]) for i in (0, 1))
        labels = np.tile(labels, copies)
    model = LinearModel(np.zeros(sum(cardinalities)), np.zeros(numeric.shape[1]), 0.0, cardinalities)
    n, fields = tokens.shape
    ones = (np.ones(n * fields), (tokens + model.offsets).ravel(), np.arange(0, n * fields + 1, fields))
    one_hot = sparse.csr_matrix(ones, shape=(n, model.symbols.size))
    design = sparse.hstack([one_hot, sparse.csr_matrix(np.asarray(numeric, np.float64))]).tocsr()
    fitted = LinearSVC(dual=False, class_weight="balanced" if balanced else None).fit(design, labels)
    weights = fitted.coef_[0]
    return dataclasses.replace(
        model,
        symbols=weights[: model.symbols.size],
        numeric=weights[model.symbols.size :],
        bias=float(fitted.intercept_[0]),
    )


def joint_classifier(models: Sequence[LinearModel]) -> hrs.BaseClassifier:
    """Votes of several models on the same noisy copy as one label: bit m is the vote of model m.

    Noise costs ten times what a linear model costs, so it is drawn once for all of them. Each model's own counts
    (`votes_of_each`) are those of the model alone.
    """
    symbols = jnp.asarray(np.stack([model.symbols for model in models], axis=1), jnp.float32)
    numeric = jnp.asarray(np.stack([model.numeric for model in models], axis=1), jnp.float32)
    bias = jnp.asarray([model.bias for model in models], jnp.float32)
    offsets, bits = jnp.asarray(models[0].offsets), jnp.asarray([1 << m for m in range(len(models))], jnp.int32)

    def classify(tokens: Int32[Array, "b l"], images: Float32[Array, "b 1 1 f"]) -> Int32[Array, " b"]:
        score = symbols[tokens + offsets].sum(axis=1) + images[:, 0, 0, :] @ numeric + bias
        return jnp.where(score > 0, bits, 0).sum(axis=1, dtype=jnp.int32)

    return classify


def votes_of_each(counts: np.ndarray, models: int) -> np.ndarray:
    """int64[B, M]: votes for the positive class of each model, from counts per joint label int64[B, 2^M]."""
    label = np.arange(counts.shape[1])
    return np.stack([counts[:, (label >> m) & 1 == 1].sum(axis=1) for m in range(models)], axis=1)


def field_gains(model: LinearModel, rows: Rows) -> tuple[np.ndarray, np.ndarray]:
    """Best symbol per field against the true label int32[N, L], and what it takes off the margin float64[N, L]."""
    sign = np.where(rows.positive, 1.0, -1.0)[:, None]
    best, gain = np.empty_like(rows.tokens), np.empty(rows.tokens.shape)
    for field, (start, k) in enumerate(zip(model.offsets, model.cardinalities, strict=True)):
        weights = sign * model.symbols[start : start + k]
        best[:, field] = weights.argmin(axis=1)
        gain[:, field] = np.take_along_axis(weights, rows.tokens[:, field, None], 1)[:, 0] - weights.min(axis=1)
    return best, gain


def attack(model: LinearModel, rows: Rows, d: int, epsilon: float) -> Rows:
    """The attack that hurts the unsmoothed model most: the `d` flips of largest gain, and `epsilon` along the weights.

    Exact, because the terms of a linear score are independent of each other. Against the smoothed classifier the
    direction in `x` is still exact (only `v.x` matters), and where `beta <= (K - 1)/K` so is the symbol per field
    (it makes the score of a noisy copy stochastically smallest); which `d` fields to take is a heuristic.
    """
    best, gain = field_gains(model, rows)
    chosen = np.argsort(-gain, axis=1, kind="stable")[:, :d]
    tokens = rows.tokens.copy()
    np.put_along_axis(tokens, chosen, np.take_along_axis(best, chosen, 1), 1)
    sign = np.where(rows.positive, 1.0, -1.0)[:, None]
    norm = np.linalg.norm(model.numeric)
    direction = model.numeric / norm if norm > 0 else np.zeros_like(model.numeric)
    return dataclasses.replace(rows, tokens=tokens, numeric=rows.numeric - sign * epsilon * direction)


def accuracy_under_attack(
    model: LinearModel, rows: Rows, budgets: Sequence[int], epsilons: np.ndarray
) -> Float64[np.ndarray, "budgets epsilons"]:
    """Share of rows that the unsmoothed model still gets right under its exact worst case, in closed form."""
    _, gain = field_gains(model, rows)
    removed = np.concatenate([np.zeros((len(rows), 1)), np.cumsum(-np.sort(-gain, axis=1), axis=1)], axis=1)
    margin = np.where(rows.positive, 1.0, -1.0) * model.score(rows)
    step = np.linalg.norm(model.numeric) * np.asarray(epsilons)
    accuracy = []
    for d in budgets:
        rest = (margin - removed[:, min(d, gain.shape[1])])[:, None] - step
        accuracy.append(np.where(rows.positive[:, None], rest > 0, rest >= 0).mean(axis=0))
    return np.array(accuracy)


def correct(votes: np.ndarray, n: int, positive: Bool[np.ndarray, " b"]) -> Bool[np.ndarray, " b"]:
    """Whether the majority of n noisy copies votes for the true class; an even split counts as wrong."""
    return np.where(positive, 2 * votes > n, 2 * votes < n)
