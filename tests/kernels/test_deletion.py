"""Deletion noise: every edit script against every classifier on short texts, by enumeration of what is deleted."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import ndtr, ndtri

import hybrid_rs_jax as hrs
from hybrid_rs_jax.certificate.bounds import worst_case_bounds

P = 0.6
UNIFORM = hrs.HybridSmoothing(hrs.UniformKernel(0.5, 5), 1.0)
KERNEL = hrs.DeletionKernel(P)
P = KERNEL.p_delete  # as drawn


def law(text, eligible=None, forced=()):
    """Probability of each sequence that is left."""
    eligible = [True] * len(text) if eligible is None else eligible
    left: dict[tuple, float] = {}
    for gone in itertools.product((False, True), repeat=len(text)):
        chance = 1.0
        for i, g in enumerate(gone):
            must = i in forced
            chance *= (1.0 if g else 0.0) if must else ((P if g else 1 - P) if eligible[i] else (0.0 if g else 1.0))
        rest = tuple(t for t, g in zip(text, gone, strict=True) if not g)
        if chance:
            left[rest] = left.get(rest, 0.0) + chance
    return left


class Guard:
    """A random classifier: for each sequence a half-line of the image, found when first asked for."""

    def __init__(self, rng, hard=False):
        self.rng, self.hard, self.at = rng, hard, {}

    def threshold(self, sequence):
        if sequence not in self.at:
            self.at[sequence] = self.rng.choice([-9.0, 9.0]) if self.hard else self.rng.normal(1, 2)
        return self.at[sequence]

    def score(self, sequences, rho=0.0):
        return sum(chance * ndtr(self.threshold(s) - rho) for s, chance in sequences.items())


def scripts(text, alphabet, substituted, inserted, deleted):
    """Every text within the budget: positions that disappear, then tokens put anywhere."""
    found = set()
    for subs in range(substituted + 1):
        for dels in range(deleted + 1):
            if subs + dels > len(text):
                continue
            for gone in itertools.combinations(range(len(text)), subs + dels):
                base = tuple(t for i, t in enumerate(text) if i not in gone)
                for extra in range(subs, subs + inserted + 1):
                    for places in itertools.combinations(range(len(base) + extra), extra):
                        for new in itertools.product(alphabet, repeat=extra):
                            rest, fresh = iter(base), iter(new)
                            found.add(
                                tuple(next(fresh) if i in places else next(rest) for i in range(len(base) + extra))
                            )
    return found


@pytest.mark.parametrize(
    "edits", [(0, 1, 0), (0, 2, 0), (1, 0, 0), (0, 0, 1), (0, 0, 2), (1, 1, 0), (1, 0, 1), (0, 1, 1)], ids=str
)
def test_no_edit_script_on_any_classifier_falls_below_the_bounds(edits):
    rng = np.random.default_rng(0)
    budget, text = hrs.Edits(*edits), (1, 2, 1)
    attacked = [law(t) for t in scripts(text, (1, 2), *edits)]
    families = {
        False: [budget.removed],
        True: range(budget.removed + 1),
    }
    cases = {"ordinary": [], False: [], True: []}
    for trial in range(20):
        guard, rho = Guard(rng, hard=trial % 2 == 0), (0.0, 0.6)[trial % 2]
        truth = min(guard.score(left, rho) for left in attacked)
        cases["ordinary"].append((guard.score(law(text)), truth, rho))
        for nested, sizes in families.items():
            sets = [s for size in sizes for s in itertools.combinations(range(len(text)), size)]
            least = min(guard.score(law(text, forced=s)) for s in sets)
            cases[nested].append((least, truth, rho))
    for kind, rows in cases.items():
        kernel = KERNEL if kind == "ordinary" else hrs.Conditional(KERNEL, nested=kind)
        q, truth, rho = np.array(rows).T
        bound, _ = worst_case_bounds(np.minimum(q, 1), budget, rho, hrs.HybridSmoothing(kernel, 1.0))
        assert np.all(bound <= truth + 1e-12), kind


def test_the_factors_are_attained():
    """Insertions: the guard says no to a strange token. Substitutions: it needs the word, and the word is gone."""
    smoothing = hrs.HybridSmoothing(KERNEL, 1.0)
    for k in range(4):
        assert hrs.worst_case_probability(1.0, k, 0.0, smoothing) == pytest.approx(P**k, rel=1e-12)
    # certain unless the word is deleted, and then by chance c: of p_A = 1 - P (1 - c) only P c is left
    c = 0.3
    p_a = 1 - P * (1 - c)
    assert hrs.worst_case_probability(p_a, hrs.Edits(1), 0.0, smoothing) == pytest.approx(P * c, rel=1e-9)
    assert hrs.worst_case_probability(p_a, hrs.Edits(deleted=1), 0.0, smoothing) == pytest.approx(c, rel=1e-9)


def test_the_closed_forms_of_the_method():
    smoothing, rho, p_a = hrs.HybridSmoothing(KERNEL, 2.0), 0.7, 0.93
    inserted = hrs.worst_case_probability(p_a, [0, 1, 2, 5], 1.4, smoothing)
    np.testing.assert_allclose(inserted, P ** np.array([0, 1, 2, 5]) * ndtr(ndtri(p_a) - rho), rtol=1e-12)
    for a, k, b in [(1, 0, 0), (0, 0, 2), (1, 2, 1), (2, 0, 0)]:
        kept = 1 - (1 - p_a) / P ** (a + b)
        value = P ** (a + k) * ndtr(ndtri(kept) - rho) if kept > 0 else 0.0
        found = hrs.worst_case_probability(p_a, hrs.Edits(a, k, b), 1.4, smoothing)
        assert found == pytest.approx(value, rel=1e-10)
        assert found <= value * (1 + 1e-14)


def test_the_insertions_that_a_deletion_share_allows():
    for p_delete, tokens, p_a in ((0.25, 7, 0.754), (0.5, 14, 0.754), (0.75, 34, 0.8141)):
        smoothing = hrs.HybridSmoothing(hrs.DeletionKernel(p_delete), 1.0)
        assert hrs.certified_budget(p_a, smoothing, 4.6e-5) == tokens
        assert math.isinf(hrs.required_probability(tokens + 1, 0.0, smoothing, 4.6e-5))


def test_mixed_budgets_stand_wherever_a_number_does():
    smoothing = hrs.HybridSmoothing(KERNEL, 0.5)
    budgets = [0, 2, hrs.Edits(1, 1), hrs.Edits(1, 1, 1)]
    radius = hrs.certified_radius(0.99, budgets, smoothing, 0.01)
    assert radius.shape == (4,)
    one_by_one = [hrs.certified_radius(0.99, d, smoothing, 0.01) for d in budgets]
    np.testing.assert_array_equal(radius, one_by_one)
    assert hrs.certified_radius(0.99, 2, smoothing, 0.01) == hrs.certified_radius(
        0.99, hrs.Edits(inserted=2), smoothing, 0.01
    )
    need = hrs.required_probability(budgets, 0.1, smoothing, 0.01)
    assert np.all(np.diff(need) >= 0)
    assert hrs.required_samples(hrs.Edits(1), 0.1, smoothing, 0.01, 0.01) > 0
    table = hrs.frontier_table(budgets, smoothing, 0.01, size=65)
    assert np.all(table.certified_radius([0.99])[0] <= radius)
    below = hrs.certified_radius(0.01, hrs.Edits(1), smoothing, 0.99, side="below")
    assert below == pytest.approx(hrs.certified_radius(0.99, hrs.Edits(1), smoothing, 0.01), rel=1e-6)


@pytest.mark.parametrize(
    ("call", "value"),
    [
        (lambda: hrs.Edits(-1), "-1"),
        (lambda: hrs.DeletionKernel(1.5), "1.5"),
        (lambda: KERNEL.likelihood_ratio(-2), "-2"),
        (lambda: KERNEL.check_budgets([hrs.Edits(1), hrs.Edits(0, 1)]), r"Edits\(substituted=1"),
        (lambda: KERNEL.check_budgets([2, 1]), r"\[2, 1\]"),
        (lambda: KERNEL.check_budgets([]), r"\[\]"),
        (
            lambda: hrs.certified_radius(0.9, hrs.Edits(1), UNIFORM, 0.1),
            "Edits",
        ),
    ],
)
def test_what_is_no_budget_is_refused_with_the_value(call, value):
    with pytest.raises(ValueError, match=rf"^[^\n]*got [^\n]*{value}[^\n]*\.$"):
        call()


def test_budgets_of_a_certificate_cover_each_other():
    assert KERNEL.check_budgets(range(3)) == (0, 1, 2)
    nested = (0, hrs.Edits(0, 1), hrs.Edits(1, 1))
    assert KERNEL.check_budgets(nested) == nested


# The sampler


def copies(tokens, n, eligible=None, forced=None, kernel=KERNEL):
    keys = jax.random.split(jax.random.key(0), n)
    draw = jax.jit(jax.vmap(lambda key: hrs.Conditional(kernel).sample(key, tokens, eligible, forced)))
    return np.asarray(draw(keys))


def shown(row, pad=0):
    return tuple(int(t) for t in row if t != pad)


@pytest.mark.parametrize("pads", [(), (2,), (0, 3), (4, 5)])
@pytest.mark.parametrize("fixed", [(), (1,), (0, 3)])
@pytest.mark.parametrize("forced", [(), (1,)])
def test_what_is_left_has_the_law_of_independent_deletions_and_no_gap(pads, fixed, forced):
    tokens = np.array([5, 6, 7, 8, 9, 4])
    tokens[list(pads)] = 0
    eligible = ~np.isin(np.arange(6), fixed)
    mask = np.isin(np.arange(6), forced) & eligible
    n = 6_000
    drawn = copies(jnp.asarray(tokens), n, jnp.asarray(eligible), jnp.asarray(mask))
    assert drawn.shape == (n, 6)
    length = (drawn != 0).sum(axis=1)
    assert np.all((drawn != 0) == (np.arange(6) < length[:, None]))  # PADs only behind
    words = [i for i in range(6) if tokens[i] != 0]
    chosen = [words.index(i) for i in np.flatnonzero(mask) if i in words]
    expected = law([int(tokens[i]) for i in words], [bool(eligible[i]) for i in words], chosen)
    seen = {}
    for row in drawn:
        seen[shown(row)] = seen.get(shown(row), 0) + 1
    assert set(seen) <= set(expected)
    for sequence, chance in expected.items():
        assert abs(seen.get(sequence, 0) / n - chance) < 5.5 * math.sqrt(chance * (1 - chance) / n) + 1e-12


def test_the_room_that_the_text_left_does_not_show():
    """PADs inside of the text, and however many behind, leave the same copies as a law."""
    short = {shown(row) for row in copies(jnp.asarray([3, 4, 0, 0, 0, 0]), 500)}
    inside = {shown(row) for row in copies(jnp.asarray([3, 0, 0, 4]), 500)}
    assert short == inside == {(), (3,), (4,), (3, 4)}


def test_no_position_and_no_eligible_one_changes_nothing_but_the_gaps():
    tokens = jnp.asarray([[3, 0, 4]], jnp.int16)
    drawn = copies(tokens, 3, jnp.zeros((1, 3), bool))
    assert drawn.tolist() == [[[3, 4, 0]]] * 3
    assert drawn.dtype == np.int16
    assert np.all(copies(tokens, 3, forced=jnp.ones((1, 3), bool)) == 0)
    minus = copies(jnp.asarray([3, -1, 4]), 300, kernel=hrs.DeletionKernel(0.5, pad_token=-1))
    assert {shown(row, -1) for row in minus} == {(), (3,), (4,), (3, 4)}
