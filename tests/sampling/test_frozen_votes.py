"""Votes are never frozen: what JAX would trace once and for all is called on the host, and a log line says so."""

import logging
import random
import time
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hybrid_rs_jax as hrs
from hybrid_rs_jax.errors import who_raised
from hybrid_rs_jax.sampling import _backends

N = 300
SMOOTHING = hrs.HybridSmoothing(hrs.UniformKernel(0.4, 10), 0.5)
TOKENS = np.arange(4 * 5, dtype=np.int32).reshape(4, 5) % 10
IMAGES = (np.arange(4 * 16) / 255).astype(np.float32).reshape(4, 4, 4, 1)
# means of 16 pixels are multiples of 1/4080: no tie that rounding could decide
LEVEL = 408.5 / 4080


def draw(classifier, n=N, smoothing=SMOOTHING, **options):
    return hrs.sample_counts(classifier, TOKENS, IMAGES, smoothing, n, jax.random.key(0), batch_size=100, **options)


def by_pixels(tokens, images):
    return images.mean(axis=(1, 2, 3)) > LEVEL


@pytest.fixture
def said(caplog, monkeypatch):
    monkeypatch.setattr(_backends, "_on_host", weakref.WeakSet())
    caplog.set_level(logging.WARNING, "hybrid_rs_jax")
    return lambda: [record.getMessage() for record in caplog.records]


def numpy_randomness(tokens, images):
    return np.random.default_rng().random(len(tokens)) < 0.5


def numpy_randomness_beside_the_input(tokens, images):
    return jnp.asarray(np.random.default_rng().random(len(tokens)) < 0.5) ^ (tokens[:, 0] > 3)


def test_numpy_randomness_gives_each_input_votes_of_its_own(said, monkeypatch):
    generator = np.random.default_rng(0)  # or four counts were equal by chance once in 20,000 times
    monkeypatch.setattr(np.random, "default_rng", lambda: generator)
    for classifier in (numpy_randomness, numpy_randomness_beside_the_input):
        counts = draw(classifier)
        assert len(set(counts.tolist())) > 1, "the same votes four times were the fault"
        assert np.all(abs(counts - N / 2) < 6 * np.sqrt(N / 4))
    assert len(said()) == 2
    assert "numpy_randomness is called on the host, not compiled: its traced output does not depend" in said()[0]
    assert "traced again it is another program" in said()[1]


def test_a_counter_of_calls_goes_on_counting(said):
    calls = []

    def every_second_call(tokens, images):
        calls.append(len(tokens))
        return (tokens[:, 0] >= 0) & (len(calls) % 2 == 0)

    counts = draw(every_second_call, n=400)
    assert np.all((counts > 0) & (counts < 400))
    assert "every_second_call" in said()[0]


def seldom(draw):
    """A classifier whose generator says otherwise about once in a thousand calls, so that no trial sees a change."""
    return lambda tokens, images: (tokens[:, 0] > 3) ^ bool(draw() < 1e-3)


@pytest.mark.parametrize("draw_number", [random.random, np.random.random_sample])
def test_a_generator_of_the_process_is_seen_to_move_even_if_no_decision_shows_it(said, draw_number):
    draw(seldom(draw_number), n=100)
    assert "it draws random numbers outside of JAX" in said()[0]


def test_the_generator_of_torch_is_seen_as_well(said):
    torch = pytest.importorskip("torch")
    draw(seldom(lambda: float(torch.rand(()))), n=100)
    assert "it draws random numbers outside of JAX" in said()[0]


@pytest.mark.parametrize(
    "draw_number",
    [np.random.default_rng(0).random, random.SystemRandom().random, lambda: time.perf_counter_ns() % 10**6 / 10**6],
)
def test_a_threshold_from_elsewhere_is_read_anew_in_each_call(said, draw_number):
    """A trace holds the number itself, so that two of them differ where decisions may agree by chance."""
    # of all float32 in -16..-8, so that three equal ones are out of the question
    draw(lambda tokens, images: images.mean(axis=(1, 2, 3)) > -8 * (1 + draw_number()), n=100)
    assert "traced again it is another program" in said()[0]


def test_what_is_captured_and_the_same_stays_compiled(said):
    key, table = jax.random.key(3), np.arange(10) % 2

    def pure(tokens, images):
        shift = jax.random.uniform(key, ()) + jnp.asarray(table)[tokens].sum(axis=1).astype(jnp.float32)
        return jax.nn.relu(shift) + images.mean(axis=(1, 2, 3)) > 2.5

    draw(pure)
    assert not said()


@pytest.mark.parametrize(
    "answer",
    [
        lambda means: means > means.mean(),  # as batch normalisation does in training
        lambda means: jax.random.bernoulli(jax.random.key(0), 0.4, means.shape) ^ (means > 9),
        lambda means: means >= means[0],
    ],
)
def test_an_answer_that_hangs_on_the_rest_of_the_batch_is_refused(answer):
    with pytest.raises(ValueError, match=r"^The answer on a noisy copy must depend on that copy alone, but \d+ of 64 "):
        draw(lambda tokens, images: answer(images.mean(axis=(1, 2, 3))))


@pytest.mark.parametrize(
    "answer",
    [
        lambda means: means > means.mean(),
        lambda means: np.random.default_rng(0).random(len(means)) < 0.4,
        lambda means: means >= means[0],
    ],
)
def test_on_the_host_an_answer_that_hangs_on_the_rest_of_the_batch_is_refused_as_well(answer):
    """There a function is asked once more, about some of the copies of a batch without the others."""

    def asked(tokens, images):
        return answer(np.asarray(images).mean(axis=(1, 2, 3)))

    for on_host in (asked, Declared(asked, on_host=True)):
        with pytest.raises(ValueError, match=r"^The answer .* must depend on that copy alone, but \d+ of 32 "):
            draw(on_host)


def test_an_answer_that_is_drawn_on_the_host_is_legal_and_costs_no_more_than_a_small_batch():
    sizes, rng = [], np.random.default_rng(0)

    def drawn(tokens, images):
        sizes.append(len(tokens))
        return rng.random(len(tokens)) < 0.5

    def decided(tokens, images):
        sizes.append(len(tokens))
        return tokens[:, 0] > 3

    draw(Declared(drawn, on_host=True))
    assert sum(sizes) <= 4 * N + 32 + 100  # the first difference shows that it draws
    sizes.clear()
    draw(Declared(decided, on_host=True))
    assert sum(sizes) == 4 * N + 32


def test_a_door_that_can_give_up_its_questions_is_never_asked_more():
    asked = []

    def paid(tokens, images):
        asked.append(len(tokens))
        return tokens[:, 0] > 3

    door = Declared(paid, on_host=True)
    door.cancel = lambda: None
    draw(door)
    assert sum(asked) == 4 * N


def test_an_honest_constant_works(said):
    np.testing.assert_array_equal(draw(lambda tokens, images: np.ones(len(tokens), bool)), N)
    np.testing.assert_array_equal(draw(lambda tokens, images: jnp.zeros(len(tokens), bool)), 0)
    assert len(said()) == 2


def test_a_global_that_changes_between_two_runs_is_read_anew(said):
    limit = {"value": LEVEL}

    def above(tokens, images):
        return images.mean(axis=(1, 2, 3)) > limit["value"]

    first = draw(above)
    for value in (410.5 / 4080, 612.5 / 4080, LEVEL):
        limit["value"] = value
        np.testing.assert_array_equal(draw(above), draw(lambda tokens, images, v=value: images.mean((1, 2, 3)) > v))
    np.testing.assert_array_equal(draw(above), first)
    assert not said()


def test_what_jax_cannot_trace_runs_on_the_host_without_a_word_of_tracers(said):
    def branches(tokens, images):
        return np.array([bool(row[0] > 3) for row in tokens])

    def converts(tokens, images):
        return np.asarray(tokens)[:, 0] > 3

    wanted = draw(lambda tokens, images: tokens[:, 0] > 3)
    for classifier in (branches, converts):
        np.testing.assert_array_equal(draw(classifier), wanted)
    assert len(said()) == 2
    assert all("is called on the host, not compiled: JAX cannot trace it" in line for line in said())


def test_of_one_classifier_the_log_speaks_once_and_of_each_other_one_again(said):
    def converting():
        return lambda tokens, images: np.asarray(tokens)[:, 0] > 3

    first, second = converting(), converting()
    for classifier in (first, first, second):
        draw(classifier, 20)
    assert len(said()) == 2


def test_a_pure_function_is_compiled_and_says_nothing(said):
    draw(by_pixels)
    assert not said()


def fails_on_arrays(tokens):
    if not isinstance(tokens, jax.core.Tracer):
        raise OSError("no weights")
    return tokens[:, 0] > 3


def otherwise_on_arrays(tokens):
    return tokens[:, 0] > (3 if isinstance(tokens, jax.core.Tracer) else 99)


class Declared:
    """A classifier that says whether it is JAX."""

    def __init__(self, function, on_host):
        self._function, self.on_host, self.name = function, on_host, function.__name__

    def __call__(self, tokens, images):
        return self._function(tokens, images)


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (numpy_randomness, "its traced output does not depend on its input"),
        (numpy_randomness_beside_the_input, "traced again it is another program"),
        (lambda tokens, images: np.asarray(tokens)[:, 0] > 3, "JAX cannot trace it"),
        (lambda tokens, images: (tokens[:, 0] > 3, images[:, 0, 0, 0] > 0.5), "traced it returns several arrays"),
        (lambda tokens, images: fails_on_arrays(tokens), "called with JAX arrays it raises OSError"),
        (lambda tokens, images: otherwise_on_arrays(tokens), "called on the same noisy copies it decides otherwise"),
    ],
)
def test_a_function_that_is_declared_to_be_jax_is_refused_with_the_reason(function, reason):
    with pytest.raises(ValueError, match=rf"^The classifier .* is declared to be JAX .*, but {reason}.*\.$"):
        draw(Declared(function, on_host=False))


def test_a_declaration_is_taken_at_its_word_where_it_holds(said):
    wanted = draw(by_pixels)
    for on_host in (False, True):
        np.testing.assert_array_equal(draw(Declared(by_pixels, on_host)), wanted)
    assert not said()


class Functional:
    """Promises a pure function and has none."""

    tie_tolerance = 0.0

    def functional(self):
        return self.margin, ()

    @staticmethod
    def margin(parameters, tokens, images):
        return np.asarray(tokens)[:, 0] * 1.0

    def __call__(self, tokens, images):
        return np.asarray(tokens)[:, 0] > 0


def test_a_pure_function_that_cannot_be_traced_is_one_sentence():
    with pytest.raises(ValueError, match=r"^The classifier .*Functional cannot be traced by JAX; declare"):
        draw(Functional())


def test_errors_of_the_function_itself_stay_what_they_are():
    def broken(tokens, images):
        raise OSError("the disk is on fire")

    with pytest.raises(OSError, match="the disk is on fire") as caught:
        draw(broken)
    assert "broken" in who_raised(caught.value)


@pytest.mark.parametrize("error", [KeyError("x"), StopIteration(), RecursionError("deep"), AttributeError("no dice")])
def test_an_error_of_the_function_says_whose_it_is(error):
    def broken(tokens, images):
        raise error

    for classifier in (broken, Declared(broken, on_host=True)):
        with pytest.raises(Exception, match=r"\S") as caught:
            draw(classifier)
        assert who_raised(caught.value).startswith("the classifier ")


# What is no vote


class Margin:
    """A guard whose margin may be anything."""

    tie_tolerance = 1e-6

    def __init__(self, bad):
        self._bad = bad

    def functional(self):
        return self._margin, jnp.asarray(self._bad, jnp.float32)

    @staticmethod
    def _margin(bad, tokens, images):
        return jnp.where(tokens[:, 0] == 7, bad, images.mean(axis=(1, 2, 3)))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_margin_that_is_not_finite_ends_the_run_at_the_copy(bad):
    guard = Margin(bad)
    guard.__class__.__call__ = lambda self, tokens, images: None
    with pytest.raises(ValueError, match=rf"^The classifier's margin on noisy copy \d+ of input \d is {bad}: "):
        draw(guard)


@pytest.mark.parametrize(("label", "classes"), [(2, None), (-1, None), (3, 3), (-1, 3)])
@pytest.mark.parametrize("on_host", [False, True])
def test_a_label_that_is_no_class_ends_the_run_at_the_copy(label, classes, on_host):
    def foreign(tokens, images):
        return jnp.where(tokens[:, 0] == 7, label, 1).astype(jnp.int32)

    most = 1 if classes is None else classes - 1
    with pytest.raises(
        ValueError, match=rf"^A classifier's label must lie in 0..{most}, got {label} on noisy copy \d+ of input \d\.$"
    ):
        draw(Declared(foreign, on_host), classes=classes)


@pytest.mark.parametrize("on_host", [False, True])
def test_numbers_that_are_not_real_are_no_votes(on_host):
    def complex_margin(tokens, images):
        means = jnp.asarray(images).mean(axis=(1, 2, 3))
        return jax.lax.complex(means, means)

    with pytest.raises(ValueError, match="complex64"):
        draw(Declared(complex_margin, on_host))


def test_a_decision_behind_a_mask_is_missing():
    def masked(tokens, images):
        return np.ma.masked_array(np.ones(len(tokens), bool), mask=tokens[:, 0] == 7)

    with pytest.raises(ValueError, match=r"must decide about each pair, got an array in which some are masked\.$"):
        draw(Declared(masked, on_host=True))


def test_a_pair_of_unequal_things_is_no_array_of_decisions():
    with pytest.raises(ValueError, match=r"must return an array of decisions, got a tuple of unequal parts\.$"):
        draw(Declared(lambda tokens, images: (np.ones(len(tokens), bool), 3), on_host=True))


def test_votes_from_the_ends_of_the_range_count():
    counts = draw(lambda tokens, images: (tokens[:, 0] % 3).astype(jnp.int32), classes=3)
    assert counts.shape == (4, 3)
    np.testing.assert_array_equal(counts.sum(axis=1), N)


def test_a_classifier_says_itself_how_many_classes_it_has():
    guard = hrs.classifiers.HostClassifier(lambda tokens, images: tokens[:, 0] % 3, classes=3)
    assert draw(guard).shape == (4, 3)


@pytest.mark.parametrize("smoothing", [SMOOTHING, hrs.HybridSmoothing(hrs.UniformKernel(0.4, 10), None)])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_pixel_that_is_not_finite_is_refused(smoothing, bad):
    images = IMAGES.copy()
    images[2, 1, 1, 0] = bad
    with pytest.raises(ValueError, match=rf"Pixels must be finite numbers, got {bad}"):
        hrs.sample_counts(by_pixels, TOKENS, images, smoothing, 10, jax.random.key(0))
