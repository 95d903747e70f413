"""The command `curate`: which inputs are kept, why others are not, and going on after an interruption."""

import json

import pytest
from vlm_checkpoint import POLICY, make_checkpoint, write_data

from hybrid_rs_jax.classifiers import VlmGuard
from hybrid_rs_jax.cli import main
from hybrid_rs_jax.cli.curate import NoiseAlone
from hybrid_rs_jax.data import Outcome, fit, open_data
from hybrid_rs_jax.errors import UnreadableInputError
from hybrid_rs_jax.kernels import HybridSmoothing, UniformKernel

TEXTS = ["open the door", "what is it?", "x" * 300, "the key", "on the other side", "a wall", "this user", "how?"]
LABELS = ("p", "I")  # tokens that the random network parts these inputs by


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    make_checkpoint(folder, seed=6)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    (folder / "policy.txt").write_text(POLICY)
    return write_data(folder, TEXTS, broken=[1])


@pytest.fixture
def curate(checkpoint, data, tmp_path):
    settings = ["--policy", str(data.parent / "policy.txt"), "--text-length", "20", "--labels", ",".join(LABELS)]
    out = ["--answer", "{label}", "--out", str(tmp_path / "kept.jsonl")]
    return ["curate", "--model", str(checkpoint), "--data", str(data), *settings, *out]


@pytest.fixture(scope="module")
def expected(checkpoint, data):
    """The outcome of every input, asked one question at a time."""
    guard = VlmGuard.from_pretrained(
        checkpoint,
        policy=data.parent / "policy.txt",
        text_length=20,
        labels=LABELS,
        answer="{label}",
    )
    inputs = open_data(data)
    return {name: outcome(guard, inputs, index) for index, name in enumerate(inputs.ids)}


def outcome(guard, inputs, index):
    try:
        raw = inputs.read(index)
    except UnreadableInputError:
        return Outcome.UNREADABLE
    if len(raw.text) > 100:
        return Outcome.UNREADABLE
    picture = fit(raw.image, *guard.image_size)
    if guard.decide([(raw.text, None)])[0]:
        return Outcome.TEXT_UNSAFE
    if guard.decide([(None, picture)])[0]:
        return Outcome.IMAGE_UNSAFE
    if not guard.decide([(raw.text, picture)])[0]:
        return Outcome.PAIR_SAFE
    noise = noise_alone(guard, raw)
    assert noise[0].any(), "tokens carry noise as well"
    return Outcome.NOISE_UNSAFE if guard.decide([noise])[0] else Outcome.KEPT


def noise_alone(guard, raw):
    smoothing = HybridSmoothing(UniformKernel(0.25, guard.vocab_size), 0.5)
    return NoiseAlone(smoothing, guard.text_length, guard.image_size, 0)(raw)


def test_every_input_meets_the_outcome_of_its_questions(curate, expected, tmp_path, capsys):
    assert main(curate) == 0
    said = capsys.readouterr().out
    lines = [json.loads(line) for line in (tmp_path / "kept.jsonl.journal").read_text().splitlines()]
    assert {line["id"]: line["outcome"] for line in lines[1:]} == expected
    kept = [json.loads(line)["id"] for line in (tmp_path / "kept.jsonl").read_text().splitlines()]
    assert kept == [name for name, what in expected.items() if what is Outcome.KEPT]
    assert f"8 inputs, {len(kept)} of them interaction-only" in said
    assert "dropped 2: unreadable" in said
    assert "Unreadable row 2: Its text takes" in said
    assert len(set(expected.values())) > 2, "the questions part the inputs"


def test_a_column_of_pictures_without_text_answers_the_question_about_the_picture_alone(
    curate, data, expected, tmp_path, capsys
):
    """Every input gets the picture of one whose picture is safe, and of one whose picture is not."""
    stages = {what: [name for name, found in expected.items() if found is what] for what in Outcome}
    passed = [
        name for name, what in expected.items() if what in (Outcome.KEPT, Outcome.PAIR_SAFE, Outcome.NOISE_UNSAFE)
    ]
    if not (stages[Outcome.IMAGE_UNSAFE] and passed):
        pytest.skip("the random network calls all pictures alone the same")
    unsafe, safe = stages[Outcome.IMAGE_UNSAFE][0], passed[0]
    lines = data.read_text().splitlines()
    swapped = {unsafe: safe.split()[1], safe: unsafe.split()[1]}
    rows = [
        f"{line},{swapped.get(line.split(',')[0], '')}{'.png' if line.split(',')[0] in swapped else ''}"
        for line in lines[1:]
    ]
    (data.parent / "clean.csv").write_text("\n".join([f"{lines[0]},clean_image", *rows]) + "\n")
    curate[curate.index("--data") + 1] = str(data.parent / "clean.csv")
    assert main(curate) == 0
    assert "Of 2 of them the picture alone was the one without its text" in capsys.readouterr().out
    lines = [json.loads(line) for line in (tmp_path / "kept.jsonl.journal").read_text().splitlines()]
    found = {line["id"]: line["outcome"] for line in lines[1:]}
    assert found[safe] == Outcome.IMAGE_UNSAFE
    assert found[unsafe] != Outcome.IMAGE_UNSAFE
    assert {name: what for name, what in found.items() if name not in swapped} == {
        name: what for name, what in expected.items() if name not in swapped
    }


@pytest.mark.slow
def test_an_interrupted_run_goes_on_and_ends_the_same(curate, expected, tmp_path, capsys):
    journal = tmp_path / "kept.jsonl.journal"
    assert main(curate) == 0
    whole, index = journal.read_text(), (tmp_path / "kept.jsonl").read_text()
    assert main(curate) == 2
    assert "already exists" in capsys.readouterr().err
    (tmp_path / "kept.jsonl").unlink()
    journal.write_text("".join(whole.splitlines(keepends=True)[:4]) + '{"id": "row')
    assert main(curate) == 0
    assert sorted(journal.read_text().splitlines()) == sorted(whole.splitlines())
    assert (tmp_path / "kept.jsonl").read_text() == index
    assert main([*curate, "--sigma", "1", "--force"]) == 2
    assert "was written with noise" in capsys.readouterr().err


def test_curate_wants_a_checkpoint_and_a_new_index(curate, capsys):
    curate[curate.index("--model") + 1] = "demo"
    assert main(curate) == 2
    assert "--model must be the folder or the hub id" in capsys.readouterr().err
    assert main(["curate", "--model", ".", "--data", ".", "--out", "kept.csv"]) == 2
    assert ".jsonl" in capsys.readouterr().err
