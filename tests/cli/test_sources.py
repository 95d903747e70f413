"""Models and data sets that are opened by name."""

import sys
from pathlib import Path

import numpy as np
import pytest

from hybrid_rs_jax.cli._doors import ModelOptions
from hybrid_rs_jax.cli._sources import _mesh, first_readable, open_encoder, open_guard, open_source
from hybrid_rs_jax.cli.options import GuardOptions, ThreatOptions
from hybrid_rs_jax.errors import BadInputError, UnreadableInputError


@pytest.fixture
def given(tmp_path, monkeypatch):
    """Arguments that name a classifier and pixels of 0..255."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    (tmp_path / "plain_classifier.py").write_text(
        "def decide(tokens, images):\n    return images.mean((1, 2, 3)) > 0.5\n"
    )
    images = np.arange(2 * 2 * 2 * 3, dtype=np.uint8).reshape(2, 2, 2, 3)
    np.savez(tmp_path / "inputs.npz", tokens=np.zeros((2, 3), int), images=images)
    return "plain_classifier:decide", "inputs.npz", GuardOptions()


def test_the_range_of_pixels_is_used_and_said_in_the_header(given):
    with pytest.raises(BadInputError, match=r"^inputs\.npz: images of uint8 span 0\.\.23; divide pixels"):
        open_source(*given)
    source = open_source(*given, (0.0, 255.0))
    assert source.data == {"name": "npz", "file": "inputs.npz", "pixel_range": [0, 255]}
    np.testing.assert_allclose(first_readable(source.inputs).image.ravel(), np.arange(12) / 255, atol=1e-7)


def test_a_module_that_ends_python_is_one_sentence(given, tmp_path):
    (tmp_path / "rude_classifier.py").write_text("import sys\nsys.exit(3)\n")
    with pytest.raises(
        BadInputError, match=r"^--model rude_classifier:decide: .* cannot be imported: SystemExit\(3\)\.$"
    ):
        open_source("rude_classifier:decide", *given[1:])


@pytest.mark.parametrize(("name", "what"), [("LlavaGuard", "does not exist"), ("inputs.npz", "is not a folder")])
def test_a_folder_of_a_checkpoint_that_is_not_there_is_said_before_its_flags(given, name, what):
    with pytest.raises(BadInputError, match=rf"^--model must be demo, .*, got {name}, which {what}\.$"):
        open_source(name, "data.csv", GuardOptions(text_length=8))


TABLE = ModelOptions(label_column="income")
HERE = "http://localhost:1/v1"


@pytest.mark.parametrize(
    ("model", "data", "own", "sentence"),
    [
        (".", "data.csv", TABLE, "--label-column means nothing to a checkpoint, got --model .."),
        (".", "data.csv", ModelOptions(tokenizer="bytes"), "--tokenizer means nothing to a checkpoint, got --model .."),
        (
            ".",
            "data.csv",
            ModelOptions(schema=Path("s.json")),
            "--schema means nothing to a checkpoint, got --model ..",
        ),
        (HERE, "data.csv", TABLE, f"--model {HERE} is asked with texts and pictures, not with a table of features."),
        (
            "plain_classifier:decide",
            "data.csv",
            ModelOptions(label_column="income", tokenizer="words"),
            "--tokenizer means nothing to a table of features, which --label-column asks for.",
        ),
        (".", "demo", None, "--data must be a folder, a .csv or a .jsonl file of texts and pictures, got demo."),
        (".", "texts.csv", None, "texts.csv holds texts alone; a vision-language checkpoint needs a column image."),
    ],
)
def test_data_and_flags_that_mean_nothing_to_a_model_are_refused(given, tmp_path, model, data, own, sentence):
    (tmp_path / "texts.csv").write_text("id,text\na,hello\n")
    with pytest.raises(BadInputError) as caught:
        open_source(model, data, GuardOptions(), own=own)
    assert str(caught.value) == sentence


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"alphabet": Path("ids.txt")}, "ids.txt must hold token ids, integers of at least 0, got '-3'."),
        ({"alphabet": Path("none.txt")}, "none.txt must hold token ids, integers of at least 0, got ''."),
        ({"alphabet": Path("legal.txt")}, ". holds no config.json."),
    ],
)
def test_an_alphabet_is_read_before_the_checkpoint(given, tmp_path, options, sentence):
    (tmp_path / "ids.txt").write_text("5, 7\n-3")
    (tmp_path / "none.txt").write_text("\n")
    (tmp_path / "legal.txt").write_text("5, 7\n9\n")
    with pytest.raises(BadInputError) as caught:
        open_guard(".", GuardOptions(**options))
    assert str(caught.value) == sentence


TINY = Path(__file__).parents[2] / "experiments" / "tiny_guard"


def test_weights_are_spread_over_a_number_that_divides_the_devices():
    with pytest.raises(BadInputError, match=r"^--model-parallel must divide the 2 devices, got 3\.$"):
        open_guard(str(TINY), GuardOptions(model_parallel=3))
    assert dict(_mesh(2).shape) == {"data": 1, "model": 2}


def test_a_checkpoint_with_a_tower_is_an_encoder_of_the_pooling_that_was_asked_for():
    source = open_encoder(str(TINY), "demo", ThreatOptions(), pooling="grid")
    assert source.model == source.classifier.describe()
    assert source.model["pooling"] == "grid"


class Broken:
    """Inputs that cannot be read."""

    def __init__(self, number):
        self.ids = [str(index) for index in range(number)]

    def read(self, index):
        raise UnreadableInputError(f"The image {index}.png does not exist.")


@pytest.mark.parametrize(
    ("number", "sentence"),
    [
        (0, "The data hold no inputs."),
        (3, "None of the 3 inputs can be used; the first one: The image 0.png does not exist."),
    ],
)
def test_data_without_a_readable_input_have_one_cause(number, sentence):
    with pytest.raises(BadInputError) as caught:
        first_readable(Broken(number))
    assert str(caught.value) == sentence
