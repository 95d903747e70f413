"""Denoised smoothing on Fashion-MNIST, with stand-ins for the data set: files, trainer, comparison."""

import gzip
import json
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from fashion_files import write_part

sys.path.insert(0, str(Path(__file__).parents[2] / "experiments"))

import _denoised_text
import _fashion
import denoised
import train_denoiser

from hybrid_rs_jax.errors import BadInputError
from hybrid_rs_jax.models.denoiser import load_denoiser

pytestmark = pytest.mark.slow  # trains and compares


def write_random(folder, part, count, seed):
    random = np.random.default_rng(seed)
    write_part(folder, part, random.integers(0, 10, count), random)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_random(folder, "train", 60, 0)
    write_random(folder, "t10k", 30, 1)
    return folder


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "out"
    flags = ["--out", str(folder), "--data", str(data), "--any-contents", "--steps", "4", "--batch-size", "8", "--half"]
    assert train_denoiser.main([*flags, "--until", "2"]) == 0
    assert not (folder / "denoiser").exists()
    assert train_denoiser.main(flags) == 0
    return folder


def test_the_trainer_goes_on_and_leaves_a_denoiser_of_half_a_megabyte(trained):
    denoiser = load_denoiser(trained / "denoiser")
    assert denoiser(jnp.zeros((2, 28, 28, 1)), 0.5).shape == (2, 28, 28, 1)
    assert sum(file.stat().st_size for file in (trained / "denoiser").rglob("*") if file.is_file()) <= 500_000
    assert json.loads((trained / "training.json").read_text())["steps"] == 4


def test_a_finished_denoiser_is_left_as_it_is(trained, data, capsys):
    assert train_denoiser.main(["--out", str(trained), "--data", str(data), "--any-contents"]) == 2
    assert "is finished and left as it is" in capsys.readouterr().err


@pytest.fixture(scope="module")
def compared(data, trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("compared") / "out"
    flags = ["--out", str(folder), "--data", str(data), "--any-contents", "--denoiser", str(trained / "denoiser")]
    flags += ["--inputs", "6", "--samples", "20", "--steps", "60", "--text-inputs", "3", "--text-samples", "1000"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(denoised, "SIGMAS", (0.25,))
        assert denoised.main(flags) == 0
    return folder


def test_every_classifier_has_its_row(compared):
    record = json.loads((compared / "result.json").read_text())
    rows = {row["classifier"]: row for row in record["rows"]}
    assert list(rows) == ["clean", "denoised", "two steps", "wrong unit", "noisy"]
    assert rows["two steps"]["samples"] == 10, "two passes of the denoiser for each copy: half as many copies"
    for row in rows.values():
        shares = [value for name, value in row.items() if name.startswith("certified_accuracy")]
        assert shares == sorted(shares, reverse=True)
        assert 0 <= row["accuracy_of_one_copy"] <= 1
    assert (compared / "denoised.png").exists()


def test_prompt_and_picture_are_certified_together_by_ordinary_and_conditional_draws(compared):
    rows = json.loads((compared / "result.json").read_text())["text_and_picture"]
    assert [(row["classifier"], row["draws"]) for row in rows] == [
        (name, way) for name in ("clean", "denoised", "noisy") for way in ("ordinary", "both")
    ]
    for row in rows:
        assert row["certified"] == sorted(row["certified"], reverse=True), "a larger budget is harder"
        assert row["mean_radius"] == sorted(row["mean_radius"], reverse=True)
    assert (compared / "denoised_text.png").exists()


def test_the_guard_of_prompt_and_picture_wants_the_named_class_and_at_most_one_harmless_word():
    class Bright:
        def functional(self):
            return classify, ()

    def classify(parameters, tokens, images):
        return (images.mean(axis=(1, 2, 3)) > 0.5).astype(jnp.int32)

    guard = _denoised_text.NamedClass(Bright())
    tokens = _denoised_text.prompts(np.array([1, 0, 1, 1]))
    tokens[2, 3], tokens[3, 2:4] = 12, 12
    assert guard(tokens, np.ones((4, 28, 28, 1), np.float32)).tolist() == [True, False, True, False]


def test_the_wrong_unit_is_half_of_the_right_one():
    class Told:
        def __call__(self, images, sigma):
            return sigma

    assert denoised.WrongUnit(Told())(None, 0.5) == 0.25


def test_two_steps_pass_through_half_the_noise():
    seen = []

    def denoiser(images, sigma):
        seen.append((images, sigma))
        return jnp.zeros_like(images)  # says that everything is noise

    denoised.TwoSteps(denoiser)(jnp.full((1, 2, 2, 1), 0.8), 0.5)
    (first, whole), (second, half) = seen
    assert (whole, half) == (0.5, 0.25)
    np.testing.assert_allclose(second, first / 2)


def test_the_published_files_are_known_by_their_contents(data, tmp_path):
    with pytest.raises(BadInputError, match="is not the file that was published"):
        _fashion.load_fashion(data, "train")
    with pytest.raises(BadInputError, match=r"does not exist; install Debian's package"):
        _fashion.load_fashion(tmp_path, "train")
    for content in (b"", b"no gzip", gzip.compress(b"x" * 100)[:-4]):
        (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(content)
        with pytest.raises(BadInputError, match=r"cannot be read|is not the file"):
            _fashion.load_fashion(tmp_path, "train")


def test_labels_and_pictures_must_be_as_many(data, tmp_path):
    write_random(tmp_path, "train", 5, 0)
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes((data / "train-labels-idx1-ubyte.gz").read_bytes())
    with pytest.raises(BadInputError, match="holds 60 labels of train but 5 pictures"):
        _fashion.load_fashion(tmp_path, "train", any_contents=True)


@pytest.mark.skipif(not _fashion.FOLDER.exists(), reason="needs Debian's package dataset-fashion-mnist")
def test_debians_files_are_the_published_ones():
    pictures = _fashion.load_fashion(_fashion.FOLDER, "t10k")
    assert pictures.images.shape == (10_000, 28, 28, 1)
    assert (pictures.images.min(), pictures.images.max()) == (0, 1)
    assert np.bincount(pictures.labels).tolist() == [1000] * 10
