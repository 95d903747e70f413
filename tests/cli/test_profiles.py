"""`sample` and `doctor` on guards of the new families: the profile by itself, by flag, and in the header."""

from typing import get_args, get_type_hints

import numpy as np
import pytest
from guard_families import make_gemma, make_qwen
from vlm_checkpoint import POLICY, write_data

from hybrid_rs_jax.classifiers.vlm.profiles import PROFILES
from hybrid_rs_jax.cli import main
from hybrid_rs_jax.cli._sources import open_guard
from hybrid_rs_jax.cli.options import GuardOptions
from hybrid_rs_jax.data import open_data
from hybrid_rs_jax.sampling.ledger import Ledger


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    base = tmp_path_factory.mktemp("guards")
    for name, make in (("QwenGuard", make_qwen), ("gemma", make_gemma)):
        (base / name).mkdir()
        make(base / name)
    (base / "policy.txt").write_text(POLICY)
    write_data(base, ["open the door", "the key"])
    (base / "pictures").mkdir()
    write_data(base / "pictures", ["", ""])
    return base


def header(run):
    with Ledger.open(run) as ledger:
        return ledger.header


def test_every_profile_can_be_named():
    assert {*get_args(get_args(get_type_hints(GuardOptions)["profile"])[0])} == {*PROFILES}


def test_sample_recognises_the_guard_and_its_header_holds_what_was_resolved(folders, tmp_path, capsys):
    sample = ["sample", "--model", str(folders / "QwenGuard"), "--data", str(folders / "data.csv"), "--sigma", "0.5"]
    sample += ["--samples", "16", "--text-length", "16", "--image-size", "32x32", "--out", str(tmp_path / "run")]
    assert main(sample) == 2
    assert "policy is needed: the profile qwenguard" in " ".join(capsys.readouterr().err.split())
    assert main([*sample, "--policy", str(folders / "policy.txt")]) == 0
    found = header(tmp_path / "run")["classifier"]
    assert (found["profile"], found["answer"]) == ("qwenguard", '{\n    "rating": "{label}"')
    assert main([*sample[:-1], str(tmp_path / "other"), "--profile", "generic"]) == 0
    assert header(tmp_path / "other")["classifier"]["policy"] == "combination"


@pytest.mark.slow
def test_pictures_alone_are_sampled_with_noise_on_pixels_alone(folders, tmp_path):
    sample = ["sample", "--model", str(folders / "gemma"), "--profile", "shieldgemma2", "--sigma", "0.5"]
    sample += ["--policy", str(folders / "policy.txt"), "--data", str(folders / "pictures" / "data.csv")]
    assert main([*sample, "--samples", "16", "--out", str(tmp_path / "run")]) == 0
    assert header(tmp_path / "run")["threat"] == "image"
    assert main(["certify", str(tmp_path / "run"), "--max-budget", "0", "--tau", "0.3", "--alpha", "0.1"]) == 0


def test_doctor_shows_the_prompt_and_where_the_noise_acts(folders, capsys):
    assert main(["doctor", "--model", str(folders / "gemma"), "--batch-size", "2", "--text-length", "16"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "profile: nemotron" in said
    assert "[picture, 4 positions, noise on its pixels]<end_of_image>" in said
    assert "[text of up to 16 tokens, noise behind the trusted text] /no_categories<end_of_turn>" in said
    assert "labels: unsafe goes on with ' unsafe', safe with ' safe'" in said


@pytest.mark.parametrize("name", ["gemma", pytest.param("QwenGuard", marks=pytest.mark.slow)])
@pytest.mark.slow
def test_doctor_shows_a_guard_pictures_of_their_own_size_as_its_processor_does(folders, capsys, name):
    """Pictures of 40 x 32 pixels: Gemma 3 squeezes them, Qwen2.5-VL rounds them; where pan and scan stands is said."""
    flags = {"text_length": 16, "image_size": (32, 32), "policy": str(folders / "policy.txt"), "profile": "generic"}
    guards = [open_guard(str(folders / name), GuardOptions(**flags | {"image_size": s})) for s in ((32, 32), (40, 32))]
    texts, votes = open_data(folders / "data.csv"), []
    for guard in guards:
        rows = [guard.encode(raw.text, raw.image) for raw in map(texts.read, range(2))]
        votes.append(
            np.asarray(guard(*(np.stack([getattr(row, part) for row in rows]) for part in ("tokens", "image"))))
        )
    asked = [
        "--text-length",
        "16",
        "--image-size",
        "32x32",
        "--policy",
        str(folders / "policy.txt"),
        "--profile",
        "generic",
    ]
    data = ["--data", str(folders / "data.csv"), "--batch-size", "2"]
    assert main(["doctor", "--model", str(folders / name), *data, *asked]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert f"own sizes: {(votes[0] != votes[1]).sum()} of 2 inputs decided otherwise than at 32x32" in said
    assert {"gemma": "squeezed into one view (pan and scan", "QwenGuard": "rounded to multiples of 8 pixels"}[
        name
    ] in said
