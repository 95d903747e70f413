"""Generated sentences: the numbers in them are parsed back and held against the certificate, for random counts."""

import ast
import re
from decimal import Decimal, localcontext
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import hybrid_rs_jax as hrs
from hybrid_rs_jax._text import at_least_text, down_text, setting_text, sum_text, up_text
from hybrid_rs_jax.certificate.frontier import frontier_plan
from hybrid_rs_jax.confidence import SequentialTest, StagedLooks, Verdict, clopper_pearson_bound
from hybrid_rs_jax.report.tables import certificate_rows
from hybrid_rs_jax.results.certificate import certify_decisions
from hybrid_rs_jax.results.classes import certify_class_counts
from hybrid_rs_jax.results.counts import Counts
from hybrid_rs_jax.results.explanations import explanations
from hybrid_rs_jax.results.runs import Run
from hybrid_rs_jax.results.sentences import deployment, guarantee, provisos, run_time_text, threat_model
from hybrid_rs_jax.results.statement import Provisional

SMOOTHINGS = [
    hrs.HybridSmoothing(hrs.UniformKernel(0.25, 512), 0.5),
    hrs.HybridSmoothing(hrs.AbsorbingKernel(0.5), 0.25),
    hrs.HybridSmoothing(hrs.AbsorbingKernel(0.5), None),
    hrs.HybridSmoothing(hrs.CategoricalKernel(0.25, (2, 5, 9)), 0.5),
    hrs.HybridSmoothing(None, 0.25),
]
TAUS = [4.6e-5, 0.1, 1 / 3, 0.5, 0.9, hrs.detection_threshold(1000, 0.01), 0.9999949]
ALPHAS = [0.01, 0.05, 1 / 3, 1e-7]
DECISIONS = ["unsafe", "safe", "both"]
#: Where counts come from: what a run says of its noise, and why a fixed number of draws did not stay what it was.
GRID = {"generator": "threefry2x32", "step": 1 / 255, "total_variation": 5.4321e-12}
HEADER = {
    "smoothing": {"kernel": "uniform", "beta": 0.25, "vocab_size": 512, "sigma": 0.5},
    "eligible_positions": [4, 5, 6, 7],
    "samples": 1000,
}


def run_of(**change):
    return Run.of(Path("run.json"), HEADER | change)


DENOISED = {
    "name": "hybrid_rs_jax.classifiers.Denoised",
    "sigma": 0.5,
    "time": 259.0,
    "classifier": {"name": "guard"},
    "denoiser": {"name": "a denoiser", "weights_sha256": "0123456789abcdef"},
}


ORIGINS = [
    {},
    {"total_variation": 1.23456e-5},
    {"run": run_of()},
    {"run": run_of(noise=GRID)},
    {"run": run_of(noise=GRID, classifier=DENOISED)},
    {"run": run_of(noise=GRID | {"total_variation": 0.01})},
    {"run": run_of(noise=GRID), "provisional": Provisional(planned=2_000_000, partial=1)},
    {"provisional": Provisional(planned=10**6, earlier=(7, 100))},
    {"provisional": Provisional(planned=10**6, partial=2, earlier=(1000,))},
]
SLOW = settings(max_examples=60, suppress_health_check=list(HealthCheck))


@st.composite
def questions(draw):
    """A few inputs with edge counts, of every side and kernel; plain values, `answer` makes a result of them."""
    kernel = draw(st.integers(0, len(SMOOTHINGS) - 1))
    shared = draw(st.booleans())
    rows = draw(st.integers(1, 4))
    n = draw(st.lists(st.sampled_from([1, 7, 100, 1000, 10**6]), min_size=rows, max_size=rows))
    share = draw(st.lists(st.sampled_from([0.0, 1e-4, 0.1, 0.5, 0.97, 1.0]), min_size=3 * rows, max_size=3 * rows))
    with_ties = draw(st.booleans())
    settings = (draw(st.sampled_from(values)) for values in (TAUS, ALPHAS, DECISIONS))
    return kernel, shared, n, share, with_ties, *settings, draw(st.integers(0, len(ORIGINS) - 1))


def answer(question):
    """The certificates that a question asks for."""
    kernel, shared, draws, share, with_ties, tau, alpha, decision, origin = question
    smoothing = SMOOTHINGS[kernel]
    budgets = (0, 1, 2) if smoothing.discrete is not None else (0,)
    shared = shared or len(budgets) == 1
    n = np.array(draws) if shared else np.repeat(np.array(draws)[:, None], len(budgets), axis=1)
    successes = np.floor(np.reshape(share[: n.size], n.shape) * n).astype(np.int64)
    ties = np.minimum(n // 7, 3) if with_ties else None
    names = tuple(f"input{row}" for row in range(len(n)))
    counts = Counts(names, successes, n, ties=ties, budgets=None if shared else budgets, **ORIGINS[origin])
    return certify_decisions(counts, smoothing, tau, alpha, budgets, decision)


def parts(result):
    """The certificate of each decision, by its side."""
    return {part.side: part for part in ((result.unsafe, result.safe) if hasattr(result, "safe") else (result,))}


def number(text):
    return Decimal(text)


def budgets_in(text):
    if ".." in text:
        first, last = map(int, text.split(".."))
        return range(first, last + 1)
    return [int(d) for d in text.split(", ")]


def check_guarantee(result):
    """It promises no more than the statement, on the side of each decision."""
    text = guarantee(result.statements)
    alpha = result.alpha
    assert text.startswith("PROVISIONAL") is (result.counts.provisional is not None)
    if found := re.search(r"at least ([\d.]+) %", text):
        assert number(found[1]) / 100 <= 1 - Decimal(repr(alpha)) + Decimal("1e-15")
    else:
        assert f"at least 1 - {setting_text(alpha)}" in text
    for side, part in parts(result).items():
        pattern = r"down to tau = (\S+) or below" if side == "above" else r"up to tau = (\S+) or above"
        (stated,) = re.findall(pattern, text)
        assert float(stated) <= part.tau if side == "above" else float(stated) >= part.tau
        own = "certified unsafe down" if side == "above" else "certified safe up"
        assert (own in text) is (len(result.statements) == 2)


def check_explanations(result):
    """No budget with a certificate is called impossible; no bound lies on the side that a sentence denies."""
    sides = parts(result)
    for text in explanations(result):
        side = (
            "below" if re.search(r"certif\w+ safe", text) else "above" if re.search(r"certif\w+ unsafe", text) else None
        )
        own = sides[side] if side else next(iter(sides.values()))
        if found := re.search(r"^No number of draws up to 2\^53 certifies (?:\w+ at )?d = (.+?) with", text):
            for d in budgets_in(found[1]):
                column = own.budgets.index(d)
                assert not (own.radius[:, column] >= 0).any()
                assert own.statement.needs.draws[column] == -1
        elif found := re.search(r"^n = ([\d,]+) is too small .*d = (\d+): .* at least ([\d,]+) draws", text):
            n, d, needed = (int(number.replace(",", "")) for number in found.groups())
            column = own.budgets.index(d)
            assert not (own.radius[:, column] >= 0).any()
            assert n < needed == own.statement.needs.draws[column]
            assert n == np.broadcast_to(np.atleast_2d(own.n.T).T, own.radius.shape)[:, column].max()
        elif found := re.search(r"^No input is certified for d = (.+?), though", text):
            for d in budgets_in(found[1]):
                assert not (result.radius[:, result.budgets.index(d)] >= 0).any()
        elif "abstain" in text:
            check_abstention(result, sides, text)
        elif found := re.search(r"^(\S+) would have needed n = ([\d,]+)", text):
            check_help(own, found[1], int(found[2].replace(",", "")))


def check_abstention(result, sides, text):
    silent = result.budget < 0
    counted = re.match(r"(\d+) of (\d+) inputs", text)
    assert (int(counted[1]), int(counted[2])) == (silent.sum(), len(result)) if counted else len(result) == 1
    if found := re.search(r"lower bound p_A on the clean score does not exceed tau = (\S+?)[. ]?(?:$|and)", text):
        first = sides["above"].bound if sides["above"].bound.ndim == 1 else sides["above"].bound[:, 0]
        assert np.all(first[silent] <= float(found[1]))
        assert float(found[1]) >= sides["above"].tau
    if found := re.search(r"upper bound on the clean score is not below tau = (\S+?)\.?$", text):
        first = sides["below"].bound if sides["below"].bound.ndim == 1 else sides["below"].bound[:, 0]
        assert np.all(first[silent] >= float(found[1]))
        assert float(found[1]) <= sides["below"].tau


def check_help(part, name, n):
    row = part.ids.index(name)
    k, draws = (int(np.ravel(x[row])[0]) for x in (part.counts.certain(part.side), part.n))
    share = (k if part.side == "above" else draws - k) / draws
    bound = clopper_pearson_bound(int(share * n * (1 + 1e-12)), n, part.risk_per_statement)
    needs = part.statement.needs
    assert bound.p >= needs.bound or bound.complement <= needs.complement


def check_table(result):
    """Lower bounds and radii are rounded down, upper bounds up."""
    header, rows = certificate_rows(result)
    for view, row in zip(result, rows, strict=True):
        cells = dict(zip(header, row, strict=True))
        if "p_A" in cells:
            assert float(cells["p_A"]) <= view.lower_bound
        if "upper bound" in cells:
            assert float(eval(cells["upper bound"])) >= view.upper_bound  # it may read "1 - 2e-9"
        assert cells["max d"] == ("—" if view.budget < 0 else str(view.budget))
        for d, radius in zip(result.budgets, view.radius, strict=True):
            if f"r_{d}" in cells:
                assert cells[f"r_{d}"] == "—" if radius < 0 else float(cells[f"r_{d}"]) <= radius


@SLOW
@given(st.sampled_from(TAUS), st.sampled_from([0.01, 1e-7, 1e-12, 0.5]), st.sampled_from(ALPHAS))
def test_the_filter_keeps_its_promise_with_the_copies_that_are_named(tau, miss, alpha):
    text = run_time_text(tau, miss, alpha)
    copies = int(re.search(r"runs ([\d,]+) fresh", text)[1].replace(",", ""))
    with localcontext() as context:
        context.prec = 60
        assert copies * (1 - Decimal(tau)).ln() <= Decimal(miss).ln() * (1 - Decimal("1e-14"))
        stated, total = re.search(r"alpha \+ (\S+) = (\S+)\.", text).groups()
        assert Decimal(total) >= Decimal(repr(alpha)) + Decimal(stated)
    assert float(stated) == miss
    assert float(re.match(r"tau = (\S+):", text)[1]) <= tau
    assert "costs all of them" in text


def check_deployment(result):
    """Sentences on run time belong to their side, and name the risk that comes on top."""
    text = deployment(result.statements)
    sides = parts(result)
    name = "alpha" if len(sides) == 1 else "alpha / 2"
    assert ("certified unsafe" in text) is ("above" in sides)
    assert ("certified safe" in text) is ("below" in sides)
    if "below" in sides:
        statement = sides["below"].statement
        assert f"risk {name} = {setting_text(statement.risk.own)}" in text
        assert "flags at one positive" in text
        said = re.search(r"at most (\S+) for m = 100", text)
        chance = Decimal(said[1] if said else 1)
        assert said is None or chance < 1
        with localcontext() as context:
            context.prec = 60
            assert chance >= 1 - (1 - Decimal(statement.risk.tau)) ** 100
    if "above" in sides:
        own = Decimal(repr(sides["above"].statement.risk.own)) + Decimal("0.01")
        total = re.search(rf"given that its certificate is right; in all at most {name} \+ 0\.01 = ([0-9.e-]+)\.", text)
        assert own <= Decimal(total[1]) <= own * Decimal("1.01")


def check_provisos(result):
    """What is taken for granted is said with the numbers of the statement, or with weaker ones."""
    ties = 0 if result.counts.ties is None else int(result.counts.ties.sum())
    for statement in result.statements:
        said = list(provisos(statement, ties))
        check_provisional(statement, [text for text in said if text.startswith("Provisional")])
        (drawn,) = (text for text in said if re.search("drawn elsewhere|The bounds are about|drew|drawn by", text))
        if found := re.search(r"total variation of (\S+) (?:from the ideal noise|between it)", drawn):
            assert float(found[1]) >= statement.noise.total_variation > 0
            assert "is subtracted" in drawn
        else:
            assert statement.noise.total_variation == 0
        assert ("drawn elsewhere" in drawn) is (statement.noise.drawn == "elsewhere" and not found)
        (tied,) = (text for text in said if "(ties)" in text) if statement.ties != "none" else ("",)
        if statement.ties != "none":
            assert int(re.match(r"(\d+) draws? of all", tied)[1]) == ties > 0
            role = "as failures" if statement.side == "above" else "as successes"
            assert (role in tied) is (statement.ties == "left out")
        denoised = statement.denoising is not None
        assert sum("denoised by" in text for text in said) == denoised
        assert len(said) == 1 + (statement.provisional is not None) + (statement.ties != "none") + denoised


def check_provisional(statement, said):
    provisional = statement.provisional
    assert len(said) == (provisional is not None)
    for text in said:
        numbers = [int(x) for x in re.findall(r"\b\d+\b", text.split(" If votes")[0])]
        wanted = [provisional.partial, provisional.planned] if provisional.partial else []
        wanted += [*provisional.earlier, provisional.planned] if provisional.earlier else []
        assert numbers == wanted
        assert f"alpha = {setting_text(statement.risk.alpha)}" in text
        if found := re.search(r"these (\d+) looks at most (\d+) alpha", text):
            assert int(found[1]) == int(found[2]) == 1 + len(provisional.earlier)
        assert (found is None) is bool(provisional.partial)


def check_all(result):
    check_guarantee(result)
    check_explanations(result)
    check_table(result)
    check_deployment(result)
    check_provisos(result)


@SLOW
@given(questions())
def test_no_sentence_and_no_cell_says_more_or_other_than_its_certificate(question):
    check_all(answer(question))


PLANS = [
    SequentialTest(0.3, 0.01, 200),
    SequentialTest(0.97, 0.05, 100),
    frontier_plan(SMOOTHINGS[0], 0.3, 0.01, 2000, budgets=range(3)),
    frontier_plan(SMOOTHINGS[0], 4.6e-5, 0.01, 2000, budgets=range(3)),
]


def stopped(plan, votes):
    """Draws and successes at which the plan stops the votes, which are as many as it has at most."""
    looks = np.asarray(plan.looks)
    successes = np.cumsum(votes)[looks - 1]
    ends = np.asarray(plan.verdict(looks, successes)) != Verdict.CONTINUE
    at = int(np.argmax(ends)) if ends.any() else len(looks) - 1
    return int(looks[at]), int(successes[at])


def check_plan(result):
    """Draws needed are looks of the plan; what was stopped for is said as the run has it."""
    said = list(explanations(result))
    (ended,) = (text for text in said if text.startswith("Draws ended"))
    assert "spent on all stops together" in ended
    assert not any("would have needed" in text or "too small" in text or "2^53" in text for text in said)
    looks = {-1, *np.asarray(result.statements[0].stopping.plan.looks).tolist()}
    for statement in result.statements:
        assert set(statement.needs.draws) <= looks
        assert statement.ties != "counted" or not isinstance(statement.stopping.plan, StagedLooks)
    for text in said:
        if found := re.search(r"^No stop of this plan, .* certifies (?:(\w+) at )?d = (.+?) with", text):
            part = next(iter(parts(result).values()))
            if found[1]:
                part = result.unsafe if found[1] == "unsafe" else result.safe
            for d in budgets_in(found[2]):
                assert not (part.radius[:, part.budgets.index(d)] >= 0).any()
                assert part.statement.needs.draws[part.budgets.index(d)] == -1


@settings(max_examples=20, suppress_health_check=list(HealthCheck))
@given(
    st.integers(0, len(PLANS) - 1),
    st.lists(st.sampled_from([0.0, 0.01, 0.3, 0.5, 0.99, 1.0]), min_size=1, max_size=3),
    st.integers(0, 2**31),
    st.booleans(),
    st.sampled_from(DECISIONS),
    st.sampled_from([0.3, 4.6e-5, 0.9]),
)
def test_no_sentence_about_draws_that_were_stopped_says_more_than_their_certificate(
    which, scores, seed, with_ties, decision, tau
):
    plan, rng = PLANS[which], np.random.default_rng(seed)
    ends = [stopped(plan, rng.random(int(plan.looks[-1])) < score) for score in scores]
    n, successes = np.array(ends).T
    ties = np.minimum(n // 7, 3) if with_ties else None
    names = tuple(f"input{row}" for row in range(len(n)))
    counts = Counts(names, successes, n, ties=ties, plan=plan, run=run_of(noise=GRID))
    result = certify_decisions(counts, SMOOTHINGS[0], tau, 0.01, range(3), decision)
    for check in (check_guarantee, check_table, check_deployment, check_provisos, check_plan):
        check(result)
    for part in parts(result).values():
        assert part.statement.ties == (
            "none" if ties is None or not ties.any() else "left out" if isinstance(plan, StagedLooks) else "counted"
        )


@settings(max_examples=10, suppress_health_check=list(HealthCheck))
@given(
    st.integers(0, len(SMOOTHINGS) - 1),
    st.lists(st.lists(st.integers(0, 1000), min_size=3, max_size=3), min_size=1, max_size=3),
    st.booleans(),
    st.integers(0, len(ORIGINS) - 1),
    st.sampled_from(ALPHAS),
)
def test_no_sentence_about_votes_per_class_says_more_than_their_certificate(kernel, votes, with_ties, origin, alpha):
    array = np.array(votes)
    n = array.sum(axis=1) + 10
    smoothing = SMOOTHINGS[kernel]
    ties = np.minimum(n // 7, 3) if with_ties else None
    counts = Counts(
        tuple(f"input{row}" for row in range(len(n))),
        np.zeros(len(n), int),
        n,
        ties=ties,
        votes=array,
        **ORIGINS[origin],
    )
    result = certify_class_counts(counts, smoothing, alpha, range(3) if smoothing.discrete is not None else (0,))
    text = guarantee(result.statements)
    assert "changes the class with the largest SMOOTHED score" in text
    assert "tau" not in text
    assert deployment(result.statements) == ""
    if found := re.search(r"at least ([\d.]+) %", text):
        assert number(found[1]) / 100 <= 1 - Decimal(repr(alpha)) + Decimal("1e-15")
    else:
        assert f"at least 1 - {setting_text(alpha)}" in text
    silent = int((result.budget < 0).sum())
    said = list(explanations(result))
    assert [re.match(r"(\d+) of (\d+) inputs? abstain", line).groups() for line in said] == (
        [(str(silent), str(len(result)))] if silent else []
    )
    check_table(result)
    check_provisos(result)


@given(st.floats(min_value=0, max_value=1e300, allow_nan=False))
def test_numbers_in_promises_are_rounded_to_the_side_that_keeps_them(x):
    assert float(down_text(x)) <= x <= float(up_text(x))
    assert float(setting_text(x)) == x
    assert float(up_text(x)) <= x * 1.00002 + 5e-324
    assert float(down_text(x)) >= x * 0.99998 - 5e-324


@given(st.floats(min_value=1e-300, max_value=0.999))
def test_at_least_never_says_more(complement):
    text = at_least_text(1 - complement, complement)
    stated = text.removeprefix("1 - ")
    assert float(stated) >= complement if text != stated else float(stated) <= 1 - complement
    assert text != "1"


@given(st.lists(st.sampled_from([0.01, 1e-7, 1 / 3, 0.1, 1e-300]), min_size=1, max_size=3))
def test_a_sum_of_settings_is_the_one_that_a_reader_makes(values):
    with localcontext() as context:
        context.prec = 700
        assert Decimal(sum_text(*values)) >= sum(Decimal(repr(value)) for value in values)
    assert float(sum_text(0.01, 0.01)) == 0.02


# plans, runs and provisos

SMOOTHING = SMOOTHINGS[0]


def sentences(counts, decision="unsafe", tau=0.3, budgets=range(3)):
    result = certify_decisions(counts, SMOOTHING, tau, 0.01, budgets, decision)
    return guarantee(result.statements), list(provisos(result.statements[0], 5)), list(explanations(result)), result


def test_draws_needed_under_a_plan_are_those_of_its_looks():
    plan = frontier_plan(SMOOTHING, 4.6e-5, 0.01, 2000)
    counts = Counts(("a",), np.array([100]), np.array([100]), plan=plan, run=run_of(aim={"tau": 4.6e-5, "alpha": 0.01}))
    _, _, said, result = sentences(counts, tau=4.6e-5, budgets=range(6))
    looks = {-1, *plan.looks.tolist()}
    assert set(result.statement.needs.draws) <= looks
    assert any("spent on all stops together" in text for text in said)
    assert not any("draws up to 2^53" in text for text in said)


def test_ties_are_left_out_of_a_bound_or_stand_beside_it():
    n = np.array([1000])
    fixed = Counts(("a",), np.array([950]), n, ties=np.array([5]))
    _, said, _, result = sentences(fixed)
    assert any(
        "5 draws of all had a margin at rounding level (ties): the bounds count them as failures" in s for s in said
    )
    assert result.p_a[0] == clopper_pearson_bound(945, 1000, 0.01).p
    assert "ties" in certificate_rows(result)[0]
    plan = SequentialTest(0.3, 0.01, 200)
    stop = int(plan.looks[np.argmax(plan.verdict(plan.looks, plan.looks) != 0)])
    tested = Counts(("a",), np.array([stop]), np.array([stop]), ties=np.array([5]), plan=plan)
    _, said, _, result = sentences(tested)
    assert any("count as they fell" in text for text in said)
    assert "ties" in certificate_rows(result)[0]


def test_a_provisional_guarantee_says_so_first():
    looked = Provisional(planned=1000, partial=1, earlier=())
    counts = Counts(("a",), np.array([310]), np.array([317]), run=run_of(), provisional=looked)
    promise, said, _, _ = sentences(counts)
    assert promise.startswith("PROVISIONAL, true only if no vote had a part in when the draws ended: With probability")
    assert any("before the 1000 draws that were set were complete" in text for text in said)
    extended = Counts(("a",), np.array([990]), np.array([1000]), provisional=Provisional(1000, 0, (200, 500)))
    _, said, _, _ = sentences(extended)
    assert any("extended from n = 200 and 500 to 1000" in text and "at most 3 alpha" in text for text in said)


def test_each_budget_with_a_filter_of_its_own_names_the_positions_that_it_covers():
    run = run_of(mode="per budget", budgets=[0, 1, 2])
    counts = Counts(("a",), np.full((1, 3), 999), np.full((1, 3), 1000), budgets=(0, 1, 2), run=run)
    result = certify_decisions(counts, SMOOTHING, 0.3, 0.01, range(3))
    text = threat_model(result.statements[0])
    assert result.statements[0].threat.per_budget == ((), (4,), (4, 5))
    assert "d = 0: none; d = 1: 4; d = 2: 4, 5" in text
    assert "a filter of its own" in text
    assert "6" not in text.replace("5, 6", "")
    assert "risk alpha / 3" in guarantee(result.statements)


@pytest.mark.parametrize(
    ("noise", "words"),
    [
        ({"generator": "threefry2x32", "step": 1 / 255, "total_variation": 5.4e-12}, "grid of step 1/255"),
        ({"generator": "threefry2x32", "step": 1 / 255, "total_variation": 5.4e-12}, "total variation of 5.4e-12"),
        (None, "Version 0.1 drew this noise from float32 numbers"),
    ],
)
def test_a_run_says_which_noise_it_had(noise, words):
    run = run_of(**({} if noise is None else {"noise": noise}))
    _, said, _, result = sentences(Counts(("a",), np.array([990]), np.array([1000]), run=run))
    assert any(words in text for text in said)
    assert ("off the grid are not covered" in threat_model(result.statements[0])) is (noise is not None)


def test_counts_that_were_drawn_elsewhere_are_about_the_ideal_noise():
    _, said, _, _ = sentences(Counts(("a",), np.array([990]), np.array([1000])))
    assert said == ["The counts were drawn elsewhere: the bounds are about ideal Gaussian noise."]
    found = hrs.certify([990], 1000, SMOOTHING, 0.3, 0.01, range(3), total_variation=0.01)
    assert list(provisos(found.statement)) == [
        "The bounds are about ideal Gaussian noise: the total variation of 0.01 between it and the noise that was "
        "drawn, as it was given, is subtracted."
    ]


@pytest.mark.parametrize("side", ["above", "below"])
def test_the_total_variation_that_is_given_is_subtracted_as_that_of_a_run(side):
    run = run_of(noise=GRID | {"total_variation": 0.01})
    k = [990, 10, 500]
    given_here = hrs.certify(k, 1000, SMOOTHING, 0.3, 0.01, range(3), side=side, total_variation=0.01)
    counts = Counts(("0", "1", "2"), np.array(k), np.full(3, 1000), run=run)
    decision = "unsafe" if side == "above" else "safe"
    of_a_run = certify_decisions(counts, SMOOTHING, 0.3, 0.01, range(3), decision)
    np.testing.assert_array_equal(given_here.radius, of_a_run.radius)
    assert (given_here.radius >= 0).any()
    ideal = hrs.certify(k, 1000, SMOOTHING, 0.3, 0.01, range(3), side=side)
    assert (given_here.radius <= ideal.radius).all()
    assert (given_here.radius < ideal.radius).any()
    votes = [[900, 50, 50]]
    top = hrs.certify_classes(votes, SMOOTHING, 0.01, range(2), total_variation=0.01)
    assert (top.radius < hrs.certify_classes(votes, SMOOTHING, 0.01, range(2)).radius).any()
    assert top.statement.noise.total_variation == 0.01


ROOT = Path(hrs.__file__).parent
#: Numbers that promise nothing: what is measured, the limit of a range, how long one waits; None: the whole file.
NO_PROMISE = {
    "_checks.py": ("smallest", "SMALLEST_SIGMA", "LARGEST_SIGMA"),
    "_text.py": None,
    "classifiers/chat/endpoint.py": ("self._longest_wait", "found.pause"),
    "classifiers/denoised.py": ("self.sigma",),
    "classifiers/wire.py": ("self._timeout",),
    "cli/_bill.py": None,
    "cli/_examination.py": None,
    "cli/_workers.py": ("rate",),
    "cli/doctor.py": None,
    "cli/sample.py": ("float(drawn.mean())",),
    "cli/sweep.py": ("SMALLEST", "LARGEST"),
    "kernels/record.py": ("beta",),
    "models/denoiser/denoiser.py": ("low", "high"),
    "report/feature_tables.py": ("1000 * row.seconds",),
    "report/progress.py": None,
}


def rounded_to_nearest(path):
    """Line, format code and expression of each number that a text rounds to nearest, but for those of refusals."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    refused = {part for node in ast.walk(tree) if isinstance(node, ast.Raise) for part in ast.walk(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.FormattedValue) and node.format_spec is not None and node not in refused:
            parts = node.format_spec.values
            code = "".join(part.value if isinstance(part, ast.Constant) else "0" for part in parts)
            if re.search(r"[eEfFgGn%]$", code):
                yield node.lineno, code, ast.unparse(node.value)


def test_no_sentence_rounds_to_nearest():
    """`:.3f`, `:g` and their kin round to nearest, which breaks a promise half of the time; `_text` knows the side.

    Sentences are made in every room: that of a feature certificate belongs to `certificate`.
    """
    found = []
    for path in sorted(ROOT.rglob("*.py")):
        name = path.relative_to(ROOT).as_posix()
        free = NO_PROMISE.get(name, ())
        if free is not None:
            found += [f"{name}:{line}: {{{x}:{code}}}" for line, code, x in rounded_to_nearest(path) if x not in free]
    assert not found


def test_a_share_that_is_rounded_to_nearest_is_seen(tmp_path):
    code = (
        'def said(x):\n    if x:\n        raise ValueError(f"got {x:g}")\n    return ", ".join(f"{y:.3g}" for y in x)\n'
    )
    (tmp_path / "a.py").write_text(code)
    assert list(rounded_to_nearest(tmp_path / "a.py")) == [(4, ".3g", "y")]


def test_a_denoiser_before_the_classifier_is_named_with_its_weights_sigma_and_time_step():
    smoothing = SMOOTHINGS[0]

    def said(**change):
        counts = Counts(("a",), np.array([990]), np.array([1000]), run=run_of(noise=GRID, **change))
        return " ".join(provisos(certify_decisions(counts, smoothing, 0.1, 0.01, budgets=[0, 1]).statement))

    text = said(classifier=DENOISED)
    assert "denoised by a denoiser, weights 0123456789ab for sigma = 0.5 (time 259 of its schedule)" in text
    assert "denoised" not in said(classifier={"name": "guard"})
    bare = said(classifier={"name": "own", "denoiser": {"name": 5}})
    assert "denoised by a denoiser after the noise was added" in bare
    assert "denoised" not in said(classifier={"denoiser": "none"})
