"""What `doctor` finds on models and data of every kind."""

import numpy as np
import pytest

import hybrid_rs_jax as hrs
from hybrid_rs_jax.cli._examination import examine
from hybrid_rs_jax.cli._sources import Source
from hybrid_rs_jax.data.inputs import ArrayInputs
from hybrid_rs_jax.errors import BadInputError, UnreadableInputError

FIELDS = hrs.HybridSmoothing(hrs.CategoricalKernel(0.4, (2, 3)), 0.5, step=0.5 / 1024)
WORDS = hrs.HybridSmoothing(hrs.UniformKernel(0.4, 9), None)


class Torn:
    """Inputs of which the first `torn` cannot be read."""

    def __init__(self, torn, image, level):
        shape = (3, 2)
        self.inputs = ArrayInputs(
            ["a", "b", "c"], np.ones(shape, np.int32), np.full((3, *image), level, np.float32), np.ones(2, bool)
        )
        self.ids, self.torn = self.inputs.ids, torn

    def read(self, index):
        if index < self.torn:
            raise UnreadableInputError(f"picture {index} is cut off.")
        return self.inputs.read(index)


def source(classifier, torn=0, cardinalities=None, image=(1, 1, 2), level=0.0):
    return Source(classifier, Torn(torn, image, level), 9, "", {}, {}, cardinalities=cardinalities)


def test_fields_and_classes_are_shown_and_what_cannot_be_read_is_said():
    seen = []

    def classes(tokens, images):
        seen.append(tokens)
        return tokens.sum(axis=1).astype(np.int32)

    found = examine(source(classes, 1, (2, 3)), FIELDS, 40)
    said = dict(found.lines())
    assert said["inputs"] == "3 inputs; 2 of the first 3 can be used"
    assert said["refused"] == "a: picture 0 is cut off."
    assert said["tokens"] == "int32[2], fields of 2, 3 values, 2 carry noise"
    votes = found.tokens.sum(axis=1)
    shares = ", ".join(f"{np.sum(votes == number)} of class {number}" for number in np.unique(votes))
    assert said["answers"] == f"int32[40], {shares} on 40 noisy copies of input b"
    assert seen[2].max(axis=0).tolist() == [1, 2]  # random texts are of the fields' own values
    assert seen[2].min() == 0


def test_texts_alone_have_no_pictures():
    said = dict(examine(source(lambda tokens, images: tokens[:, 0] > 4, image=(0, 0, 0)), WORDS, 40).lines())
    assert said["pictures"] == "none: tokens alone carry noise"
    assert "pictures" not in said["looks at"]


def test_pixels_outside_of_0_and_1_are_said_to_be_in_a_unit_of_their_own():
    smoothing = hrs.HybridSmoothing(hrs.UniformKernel(0.4, 9), 0.5, step=0.5)
    said = dict(examine(source(lambda tokens, images: tokens[:, 0] > 4, level=255.0), smoothing, 4).lines())
    unit = "they are not in [0, 1], so sigma and radii are in this unit of theirs"
    assert said["pictures"] == f"float32[1, 1, 2], from 255.000 to 255.000; {unit}"


def test_where_no_input_can_be_read_the_first_cause_is_said():
    with pytest.raises(BadInputError) as caught:
        examine(source(lambda tokens, images: tokens[:, 0] > 4, 3), FIELDS, 4)
    assert str(caught.value) == "None of the first 3 inputs can be used; the first one: a: picture 0 is cut off."


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (BadInputError("The service is not there."), "The service is not there."),
        (RuntimeError("no weights"), "The model fails on noisy copies: RuntimeError: no weights."),
        (RuntimeError("It has no weights."), "The model fails on noisy copies: RuntimeError: It has no weights."),
        (AssertionError(), "The model fails on noisy copies: AssertionError: no reason given."),
    ],
)
def test_an_error_of_the_model_is_one_sentence_and_one_of_ours_stays_as_it_is(error, sentence):
    def fails(tokens, images):
        raise error

    with pytest.raises(BadInputError) as caught:
        examine(source(fails), FIELDS, 4)
    assert str(caught.value) == sentence
