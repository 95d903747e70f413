"""What `doctor` says of decisions at the pictures' own sizes, with guards that say or raise what is needed."""

import types

import jax
import numpy as np
import pytest

from hybrid_rs_jax.cli._deployed import _at_own_size, _Case, _geometry, _own_sizes, clean_lines
from hybrid_rs_jax.data import RawInput
from hybrid_rs_jax.data.inputs import Input

IMAGE = np.zeros((3, 4, 3), np.float32)


def case(image=IMAGE):
    tokens = np.zeros(2, np.int32)
    return _Case(RawInput("a", "hello", image), Input(tokens, image, np.ones(2, bool), "a"), False)


def guard(error):
    def decide(tokens, images):
        raise error

    return types.SimpleNamespace(decide_unfitted=decide)


@pytest.mark.parametrize(
    "error", [MemoryError(), jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory allocating 9 bytes")]
)
def test_pictures_that_are_too_large_for_the_memory_are_told_with_their_size(error):
    assert _at_own_size(guard(error), (3, 4), [case()]) == "there is not enough memory for 3x4 pixels"


def test_a_picture_that_is_refused_is_told_and_another_fault_is_not_hidden():
    assert _at_own_size(guard(ValueError("too narrow")), (3, 4), [case()]) == "too narrow"
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        _at_own_size(guard(jax.errors.JaxRuntimeError("INTERNAL: broken")), (3, 4), [case()])


def test_pictures_of_the_certified_size_are_shown_to_a_deployed_guard_as_they_are():
    same = types.SimpleNamespace(image_size=(3, 4), settings=types.SimpleNamespace(views="checkpoint"))
    said = "the pictures have the certified size already, so a deployed guard is shown the same"
    assert _own_sizes(same, [case()]) == said


def test_inputs_that_cannot_be_encoded_are_left_out():
    def encode(text, image):
        raise ValueError("no place for it")

    class Texts(list):
        read = list.__getitem__

    lines = list(clean_lines(types.SimpleNamespace(encode=encode), Texts([case().raw] * 3)))
    assert lines == [("clean inputs", "0 of the first 0 ones Unsafe without noise")]


PLAIN = {"pinpoints": (), "area": None, "border": None, "crop": None, "size": (28, 28), "family": "Llava", "step": 14}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"pinpoints": ((28, 28),)}, "cut into tiles by their shape"),
        ({"area": (1, 9)}, "rounded to multiples of 14 pixels"),
        ({"border": (0.5, 0.5, 0.5)}, "made a square by a border"),
        ({"crop": (28, 28), "size": 28}, "resized by the shorter edge and cropped"),
        ({"crop": (28, 28)}, "squeezed into one view"),
        ({"family": "Gemma3"}, "squeezed into one view (pan and scan, which a server may switch on, shows further"),
        ({}, "squeezed into one view"),
    ],
)
def test_what_the_image_processing_does_to_a_shape_is_named(settings, words):
    processing = types.SimpleNamespace(settings=types.SimpleNamespace(**PLAIN | settings))
    assert _geometry(processing).startswith(words)
    assert ("pan and scan" in _geometry(processing)) == ("pan and scan" in words)
