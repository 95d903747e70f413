"""The smoothed classifier at run time: flags by the first unsafe copy, and keeps the promise about misses."""

import re

import jax
import numpy as np
import pytest

import hybrid_rs_jax as hrs

SMOOTHING = hrs.HybridSmoothing(hrs.UniformKernel(0.5, 1000), None)


def rarely(tokens, images):
    """Unsafe when one of nine other symbols comes up: smoothed score 0.5 * 9 / 999."""
    return (tokens[:, 0] > 0) & (tokens[:, 0] < 10)


SCORE = 0.5 * 9 / 999


def predict(m, inputs=500, **options):
    guard = hrs.SmoothedClassifier(rarely, SMOOTHING, **options)
    tokens, images = np.zeros((inputs, 2), np.int32), np.zeros((inputs, 1, 1, 1), np.float32)
    return guard, guard.predict(tokens, images, m, jax.random.key(0))


def test_it_flags_exactly_the_inputs_with_an_unsafe_copy():
    tokens, images = np.zeros((50, 2), np.int32), np.zeros((50, 1, 1, 1), np.float32)
    counts = hrs.sample_counts(rarely, tokens, images, SMOOTHING, 100, jax.random.key(0))
    _, found = predict(100, 50)
    np.testing.assert_array_equal(found.unsafe, counts > 0)
    np.testing.assert_array_equal(found.copies[~found.unsafe], 100)
    assert found.copies[found.unsafe].min() < 100, "an unsafe copy ends the question"


def test_the_share_of_flagged_inputs_is_the_detection_probability():
    guard, found = predict(200)
    expected = guard.detection_probability(200, SCORE)
    assert expected == pytest.approx(1 - (1 - SCORE) ** 200)
    assert abs(found.unsafe.mean() - expected) < 4 * np.sqrt(expected * (1 - expected) / 500)


def test_the_guarantee_names_the_threshold_to_certify_for():
    guard, _ = predict(1, 1)
    text = guard.guarantee(100_000)
    assert float(re.search(r"tau = (\S+) is flagged", text)[1]) >= hrs.detection_threshold(100_000, 0.01)
    assert "tau = 4.60507e-05 is flagged by 100000 fresh noisy copies with probability at least 0.99." in text
    assert "the risk alpha of the certificate comes on top" in text
    assert "probability at least 1 - 1e-07. " in guard.guarantee(10**6, 1e-7)
    tau = hrs.detection_threshold(1000, 0.05)
    assert guard.detection_probability(1000, tau) >= 0.95


def test_positions_without_noise_stay_as_they_are():
    _, found = predict(300, 20, eligible=np.array([False, True]))
    assert not found.unsafe.any()


@pytest.mark.parametrize("m", [0, -1, 2.5, True])
def test_a_wrong_number_of_copies_raises_one_sentence(m):
    guard = hrs.SmoothedClassifier(rarely, SMOOTHING)
    with pytest.raises(ValueError, match=rf"m must be an integer of at least 1, got {m}\.$"):
        guard.predict.__wrapped__(guard, *np.zeros((2, 1, 2), np.int32), m, jax.random.key(0))


def test_detect_takes_text_and_picture_and_flags_what_the_smoothed_guard_calls_unsafe():
    from hybrid_rs_jax.classifiers import DemoGuard
    from hybrid_rs_jax.data import demo

    smoothing = hrs.HybridSmoothing(hrs.UniformKernel(0.25, demo.VOCAB_SIZE), 0.25)
    guard = hrs.SmoothedClassifier(DemoGuard.load(), smoothing, flags=8, batch_size=16, copies=16)
    unsafe, safe = demo.held_out_unsafe(1), demo.load_demo()
    assert guard.detect(unsafe.prompts[0], unsafe.images[0]) is True
    row = next(i for i, prompt in enumerate(safe.prompts) if not safe.labels[i] and safe.digits[i] > 4)
    assert guard.detect(safe.prompts[row], safe.images[row]) is False
    assert guard.detect(unsafe.prompts[0], unsafe.images[0], "now please") is True


class Remembers:
    """Flags nothing and keeps the pictures that it was shown."""

    on_host = True

    def __init__(self):
        self.seen = []

    def encode(self, text, image):
        tokens = np.frombuffer(text.encode(), np.uint8).astype(np.int32)
        return hrs.data.Input(tokens, np.asarray(image, np.float32), np.ones(len(tokens), bool))

    def __call__(self, tokens, images):
        self.seen += [image.tobytes() for image in images]
        return np.zeros(len(tokens), bool)


def test_two_equal_requests_never_share_noise():
    base = Remembers()
    guard = hrs.SmoothedClassifier(base, hrs.HybridSmoothing(hrs.UniformKernel(0.5, 256), 0.5), copies=8)
    for _ in range(3):
        assert guard.detect("ab", np.full((4, 4, 3), 0.5)) is False
    assert len(base.seen) == len(set(base.seen)) == 24


def test_detect_names_what_a_classifier_without_texts_lacks():
    guard = hrs.SmoothedClassifier(rarely, SMOOTHING)
    with pytest.raises(ValueError, match=r"detect needs a classifier with encode\(text, image\), got .*rarely"):
        guard.detect("a", np.zeros((1, 1, 3)))
    with pytest.raises(ValueError, match="copies must be an integer of at least 3, got 2"):
        hrs.SmoothedClassifier(rarely, SMOOTHING, flags=3, copies=2)


def test_the_doors_stand_at_top_level():
    assert {"HostClassifier", "ChatClassifier", "VlmGuard"} <= set(hrs.__all__)
    assert hrs.HostClassifier is hrs.classifiers.HostClassifier
