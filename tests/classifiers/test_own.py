"""Models of other libraries: what they return is read as decisions, or refused in one sentence."""

import re
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hybrid_rs_jax.classifiers.own import decisions, own_classifier

TOKENS, IMAGES = np.zeros((3, 1), np.int32), np.zeros((3, 1, 2, 1), np.float32)


class Estimator:
    """What scikit-learn's estimators have, and no more."""

    def __init__(self, classes=None, answers=(0, 1, 1), **more):
        self.answers, self.n_features_in_ = np.array(answers), 2
        if classes is not None:
            self.classes_ = classes
        vars(self).update(more)

    def predict(self, rows):
        assert rows.shape == (3, 2)
        return self.answers


class Marginal:
    """A classifier whose margin the engine asks for."""

    def __call__(self, tokens, images):
        return self.margin(tokens, images) > 0

    def margin(self, tokens, images):
        return images.mean((1, 2, 3))


def score(tokens, images):
    return images.mean((1, 2, 3))


@pytest.mark.parametrize(
    ("model", "settings", "words"),
    [
        (Estimator, {}, "must be an object, got the class Estimator; name an instance"),
        (score, {"features": "both"}, r"an estimator with predict only, got .*\.score"),
        (Estimator([0, 1]), {"unsafe": (1,)}, "unsafe classes mean nothing to an estimator, got .*Estimator"),
        (Estimator([[0, 1], [2, 3]]), {}, "Estimator decides several things at once; one is certified"),
        (Estimator([0, 1, 2]), {"threshold": 0.5}, "a threshold needs two classes, and .*Estimator has 3"),
        (Estimator(["spam"]), {}, r"Estimator knows one class only, \['spam'\]"),
        (Estimator([0, 1]), {"features": "texts"}, "Estimator takes texts, and these data hold token ids"),
        (Marginal(), {"threshold": 0.5}, "Marginal has a margin of its own and no use for a threshold"),
        (3, {}, "must be a classifier, called with .*, got 3"),
    ],
)
def test_a_setting_that_means_nothing_to_a_model_is_refused_in_one_sentence(model, settings, words):
    with pytest.raises(ValueError, match=words):
        own_classifier(model, **settings)


def test_a_module_that_asks_for_more_than_a_pair_is_refused():
    torch = pytest.importorskip("torch")

    class Three(torch.nn.Module):
        def forward(self, tokens, images, mask):
            return images

    with pytest.raises(ValueError, match=r"forward of .*Three must take \(tokens, images\) or \(images\), got 3 arg"):
        own_classifier(Three())


NAN = np.array([0.5, np.nan])


@pytest.mark.parametrize(
    ("returned", "settings", "sentence"),
    [
        (np.zeros((2, 3)), {}, "returns 3 columns: give it an attribute classes = 3 for a certificate of the class"),
        (
            np.zeros((2, 3)),
            {},
            "class, say which classes are Unsafe (--unsafe-classes K,K,...), or return one decision",
        ),
        (np.ones(2, int), {"threshold": 0.5}, "A threshold needs one score per pair, got int64 of shape (2,)."),
        (np.ones((2, 2)), {"threshold": 0.5}, "A threshold needs one score per pair, got float64 of shape (2, 2)."),
        (NAN, {"threshold": 0.5}, "A score must be a finite number, got nan."),
        (np.array([[0, np.inf], [1, 2]]), {}, "A score must be a finite number, got inf."),
        (np.ones((2, 3)), {"unsafe": (1, 3)}, "must return a column for each class 0..3, got shape (2, 3)."),
        (np.ones(2), {"unsafe": (1,)}, "must return a column for each class 0..1, got shape (2,)."),
        (np.array([0.25, 1]), {}, "The model returns scores (float64), 0.25 for one: say"),
    ],
)
def test_what_is_no_decision_is_refused_with_its_value_and_what_is_legal(returned, settings, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)):
        decisions(returned, **{"threshold": None, "classes": None, "unsafe": None} | settings)


@pytest.mark.parametrize(
    ("returned", "settings", "expected"),
    [
        ({"logits": np.array([[1, 2], [4, 3]])}, {}, [True, False]),
        (types.SimpleNamespace(logits=np.array([0.2, 0.8])), {"threshold": 0.5}, [False, True]),
        (np.array([[0.2], [0.8]]), {"threshold": 0.5}, [False, True]),
        (np.array([0.0, 1.0]), {}, [0, 1]),
        (np.array([2, 0, 3]), {"unsafe": (2, 3)}, [True, False, True]),
        (np.array([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7]]), {"unsafe": (1, 2)}, [False, True]),
        (np.array([[0.4, 0.3, 0.3], [0.6, 0.3, 0.1]]), {"unsafe": (1, 2), "threshold": 0.5}, [True, False]),
        (np.array([[1, 3, 2], [9, 3, 2]]), {"classes": 3}, [1, 0]),
    ],
)
def test_decisions_are_read_from_labels_columns_and_scores(returned, settings, expected):
    found = decisions(returned, **{"threshold": None, "classes": None, "unsafe": None} | settings)
    assert found.tolist() == expected
    assert found.dtype.kind in "bi"


def test_a_threshold_on_decisions_is_refused_where_jax_traces_them():
    above = own_classifier(lambda tokens, images: images.mean((1, 2, 3)) > 0, threshold=0.5)
    with pytest.raises(ValueError, match=r"^a threshold needs scores, got bools from .*lambda"):
        above(jnp.asarray(TOKENS), jnp.asarray(IMAGES))
    assert jax.jit(own_classifier(score, threshold=-1.0))(TOKENS, IMAGES).tolist() == [True] * 3


def test_a_function_with_unsafe_classes_is_asked_on_the_host():
    unsafe = own_classifier(lambda tokens, images: np.arange(len(tokens)), unsafe=(0, 2))
    assert unsafe(TOKENS, IMAGES).tolist() == [True, False, True]
    assert unsafe.describe()["unsafe"] == [0, 2]


def test_a_callable_that_does_not_say_its_arguments_is_taken_as_it_is():
    class Silent:
        __signature__ = "none"

        def __call__(self, tokens, images):
            return images.mean((1, 2, 3)) > 0

    silent = Silent()
    assert own_classifier(silent) is silent


def test_an_estimator_without_classes_says_its_decisions_itself_and_one_that_no_file_holds_has_no_digest():
    detector = own_classifier(Estimator(held=lambda: None))
    assert detector(TOKENS, IMAGES).tolist() == [False, True, True]
    assert detector.describe()["digest"] is None
    again = own_classifier(Estimator(["a", "b"], answers=["b", "a", "b"]))
    assert again(TOKENS, IMAGES).tolist() == [True, False, True]
    assert re.fullmatch("[0-9a-f]{64}", again.describe()["digest"])
    assert again.describe()["unsafe"] == "b"
