"""`--config FILE` and `--quiet`, and the file that a run keeps."""

import tomllib
from pathlib import Path

import numpy as np
import pytest

from hybrid_rs_jax.cli import main
from hybrid_rs_jax.cli._config import with_config
from hybrid_rs_jax.results.count_files import read_counts


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    Path("config_model.py").write_text("def bright(tokens, images):\n    return images.mean((1, 2, 3)) > 0.5\n")
    np.savez("a.npz", tokens=np.ones((2, 4), int), images=np.full((2, 3, 3, 1), 0.5, np.float32))


RUN = ["sample", "--model", "config_model:bright", "--data=a.npz", "--vocab-size", "9", "--sigma", "0.25"]


def test_a_run_keeps_its_flags_and_they_make_it_again(capsys):
    assert main([*RUN, "--samples", "50", "--no-cache", "--quiet", "--out", "one"]) == 0
    assert capsys.readouterr().out == ""
    kept = tomllib.loads(Path("one/run.toml").read_text())["sample"]
    assert kept == {
        "model": "config_model:bright",
        "data": "a.npz",
        "vocab-size": "9",
        "sigma": "0.25",
        "samples": "50",
    }
    assert main(["sample", "--config", "one/run.toml", "--out", "two"]) == 0
    assert read_counts(Path("two")).successes.tolist() == read_counts(Path("one")).successes.tolist()
    assert main(["sample", "--config=one/run.toml", "--samples", "70", "--out", "three"]) == 0
    assert read_counts(Path("three")).n.tolist() == [70, 70], "flags of the command win"
    assert main(["certify", "one", "--tau", "0.1", "--quiet", "--max-budget", "0"]) == 0
    said = capsys.readouterr().out
    assert "successes" in said
    assert "With probability" not in said.rpartition("successes")[2]


def test_keys_are_flags_and_lists_are_joined():
    Path("c.toml").write_text("tau = 0.5\nno_pixel_noise = true\npartial = false\n[certify]\nepsilon = [0, 0.5]\n")
    assert with_config(["certify", "run", "--config", "c.toml"]) == ["certify", "--epsilon=0,0.5", "run"]
    found = with_config(["sweep", "--config=c.toml", "--p-a", "0.9"])
    assert found[:3] == ["sweep", "--tau=0.5", "--no-pixel-noise"]
    assert found[-2:] == ["--p-a", "0.9"]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("a = ", "is not legal TOML"),
        ("[sample.a]\nb = 1", "a must be a text, a number, true or a list"),
        ("[sample]\nsgima = 1", "--sgima"),
        ("[sweep]\np_a = 0.9", "bad.toml holds no flags for sample."),
    ],
)
def test_a_bad_file_of_flags_is_one_sentence(content, sentence, capsys):
    Path("bad.toml").write_text(content)
    assert main([*RUN, "--out", "run", "--config", "bad.toml"]) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1
    assert main(["sample", "--config"]) == 2
    assert "--config needs a value" in capsys.readouterr().err
