"""Any callable on the host: the same answer as a direct call, and one sentence for what is no answer."""

import re
import subprocess
import sys

import jax
import numpy as np
import pytest

import hybrid_rs_jax as hrs
from hybrid_rs_jax.classifiers import BaseClassifier, HostClassifier
from hybrid_rs_jax.data import demo

TOKENS = np.arange(23 * 4, dtype=np.int32).reshape(23, 4) % 10
IMAGES = np.linspace(-1, 2, 23 * 2 * 3 * 1, dtype=np.float32).reshape(23, 2, 3, 1)


def parity(tokens, images):
    return (tokens.sum(axis=1) + np.floor(images.sum(axis=(1, 2, 3))).astype(int)) % 2 == 0


@pytest.fixture(scope="module")
def forest():
    """A scikit-learn pipeline on the words and the pixels of the demo, and noisy held-out inputs."""
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.feature_extraction.text import CountVectorizer

    inputs = demo.load_demo()
    words = CountVectorizer(vocabulary=[word for word in demo.vocabulary() if word.isalpha()])

    def features(tokens, images):
        counted = words.transform([demo.decode(row) for row in tokens]).toarray()
        return np.hstack([counted, images.reshape(len(images), -1)])

    model = RandomForestClassifier(n_estimators=10, random_state=0)
    model.fit(features(inputs.tokens, inputs.images), inputs.labels)
    noise = np.random.default_rng(0).standard_normal(inputs.images.shape, np.float32)
    return (lambda tokens, images: model.predict(features(tokens, images))), inputs.tokens, inputs.images + noise


@pytest.mark.parametrize("batch_size", [None, 1, 50, 64, 10_000])
def test_a_sklearn_model_gives_the_answers_of_a_direct_call(forest, batch_size):
    predict, tokens, images = forest
    found = HostClassifier(predict, batch_size=batch_size)(tokens[:150], images[:150])
    assert found.dtype == np.bool_
    np.testing.assert_array_equal(found, predict(tokens[:150], images[:150]))
    assert 0 < found.sum() < 150


def test_the_engine_counts_what_a_traced_classifier_would_be_counted_for():
    smoothing = hrs.HybridSmoothing(hrs.UniformKernel(0.4, 10), 0.5)
    key = jax.random.key(0)
    by_host = HostClassifier(lambda tokens, images: tokens.sum(axis=1) % 3 == 0, batch_size=7)
    counts = hrs.sample_counts(by_host, TOKENS[:3], IMAGES[:3], smoothing, 40, key, batch_size=20)
    traced = hrs.sample_counts(lambda t, i: t.sum(axis=1) % 3 == 0, TOKENS[:3], IMAGES[:3], smoothing, 40, key)
    np.testing.assert_array_equal(counts, traced)


def test_pieces_come_in_order_and_are_as_large_as_allowed():
    sizes = []

    def first_token(tokens, images):
        sizes.append(len(tokens))
        return tokens[:, 0] % 2

    found = HostClassifier(first_token, batch_size=10)(TOKENS, IMAGES)
    assert sizes == [10, 10, 3]
    np.testing.assert_array_equal(found, TOKENS[:, 0] % 2 == 1)


def test_it_is_a_base_classifier_on_the_host():
    classifier = HostClassifier(parity, max_in_flight=3)
    assert isinstance(classifier, BaseClassifier)
    assert (classifier.on_host, classifier.max_in_flight, classifier.classes) == (True, 3, None)


def test_arrays_of_jax_and_other_widths_are_taken():
    expected = parity(TOKENS, IMAGES)
    found = HostClassifier(parity)(jax.numpy.asarray(TOKENS), jax.numpy.asarray(IMAGES))
    np.testing.assert_array_equal(found, expected)
    types = []

    def note(tokens, images):
        types.append((tokens.dtype, images.dtype, tokens.flags.c_contiguous, images.flags.c_contiguous))
        return parity(tokens, images)

    np.testing.assert_array_equal(HostClassifier(note)(TOKENS.astype(np.int64), IMAGES.astype(np.float64)), expected)
    assert types == [(np.int32, np.float32, True, True)]


def test_a_function_that_writes_into_its_arrays_changes_nothing_outside():
    def vandal(tokens, images):
        tokens[:], images[:] = 0, 0
        return np.zeros(len(tokens), bool)

    tokens, images = TOKENS.copy(), IMAGES.copy()
    HostClassifier(vandal, batch_size=5)(tokens, images)
    np.testing.assert_array_equal(tokens, TOKENS)
    np.testing.assert_array_equal(images, IMAGES)


def test_an_empty_batch_is_not_shown_to_the_function():
    def never(tokens, images):
        raise AssertionError

    assert HostClassifier(never)(TOKENS[:0], IMAGES[:0]).shape == (0,)


@pytest.mark.parametrize("dtype", [bool, np.int64, np.uint8, list])
def test_bools_zeros_and_ones_are_decisions(dtype):
    def decide(tokens, images):
        found = parity(tokens, images)
        return found.tolist() if dtype is list else found.astype(dtype)

    found = HostClassifier(decide, batch_size=4)(TOKENS, IMAGES)
    assert found.dtype == np.bool_
    np.testing.assert_array_equal(found, parity(TOKENS, IMAGES))


def test_classes_are_int32():
    found = HostClassifier(lambda tokens, images: tokens[:, 0] % 3, classes=3)(TOKENS, IMAGES)
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, TOKENS[:, 0] % 3)


@pytest.mark.parametrize(
    ("returned", "classes", "words"),
    [
        (np.full(5, 0.7), None, "bools or the integers 0 and 1, got dtype float64"),
        (np.full(5, np.nan), None, "got dtype float64"),
        (np.array(["Safe"] * 5), None, "got dtype <U4"),
        (np.array([None] * 5), None, "got dtype object"),
        (None, None, "got dtype object"),
        (np.ones(4, bool), None, r"shape \(5,\), got shape \(4,\)"),
        (np.ones((5, 1), bool), None, r"shape \(5,\), got shape \(5, 1\)"),
        (True, None, r"got shape \(\)"),
        (np.array([0, 1, 2, 0, 1]), None, r"in 0\.\.1, got 2"),
        (np.array([0, -1, 0, 0, 1]), None, r"in 0\.\.1, got -1"),
        (np.array([0, 1, 3, 0, 1]), 3, r"in 0\.\.2, got 3"),
        (np.ones(5, bool), 3, "integers, the classes, got dtype bool"),
        (np.ones(5), 3, "got dtype float64"),
    ],
)
def test_what_is_no_decision_is_refused_with_one_sentence(returned, classes, words):
    with pytest.raises(ValueError) as caught:
        HostClassifier(lambda tokens, images: returned, classes=classes)(TOKENS[:5], IMAGES[:5])
    assert re.fullmatch(rf"[^\n]*{words}[^\n]*\.", str(caught.value))


def test_an_error_of_the_function_says_which_pairs_it_was_at():
    def fragile(tokens, images):
        if 17 in tokens[:, 0]:
            raise OSError("out of memory")
        return np.ones(len(tokens), bool)

    tokens = np.tile(np.arange(23, dtype=np.int32)[:, None], (1, 4))
    with pytest.raises(OSError, match="out of memory") as caught:
        HostClassifier(fragile, batch_size=10, name="fragile")(tokens, IMAGES)
    assert caught.value.__notes__ == ["The host classifier fragile was at pairs 10 to 19 of a batch of 23."]


@pytest.mark.parametrize(
    ("tokens", "images", "words"),
    [
        (TOKENS.astype(np.float32), IMAGES, "tokens must be integers"),
        (TOKENS[0], IMAGES, r"shape \(4,\)"),
        (TOKENS.astype(np.int64) + 2**31, IMAGES, "int32, got values from 2147483648 to"),
        (TOKENS, IMAGES[..., 0], r"shape \(23, 2, 3\)"),
        (TOKENS, (IMAGES * 255).astype(np.uint8), "images must be floats .* uint8"),
        (TOKENS[:3], IMAGES, "got 3 and 23"),
    ],
)
def test_bad_input_raises_one_sentence_with_the_value(tokens, images, words):
    with pytest.raises(ValueError, match=rf"^[^\n]*{words}[^\n]*\.$"):
        HostClassifier(parity)(tokens, images)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"batch_size": 0}, "batch_size must be an integer of at least 1, got 0"),
        ({"max_in_flight": 0}, "max_in_flight must be an integer of at least 1, got 0"),
        ({"classes": 1}, "classes must be an integer of at least 2, got 1"),
    ],
)
def test_bad_settings_raise_one_sentence_with_the_value(changes, words):
    with pytest.raises(ValueError, match=rf"^{words}\.$"):
        HostClassifier(parity, **changes)


def test_the_header_names_function_and_weights():
    assert HostClassifier(parity).describe()["name"] == f"{__name__}.parity"
    described = HostClassifier(parity, name="guard", digest="ab12", classes=4).describe()
    assert described == {"name": "guard", "digest": "ab12", "classes": 4}


def test_importing_the_room_loads_nothing_that_is_not_asked_for():
    program = (
        "import sys, hybrid_rs_jax.classifiers as room; from hybrid_rs_jax.classifiers import HostClassifier;"
        "import hybrid_rs_jax.classifiers.chat;"
        "print([name for name in ('openai', 'PIL', 'sklearn', 'torch', 'flax', 'jax') if name in sys.modules])"
    )
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    assert loaded.stdout.strip() == "[]"


def test_every_public_name_is_found_and_listed():
    import hybrid_rs_jax.classifiers as room

    assert set(room.__all__) <= set(dir(room))
    assert all(callable(getattr(room, name)) for name in room.__all__)
    with pytest.raises(AttributeError, match="no_such_name"):
        room.no_such_name  # noqa: B018
