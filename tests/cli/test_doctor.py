"""The command `doctor`, and `sample` on a vision-language checkpoint: the whole path from files to certificates."""

import json
import re
import shutil

import numpy as np
import pytest
from refusals import refused
from vlm_checkpoint import POLICY, make_checkpoint, picture, write_data

from hybrid_rs_jax.classifiers import VlmGuard
from hybrid_rs_jax.cli import main
from hybrid_rs_jax.data import open_data
from hybrid_rs_jax.results.count_files import read_counts

TEXTS = ["open the door", "what is it?", "x" * 300, "<image> hi", "the key"]
BROKEN = 1


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    make_checkpoint(folder)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    (folder / "policy.txt").write_text(POLICY)
    return write_data(folder, TEXTS, broken=[BROKEN])


@pytest.fixture
def flags(checkpoint, data):
    """Flags that every command on the checkpoint takes."""
    settings = ["--policy", str(data.parent / "policy.txt"), "--text-length", "20"]
    return ["--model", str(checkpoint), "--data", str(data), *settings]


def test_doctor_says_what_a_run_would_meet(flags, capsys):
    assert main(["doctor", *flags, "--samples", "2000", "--batch-size", "4"]) == 0
    said = capsys.readouterr().out
    said = " ".join(said.split())
    assert re.search(r"loaded: in [\d.]+ s, [\d,]{6,} parameters, [\d.]+ GB in float32", said)
    assert re.search(r"picture of 28x28 pixels as 36, .* text of up to 20, .*: \d+ positions", said)
    assert re.search(r"clean inputs: \d of the first \d ones Unsafe without noise", said)
    assert 'answer: begins with \'{"rating": "\'' in said
    assert "labels: unsafe goes on with 'Unsafe', safe with 'Safe'" in said
    assert re.search(r"alphabet: \d+ tokens and PAD, V = \d+", said)
    assert len(re.findall(r"(?:Unsafe|Safe) \(margin [+-]\d+\.\d+\)", said)) == 2
    assert re.search(r"speed: [\d,.]+ copies/s in batches of 4", said)
    assert re.search(r"memory: at most [\d.]+ GB on the host", said)
    assert re.search(r"planned run: 5 inputs x 2,000 draws: 10,000 copies, about [\d.,]+ \w+", said)


def unlike(folder, sizes):
    """Inputs with pictures of these sizes, as a table."""
    from PIL import Image

    lines = ["id,text,image"]
    for number, (height, width) in enumerate(sizes):
        pixels = (255 * picture(height, width, number)).round().astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        lines.append(f"row {number},how?,{number}.png")
    (folder / "data.csv").write_text("\n".join(lines) + "\n")
    return folder / "data.csv"


SIZES = [(20, 70), (90, 30), (20, 70), (56, 56)]


@pytest.mark.slow
@pytest.mark.parametrize("family", ["onevision", "llava"])
def test_doctor_counts_the_decisions_that_differ_at_the_pictures_own_sizes(family, tmp_path, capsys):
    """Held against guards that are made for each size from the start."""
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    make_checkpoint(folder, family, seed=6)
    (tmp_path / "policy.txt").write_text(POLICY)
    data = unlike(tmp_path, SIZES)
    chosen = {"policy": tmp_path / "policy.txt", "text_length": 20, "labels": ("p", "I"), "answer": "{label}"}
    texts, differing = open_data(data), []
    here = VlmGuard.from_pretrained(folder, **chosen)
    there = {size: VlmGuard.from_pretrained(folder, **chosen, image_size=size) for size in set(SIZES)}
    for index, size in enumerate(SIZES):
        raw = texts.read(index)
        fitted, own = (guard.encode(raw.text, raw.image) for guard in (here, there[size]))
        assert own.image.shape[:2] == size
        votes = [
            bool(guard(each.tokens[None], each.image[None])[0]) for guard, each in ((here, fitted), (there[size], own))
        ]
        if votes[0] != votes[1]:
            differing.append((raw.id, votes))
    flags = ["--policy", str(chosen["policy"]), "--text-length", "20", "--labels", "p,I", "--answer", "{label}"]
    assert main(["doctor", "--model", str(folder), "--data", str(data), *flags, "--batch-size", "2"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert (
        f"own sizes: {len(differing)} of 4 inputs decided otherwise than at 28x28 when shown at their own size" in said
    )
    how = {"onevision": "cut into tiles by their shape", "llava": "resized by the shorter edge and cropped"}
    assert how[family] in said
    for name, (fitted, own) in differing:
        assert f"{name} ({('Safe', 'Unsafe')[fitted]} here, {('Safe', 'Unsafe')[own]} there)" in said
    if family == "onevision":
        assert 0 < len(differing) < 4, "the sizes matter, for some"


def test_doctor_says_where_a_picture_cannot_be_shown_at_its_own_size(flags, tmp_path, capsys):
    """A narrow strip: fitted it is a picture like any other, by itself the image processing refuses it."""
    flags[flags.index("--data") + 1] = str(unlike(tmp_path, [(1, 60), (28, 28)]))
    assert main(["doctor", *flags, "--batch-size", "2"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "own sizes: 0 of 1 input decided otherwise" in said
    assert "1 input could not be shown so: The edges of an image may differ by a factor of" in said


@pytest.mark.slow
def test_doctor_compares_nothing_where_the_pictures_have_the_certified_size(flags, tmp_path, capsys):
    flags[flags.index("--data") + 1] = str(unlike(tmp_path, [(28, 28), (28, 28)]))
    assert main(["doctor", *flags, "--batch-size", "2"]) == 0
    assert "have the certified size already" in " ".join(capsys.readouterr().out.split())
    assert main(["doctor", *flags, "--batch-size", "2", "--views", "base"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "picture of 28x28 pixels as 17" in said
    assert "of 2 inputs decided otherwise than at 28x28 when shown at their own size, cut into tiles" in said


def test_doctor_refuses_weights_that_are_no_numbers(checkpoint, flags, tmp_path, capsys):
    from safetensors.numpy import load_file, save_file

    broken = tmp_path / "broken"
    shutil.copytree(checkpoint, broken)
    weights = load_file(broken / "model.safetensors")
    name = next(name for name in weights if name.endswith("norm.weight") and "layers" not in name)
    weights[name] = np.full_like(weights[name], np.nan)
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    flags[flags.index("--model") + 1] = str(broken)
    assert "gives a margin of nan on a noisy copy" in refused(["doctor", *flags], capsys)


def test_a_checkpoint_is_sampled_and_certified_and_what_cannot_be_used_is_skipped(flags, tmp_path, capsys):
    run = tmp_path / "run"
    sample = ["sample", *flags, "--sigma", "0.5", "--samples", "48", "--out", str(run)]
    assert main(sample) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "Skipped row 1: The image" in said
    assert "Skipped row 2: Its text takes" in said
    assert "Skipped row 3: Its text holds the token '<image>'" in said
    counts = read_counts(run)
    assert counts.ids == ("row 0", "row 4") or list(counts.ids) == ["row 0", "row 4"]
    assert counts.n.tolist() == [48, 48]
    assert main(["certify", str(run), "--json", "--max-budget", "2"]) == 0
    record = json.loads(capsys.readouterr().out)
    described = record["statement"]["run"]["classifier"]
    assert described["name"] == "hybrid_rs_jax.classifiers.VlmGuard"
    assert described["policy"] == "policy.txt"
    assert record["statement"]["vocab_size"] == described["alphabet_size"]
    assert record["statement"]["run"]["sigma_unit"].startswith("pixels in [0, 1] at 28x28, added before")
    assert "own set" in record["statement"]["run"]["eligible_positions"]
    assert main([*sample, "--resume"]) == 0, "a finished run goes on with nothing left to draw"
    capsys.readouterr()
    assert "text_length" in refused([*sample, "--resume", "--text-length", "21"], capsys)


@pytest.mark.slow
def test_token_noise_alone_on_the_whole_text_is_sampled(flags, tmp_path):
    run = tmp_path / "run"
    change = ["--threat", "l0", "--no-pixel-noise", "--samples", "16", "--template", "policy_first"]
    assert main(["sample", *flags, *change, "--out", str(run)]) == 0
    assert read_counts(run).n.tolist() == [16, 16]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (["--data", "demo"], "--data must be a folder, a .csv or a .jsonl file of texts and pictures"),
        (["--data", "nowhere.csv"], "nowhere.csv does not exist"),
        (["--image-size", "28"], "must look like 384x384"),
        (["--labels", "Unsafe"], "must be two labels like Unsafe,Safe"),
        (["--labels", "Safe,Safe"], "labels must differ"),
        (["--vocab-size", "10"], "contradicts the data"),
        (["--text-length", "1"], "None of the 5 inputs can be used; the first one: Its text takes"),
        (["--policy", "nowhere.txt"], "policy must be combination"),
        (["--model", "demo"], "--policy and --text-length mean something to a vision-language checkpoint only"),
    ],
)
def test_bad_input_to_sample_is_refused_in_one_sentence(change, sentence, flags, tmp_path, capsys):
    error = refused(["sample", *flags, "--sigma", "0.5", "--out", str(tmp_path / "run"), *change], capsys)
    assert sentence in error


def test_doctor_of_a_folder_wants_a_checkpoint(capsys):
    assert "holds no config.json" in refused(["doctor", "--model", "."], capsys)


@pytest.mark.slow
def test_doctor_needs_no_data(flags, capsys):
    without = [flag for number, flag in enumerate(flags) if number not in (2, 3)]
    assert main(["doctor", *without, "--inputs", "7", "--batch-size", "2", "--template", "policy_first"]) == 0
    assert "7 inputs x 1,000 draws" in " ".join(capsys.readouterr().out.split())
