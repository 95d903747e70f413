"""The flag `--denoiser`: in the header, in the statement, in one step with a checkpoint, refused in one sentence."""

import json
import re

import jax
import numpy as np
import pytest
from flax import nnx
from refusals import refused
from vlm_checkpoint import POLICY, make_checkpoint, write_data

import hybrid_rs_jax as hrs
from hybrid_rs_jax.classifiers import Denoised, VlmGuard
from hybrid_rs_jax.cli import main
from hybrid_rs_jax.models.denoiser import (
    Denoiser,
    Diffusion,
    UNet,
    UNetConfig,
    fashion_denoiser,
    load_denoiser,
    save_denoiser,
)
from hybrid_rs_jax.sampling.ledger import Ledger

OWN = """
import hybrid_rs_jax as hrs
from hybrid_rs_jax.models.denoiser import fashion_denoiser

def classify(tokens, images):
    return images.mean(axis=(1, 2, 3)) > 0.45

behind = hrs.classifiers.Denoised(classify, fashion_denoiser())
told = hrs.classifiers.Denoised(classify, fashion_denoiser(), 0.25)
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Flags for a model of one's own and grey pictures of 28 x 28, in the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own_denoised.py").write_text(OWN)
    np.savez("inputs.npz", tokens=np.zeros((3, 2), int), images=np.random.default_rng(0).random((3, 28, 28, 1)))
    return ["--data", "inputs.npz", "--kernel", "none", "--samples", "40", "--sigma", "0.5", "--batch-size", "40"]


def header(run):
    with Ledger.open(run) as ledger:
        return ledger.header


def test_the_public_names_work_as_they_are_written():
    assert hrs.models.load_denoiser.__name__ == "load_denoiser"
    assert hrs.classifiers.Denoised is Denoised


def test_a_denoised_run_says_so_in_header_and_statement_and_is_no_other_run(own, tmp_path, capsys):
    sample = ["sample", "--model", "own_denoised:classify", *own]
    assert main([*sample, "--denoiser", "demo-fashion", "--out", "run"]) == 0
    found = header(tmp_path / "run")["classifier"]
    assert found["classifier"]["name"] == "own_denoised:classify"
    assert "source_sha256" in found["classifier"]
    assert found["sigma"] == 0.5
    assert 258 < found["time"] < 259
    digest = fashion_denoiser().describe()["weights_sha256"]
    assert found["denoiser"]["weights_sha256"] == digest
    assert "denoised behind the noise" in header(tmp_path / "run")["sigma_unit"]
    capsys.readouterr()
    assert main(["certify", "run", "--json"]) == 0
    said = " ".join(json.loads(capsys.readouterr().out)["statement"]["provisos"])
    assert f"denoised by hybrid_rs_jax.models.Denoiser, weights {digest[:12]} for sigma = 0.5 (time 258." in said
    assert "classifier" in refused([*sample, "--out", "run", "--resume"], capsys)
    assert main([*sample, "--out", "bare", "--shard", "1/2"]) == 0
    assert main([*sample, "--out", "part", "--shard", "0/2", "--denoiser", "demo-fashion"]) == 0
    assert "classifier" in refused(["merge", "bare", "part", "--out", "both"], capsys)


def test_doctor_tries_a_model_of_ones_own_behind_a_denoiser(own, capsys):
    doctor = ["doctor", "--model", "own_denoised:classify", *own, "--batch-size", "4"]
    assert main([*doctor, "--denoiser", "demo-fashion"]) == 0
    assert "Denoised" in capsys.readouterr().out
    assert "--denoiser needs pixel noise" in refused(
        ["doctor", "--model", "demo", "--no-pixel-noise", "--denoiser", "demo-fashion"], capsys
    )


def test_a_classifier_that_is_denoised_by_itself_is_told_the_sigma_of_the_run(own, tmp_path, capsys):
    assert main(["sample", "--model", "own_denoised:behind", *own, "--out", "run"]) == 0
    assert header(tmp_path / "run")["classifier"]["sigma"] == 0.5
    error = refused(["sample", "--model", "own_denoised:told", *own, "--out", "other"], capsys)
    assert "sigma of the smoothing must be 0.25, which the denoiser was told to expect, got 0.5." in error
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--denoiser", "no-such-folder"], "no-such-folder"),
        (["--denoiser", "demo-fashion", "--sigma", "90"], "sigma must lie in"),
        (["--denoiser", "demo-fashion", "--kernel", "uniform", "--no-pixel-noise", "--vocab-size", "5"], "--sigma"),
    ],
)
def test_what_a_denoiser_cannot_do_is_one_sentence(own, flags, sentence, tmp_path, capsys):
    if "--no-pixel-noise" in flags:
        own = own[: own.index("--sigma")] + own[own.index("--sigma") + 2 :]
    arguments = ["sample", "--model", "own_denoised:classify", *own, *flags, "--out", "run"]
    assert sentence in refused(arguments, capsys)
    assert not (tmp_path / "run").exists()


# Checkpoints


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    make_checkpoint(folder)
    (folder / "policy.txt").write_text(POLICY)
    data = write_data(tmp_path_factory.mktemp("data"), ["open the door", "the key"])
    policy = ["--policy", str(folder / "policy.txt"), "--text-length", "20"]
    return ["--model", str(folder), "--data", str(data), *policy, "--denoiser", "demo-fashion"]


@pytest.mark.slow
def test_a_checkpoint_is_one_compiled_step_with_its_denoiser(checkpoint, tmp_path, capsys):
    run = tmp_path / "run"
    size = ["--image-size", "56x56"]
    assert main(["sample", *checkpoint, *size, "--sigma", "0.5", "--samples", "24", "--out", str(run)]) == 0
    found = header(run)["classifier"]
    assert found["denoised_at"] == [28, 28], "noise at 56 x 56, the denoiser at 28 x 28"
    assert found["time"] < 259, "resizing leaves less noise"
    assert found["classifier"]["image_size"] == [56, 56]
    guard = VlmGuard.from_pretrained(checkpoint[1], policy=checkpoint[5], text_length=20, image_size=(56, 56))
    denoised = Denoised(guard, fashion_denoiser(), 0.5, size=(28, 28))
    rng = np.random.default_rng(0)
    pair = np.ones((3, 20), np.int32), rng.normal(0.5, 0.5, (3, 56, 56, 3)).astype(np.float32)
    apply, parameters = denoised.functional()
    np.testing.assert_allclose(jax.jit(apply)(parameters, *pair), denoised.margin(*pair), atol=1e-4)
    assert np.abs(np.asarray(guard.margin(*pair)) - denoised.margin(*pair)).max() > 1e-4
    shown = [("the key", pair[1][0]), ("open the door", None), (None, pair[1][1])]
    decided = denoised.decide(shown)
    tokens = np.stack([guard.symbols("the key"), guard.symbols("")])
    np.testing.assert_array_equal(decided[[0, 2]], np.asarray(denoised(tokens, pair[1][:2])))
    np.testing.assert_array_equal(decided[1:2], guard.decide([shown[1]]))


@pytest.mark.slow
def test_a_denoiser_computes_in_the_dtype_of_the_checkpoint_behind_it(checkpoint, tmp_path):
    config = UNetConfig(
        in_channels=3,
        out_channels=3,
        block_out_channels=(4, 8),
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        norm_num_groups=2,
    )
    save_denoiser(Denoiser(UNet(config, rngs=nnx.Rngs(0)), Diffusion()), tmp_path / "denoiser")
    flags = ["--image-size", "56x56", "--sigma", "0.5", "--samples", "8", "--dtype", "bfloat16"]
    arguments = [*checkpoint[:-1], str(tmp_path / "denoiser"), *flags]
    with jax.numpy_dtype_promotion("standard"):  # the layer norm of flax mixes dtypes
        assert main(["sample", *arguments, "--out", str(tmp_path / "run")]) == 0
    assert header(tmp_path / "run")["classifier"]["denoiser"]["dtype"] == "bfloat16"
    exact, half = (load_denoiser(tmp_path / "denoiser", dtype=dtype) for dtype in ("float32", "bfloat16"))
    guard = VlmGuard.from_pretrained(
        checkpoint[1], policy=checkpoint[5], text_length=20, image_size=(56, 56), dtype="float32"
    )
    pair = np.ones((4, 20), np.int32), np.random.default_rng(0).normal(0.5, 0.5, (4, 56, 56, 3)).astype(np.float32)
    margins = [np.asarray(Denoised(guard, each, 0.5).margin(*pair)) for each in (exact, half)]
    assert 0 < np.abs(margins[1] - margins[0]).max() < 0.05 * np.ptp(margins[0])


@pytest.mark.slow
def test_doctor_counts_the_arithmetic_of_denoiser_and_network(checkpoint, capsys):
    assert main(["doctor", *checkpoint, "--batch-size", "4"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    pattern = r"arithmetic: ([\d.]+) GFLOP per copy: denoiser ([\d.]+) \(resizing included\), network ([\d.]+)"
    whole, denoiser, network = map(float, re.search(pattern, said).groups())
    assert denoiser == pytest.approx(3 * fashion_denoiser().flops(28, 28) / 1e9, rel=0.01), "three channels"
    assert whole == pytest.approx(denoiser + network, rel=0.02)


@pytest.mark.slow
def test_curate_asks_behind_the_denoiser(checkpoint, tmp_path, capsys):
    out = tmp_path / "kept.jsonl"
    assert main(["curate", *checkpoint, "--out", str(out), "--sigma", "0.25"]) == 0
    settings = json.loads(out.with_name("kept.jsonl.journal").read_text().splitlines()[0])
    assert '"sigma": 0.25' in json.dumps(settings)
    assert fashion_denoiser().describe()["weights_sha256"] in json.dumps(settings)
