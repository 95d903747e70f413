"""Votes are never frozen: what JAX would trace once and for all is called on the host, and a log line says so."""

import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hybrid_rs_jax as hrs

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
def said(caplog):
    caplog.set_level(logging.WARNING, "hybrid_rs_jax")
    return lambda: [record.getMessage() for record in caplog.records]


def numpy_randomness(tokens, images):
    return np.random.default_rng().random(len(tokens)) < 0.5


def numpy_randomness_beside_the_input(tokens, images):
    return jnp.asarray(np.random.default_rng().random(len(tokens)) < 0.5) ^ (tokens[:, 0] > 3)


def test_numpy_randomness_gives_each_input_votes_of_its_own(said):
    for classifier in (numpy_randomness, numpy_randomness_beside_the_input):
        counts = draw(classifier)
        assert len(set(counts.tolist())) > 1, "the same votes four times were the fault"
        assert np.all(abs(counts - N / 2) < 6 * np.sqrt(N / 4))
    assert len(said()) == 2
    assert "numpy_randomness is called on the host, not compiled: its traced output does not depend" in said()[0]
    assert "decides otherwise than its traced program" in said()[1]


def test_a_counter_of_calls_goes_on_counting(said):
    calls = []

    def every_second_call(tokens, images):
        calls.append(len(tokens))
        return (tokens[:, 0] >= 0) & (len(calls) % 2 == 0)

    counts = draw(every_second_call, n=400)
    assert np.all((counts > 0) & (counts < 400))
    assert "every_second_call" in said()[0]


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


def test_a_pure_function_is_compiled_and_says_nothing(said):
    draw(by_pixels)
    assert not said()


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
        (numpy_randomness_beside_the_input, "called on the same noisy copies it decides otherwise"),
        (lambda tokens, images: np.asarray(tokens)[:, 0] > 3, "JAX cannot trace it"),
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

    with pytest.raises(OSError, match="the disk is on fire"):
        draw(broken)


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
