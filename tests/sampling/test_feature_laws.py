"""Laws of cosines: the same whatever the batch, never above the true cosine, the noise of the engine."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hybrid_rs_jax as hrs
from hybrid_rs_jax.certificate.prototypes import directions
from hybrid_rs_jax.confidence import score_edges
from hybrid_rs_jax.features import HostEncoder, unit_features
from hybrid_rs_jax.sampling._cosines import Cosines, _binned, _thresholds, rounding_of_cosines
from hybrid_rs_jax.sampling._trial import Program
from hybrid_rs_jax.sampling.engine import data_mesh
from hybrid_rs_jax.sampling.features import clean_features

PIXELS = hrs.HybridSmoothing(None, 0.2)
RNG = np.random.default_rng(0)
TOKENS, IMAGES = np.zeros((3, 2), np.int32), RNG.random((3, 4, 4, 1)).astype(np.float32)
KEY = jax.random.key(5)


def flat(tokens, images):
    return images.reshape(len(images), -1)


def noisy_copies(number, smoothing=PIXELS, images=IMAGES):
    """The copies 0..number-1 of each input, through the engine with a classifier that writes down what it sees."""
    seen = []

    def record(tokens, pixels):
        seen.append((np.array(tokens), np.array(pixels)))
        return np.zeros(len(tokens), bool)

    record.on_host = True
    copies = []
    for i in range(len(images)):
        seen.clear()
        tokens = np.zeros((len(images), 2), np.int32)
        hrs.sample_counts(record, tokens, images, smoothing, number, KEY, batch_size=number)
        total = np.concatenate([pixels for _, pixels in seen])
        copies.append(total[i * number : (i + 1) * number])
    return np.stack(copies)


def exact_cosines(features, reference):
    return np.einsum("inf,if->in", features / np.linalg.norm(features, axis=2, keepdims=True), reference)


def test_the_law_is_that_of_the_cosines_on_the_copies_of_the_engine_and_never_above():
    features = noisy_copies(60).reshape(3, 60, -1).astype(np.float64)
    clean = unit_features(clean_features(flat, TOKENS, IMAGES, PIXELS))
    scores = np.sort((1 + exact_cosines(features, clean)) / 2, axis=1)
    law = hrs.sample_features(flat, TOKENS, IMAGES, PIXELS, 60, KEY, batch_size=32)
    for i in range(3):
        lower = np.repeat(law.edges[:-1], law.counts[i])
        upper = np.repeat(law.edges[1:], law.counts[i])
        assert np.all(lower <= scores[i])
        assert np.all(scores[i] <= upper + rounding_of_cosines(16))


@pytest.mark.parametrize("reference", ["clean", "pairs"])
def test_batches_devices_and_parts_do_not_change_the_law(reference):
    whole = hrs.sample_features(flat, TOKENS, IMAGES, PIXELS, 50, KEY, reference)
    for batch_size, devices in ((7, 1), (16, 2)):
        options = {"batch_size": batch_size, "mesh": data_mesh(devices)}
        assert np.array_equal(
            hrs.sample_features(flat, TOKENS, IMAGES, PIXELS, 50, KEY, reference, **options).counts, whole.counts
        )
    parts = [
        hrs.sample_features(flat, TOKENS, IMAGES, PIXELS, n, KEY, reference, first=first)
        for first, n in ((0, 20), (20, 30))
    ]
    assert np.array_equal((parts[0] + parts[1]).counts, whole.counts)


def test_an_input_ends_at_the_first_look_that_certifies_its_target_with_the_draws_of_a_fixed_run():
    shown = np.stack([IMAGES[0], 0.02 * IMAGES[0]])  # a dark picture has small features, which the noise turns
    given, target = (flat, TOKENS[:2], shown, PIXELS), hrs.SimilarityTarget(0.5, 0.1)
    law = hrs.sample_features(*given, 400, KEY, target=target)
    assert law.plan == target.looks(400)
    assert law.n[0] < law.n[1] == 400
    again = hrs.sample_features(*given, 400, KEY, target=target, batch_size=7, mesh=data_mesh(2))
    assert np.array_equal(again.counts, law.counts)
    fixed = hrs.sample_features(*given, int(law.n[0]), KEY)
    assert np.array_equal(fixed.counts[0], law.counts[0])
    certificate = hrs.certify_features(law, PIXELS, target.alpha, total_variation=PIXELS.total_variation(16))
    assert (certificate.similarity(0.1)[:, 0] >= 0.5).tolist() == [True, False]
    with pytest.raises(ValueError, match="first must be 0 with a target"):
        hrs.sample_features(*given, 400, KEY, target=target, first=3)
    with pytest.raises(ValueError, match=r"50 draws certify a cosine of 0\.5 at eps = 0\.9"):
        hrs.sample_features(*given, 50, KEY, target=hrs.SimilarityTarget(0.5, 0.9))


def test_a_host_encoder_gives_the_law_of_the_same_encoder_in_jax_up_to_rounding():
    ours = hrs.sample_features(flat, TOKENS, IMAGES, PIXELS, 200, KEY)
    host = hrs.sample_features(HostEncoder(flat), TOKENS, IMAGES, PIXELS, 200, KEY)
    below = [np.cumsum(law.counts, axis=1) for law in (ours, host)]
    assert np.all(below[0] >= below[1])  # float32 is lowered by more
    assert np.abs(ours.counts - host.counts).sum() < 0.1 * 3 * 200


def test_pairs_compare_independent_copies():
    law = hrs.sample_features(flat, TOKENS, IMAGES, PIXELS, 4000, KEY, "pairs")
    copies = noisy_copies(2000).reshape(3, 2000, -1).astype(np.float64)
    unit = copies / np.linalg.norm(copies, axis=2, keepdims=True)
    wanted = (1 + np.einsum("if,if->i", unit.mean(axis=1), unit.mean(axis=1))) / 2  # |E f|^2, for independent copies
    found = (law.counts @ law.edges[:-1]) / 4000
    assert np.all(np.abs(found - wanted) < 0.01)


def test_of_several_directions_the_least_cosine_counts():
    prototypes = np.eye(16)[:4] + 0.1
    w = directions(np.array([0, 1, 2]), prototypes)
    law = hrs.sample_features(flat, TOKENS, IMAGES, PIXELS, 100, KEY, w)
    each = [hrs.sample_features(flat, TOKENS, IMAGES, PIXELS, 100, KEY, w[:, k]) for k in range(3)]
    below = np.cumsum(law.counts, axis=1)
    assert all(np.all(below >= np.cumsum(other.counts, axis=1)) for other in each)
    assert not np.array_equal(below, np.cumsum(each[0].counts, axis=1))


def test_one_program_serves_all_inputs():
    traces = []

    def encode(tokens, images):
        traces.append(images.shape)
        return images.reshape(len(images), -1)

    hrs.sample_features(encode, TOKENS[:1], IMAGES[:1], PIXELS, 64, KEY, batch_size=64)
    one = [shape for shape in traces if shape[0] > 1]
    traces.clear()
    hrs.sample_features(
        encode, np.zeros((9, 2), np.int32), np.tile(IMAGES, (3, 1, 1, 1)), PIXELS, 64, KEY, batch_size=64
    )
    assert [shape for shape in traces if shape[0] > 1] == one  # only the clean one is encoded alone


def test_an_encoder_with_numpy_noise_is_called_on_the_host():
    calls = []

    def random(tokens, images):
        calls.append(isinstance(images, np.ndarray))
        return np.asarray(images).reshape(len(images), -1) + np.random.default_rng().random()

    law = hrs.sample_features(random, TOKENS, IMAGES, PIXELS, 20, KEY)
    assert law.n.tolist() == [20, 20, 20]
    assert any(calls)


@pytest.mark.parametrize("features", [3, 64, 5000])
def test_float_cosines_are_binned_at_or_below_their_true_value(features):
    rng, edges = np.random.default_rng(features), score_edges(512)
    u = rng.standard_normal((1, features))
    f = (u * rng.uniform(0.2, 3, (400, 1)) + rng.uniform(0, 1, (400, 1)) * rng.standard_normal((400, features))).astype(
        np.float32
    )
    f *= np.float32(10.0) ** rng.integers(-30, 30, (400, 1)).astype(np.float32)
    label = _binned(lambda parameters, tokens, images: images, False)
    unit = unit_features(u).astype(np.float32)
    thresholds = _thresholds(edges, rounding_of_cosines(features))
    bins = np.asarray(jax.jit(label)((None, unit, thresholds), np.zeros((400, 1), np.int32), f))
    wide = f.astype(np.longdouble)
    true = (wide @ unit[0].astype(np.longdouble)) / np.sqrt(
        (wide**2).sum(1) * (unit[0].astype(np.longdouble) ** 2).sum()
    )
    assert np.all(edges[bins] <= (1 + true) / 2)
    assert (
        np.all(edges[np.minimum(bins + 1, 511)] >= (1 + true) / 2 - rounding_of_cosines(features) - 1e-6)
        or features < 4
    )


def test_an_edge_belongs_to_the_bin_that_it_opens_only_beyond_the_rounding():
    edges = score_edges(4)
    thresholds = _thresholds(edges, rounding_of_cosines(2))
    assert np.all(thresholds[1:].astype(np.float64) > 2 * edges[1:-1] - 1)
    assert thresholds[0] < -1


def test_zero_and_infinite_features_end_the_draws_with_a_sentence():
    def dead(tokens, images):
        return jnp.where(images.mean(axis=(1, 2, 3)) > 0.5, 1.0, 0.0)[:, None] * images.reshape(len(images), -1)

    with pytest.raises(ValueError, match=r"zero or not finite|is zero"):
        hrs.sample_features(dead, TOKENS, np.full_like(IMAGES, 0.52), PIXELS, 200, KEY)
    with pytest.raises(ValueError, match="no direction"):
        hrs.sample_features(HostEncoder(lambda t, i: 0 * flat(t, i)), TOKENS, IMAGES, PIXELS, 20, KEY)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"encoder": lambda tokens, images: images.mean(axis=(1, 2, 3))}, "one vector"),
        ({"encoder": lambda tokens, images: images}, "one vector"),
        ({"reference": "dirty"}, "reference must be"),
        ({"reference": np.ones((2, 16))}, r"reference must hold vectors \[3, 16\]"),
        ({"reference": np.ones((3, 5))}, r"reference must hold vectors \[3, 16\]"),
        ({"reference": np.zeros((3, 16))}, "no direction"),
        ({"n": 0}, "n must"),
        ({"bins": 1}, "bins must"),
        ({"tokens": TOKENS[:0], "images": IMAGES[:0]}, "at least one input"),
        ({"smoothing": hrs.HybridSmoothing(hrs.DeletionKernel(0.5), 0.2), "reference": "pairs"}, "deletion"),
        ({"smoothing": hrs.HybridSmoothing(hrs.Conditional(hrs.AbsorbingKernel(0.5)), 0.2)}, "forced must name"),
    ],
)
def test_what_has_no_law_is_refused_in_one_sentence(change, message):
    arguments = {"encoder": flat, "tokens": TOKENS, "images": IMAGES, "smoothing": PIXELS, "n": 20, "key": KEY} | change
    with pytest.raises(ValueError, match=message):
        hrs.sample_features(**arguments)


def test_pairs_of_categorical_fields_have_each_field_twice():
    def one_hot(tokens, images):
        return jax.nn.one_hot(tokens, 4).reshape(len(tokens), -1)

    smoothing = hrs.HybridSmoothing(hrs.CategoricalKernel((0.1, 0.2), (2, 4)), None)
    law = hrs.sample_features(one_hot, TOKENS, IMAGES, smoothing, 3000, KEY, "pairs")
    same = [0.9**2 + 0.1**2, 0.8**2 + 3 * (0.2 / 3) ** 2]
    found = (law.counts @ law.edges[:-1])[0] / 3000
    assert abs(found - (1 + sum(same) / 2) / 2) < 0.02


@pytest.mark.parametrize("reference", ["clean", "pairs"])
def test_forced_positions_are_resampled_in_every_draw_of_the_attacked_copy_alone(reference):
    def one_hot(tokens, images):
        return jax.nn.one_hot(tokens[:, 0], 4)

    smoothing = hrs.HybridSmoothing(hrs.Conditional(hrs.UniformKernel(0.3, 4)), None)
    forced = np.array([True, False])
    law = hrs.sample_features(one_hot, TOKENS, IMAGES, smoothing, 4000, KEY, reference, forced=forced)
    equal = (law.counts @ law.edges[:-1])[0] / 4000 * 2 - 1
    assert abs(equal - 0.25) < 0.04  # uniform against the clean symbol, or against any law of its own


def test_the_classifier_of_cosines_names_the_encoder():
    cosines = Cosines(
        flat, Program(lambda p, t, i: flat(t, i), None), score_edges(8), 16, pairs=False, mesh=data_mesh(1)
    )
    assert cosines.name.endswith("flat")
    assert cosines.classes == 9
