"""`doctor` on models that are no checkpoints, and the bill, which `plan` reckons without a model."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hybrid_rs_jax.cli import main

MODELS = """
import numpy as np

def bright(tokens, images):
    return images.mean((1, 2, 3)) > 0.4

def constant(tokens, images):
    return np.ones(len(tokens), bool)

rng = np.random.default_rng()

def coin(tokens, images):
    return rng.random(len(tokens)) < 0.5

def fails(tokens, images):
    raise RuntimeError("no weights")

bright.on_host = constant.on_host = coin.on_host = fails.on_host = True
"""


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    Path("doctor_models.py").write_text(MODELS)
    rng = np.random.default_rng(0)
    images = (0.3 + 0.2 * rng.random((3, 5, 4, 3))).astype(np.float32)
    np.savez("a.npz", tokens=rng.integers(0, 9, (3, 6)), images=images)


def examined(model, capsys, *more, data="a.npz"):
    noise = ["--vocab-size", "9", "--sigma", "0.25"] if data == "a.npz" else []
    status = main(["doctor", "--model", model, "--data", data, *noise, *more])
    printed = capsys.readouterr()
    return status, " ".join((printed.out + printed.err).split())


def test_a_function_is_tried_on_its_data_and_the_run_is_reckoned(capsys):
    status, said = examined("doctor_models:bright", capsys, "--price", "0.01", "--tau", "0.1", "--out", "seen")
    assert status == 0
    assert "doctor_models.bright, called on the host" in said
    assert "inputs: 3 inputs; 3 of the first 3 can be used" in said
    assert re.search(r"pictures: float32\[5, 4, 3\], from 0\.30\d to 0\.\d{3} ", said)
    assert re.search(r"answers: bool\[64\], \d+ Unsafe on 64 noisy copies of input 0", said)
    assert "asked twice about the same copies it gives the same answers" in said
    assert "with 64 random pictures the answer changes" in said
    assert re.search(r"speed: [\d,.]+ copies/s in batches of 64", said)
    assert "3 inputs x 1,000 draws: 3,000 copies, about" in said
    assert "30.00 at 0.01 each" in said
    assert "deployed: at run time up to 44 copies for each request" in said
    with Image.open("seen/copy.png") as picture:
        assert picture.mode == "RGB"
    assert len(Path("seen/copy.txt").read_text().split()) == 6


def test_what_is_wrong_with_a_model_is_said(capsys):
    assert (
        "all answers were the same: does the model depend on its input?"
        in examined("doctor_models:constant", capsys)[1]
    )
    assert re.search(r"same 64 copies it changes \d+ answers", examined("doctor_models:coin", capsys)[1])
    status, said = examined("doctor_models:fails", capsys)
    assert status == 2
    assert "The model fails on noisy copies: RuntimeError: no weights" in said
    assert main(["doctor", "--model", "doctor_models:bright"]) == 2
    assert "--data is needed" in capsys.readouterr().err


@pytest.mark.slow
def test_the_demo_needs_no_data(capsys):
    status = main(["doctor", "--model", "demo"])
    said = capsys.readouterr().out
    assert status == 0
    assert "sigma = 0.25" in said
    assert "reads:" in said


def test_plan_reckons_time_and_money_without_a_model(capsys):
    ask = ["plan", "--budget", "1", "--epsilon", "0.1", "--beta", "0.25", "--vocab-size", "99", "--sigma", "0.5"]
    bill = ["--inputs", "200", "--samples", "1000", "--copies-per-second", "50", "--price", "0.001", "--tau", "0.1"]
    assert main([*ask, *bill]) == 0
    said = capsys.readouterr().out
    assert "200 inputs x 1,000 draws: 200,000 copies, about 66.7 minutes, 200.00 at 0.001 each." in said
    assert "At run time up to 44 copies for each request, about 0.880 seconds, 0.05." in said
    assert main([*ask, *bill, "--json"]) == 0
    record = json.loads(capsys.readouterr().out)["bill"]
    assert (record["copies"], record["seconds"], record["money"]) == (200_000, 4000.0, 200.0)
    assert main([*ask, "--price", "1"]) == 2
    assert "--price need --inputs" in capsys.readouterr().err
