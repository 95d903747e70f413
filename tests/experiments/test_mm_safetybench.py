"""The MM-SafetyBench check in one command, on five questions that the test makes in the layout of the benchmark."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from vlm_checkpoint import POLICY, make_checkpoint, picture

import hybrid_rs_jax as hrs
from hybrid_rs_jax import cli
from hybrid_rs_jax.data import Outcome

sys.path.insert(0, str(Path(__file__).parents[2] / "experiments"))

import mm_safetybench

SCENARIOS = {
    "01-Illegal_Activitiy": ("on the other side", "what is it?", "a wall"),
    "02-HateSpeech": ("one key", "this user"),
}
#: Of pictures that the random network calls Safe by themselves, by kind and number; others are Unsafe.
SEEDS = {"SD_TYPO": (24, 13, 36), "SD": (1, 2, 3), "TYPO": (4, 5, 6)}
N = 40


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    """Five questions of two scenarios; one picture is broken."""
    folder = tmp_path_factory.mktemp("bench")
    (folder / "data" / "processed_questions").mkdir(parents=True)
    for scenario, texts in SCENARIOS.items():
        rows = {
            str(n): {
                "Question": "not asked",
                "Changed Question": "not asked",
                "Key Phrase": "not asked",
                "Rephrased Question": text,
                "Rephrased Question(SD)": f"{text} sd",
            }
            for n, text in enumerate(texts)
        }
        (folder / "data" / "processed_questions" / f"{scenario}.json").write_text(json.dumps(rows))
        for kind, seeds in SEEDS.items():
            for n in range(len(texts)):
                path = folder / "data" / "imgs" / scenario / kind / f"{n}.jpg"
                path.parent.mkdir(parents=True, exist_ok=True)
                pixels = (255 * picture(30, 26, seeds[n])).round().astype(np.uint8)
                Image.fromarray(pixels).save(path, quality=100)
    (folder / "data" / "imgs" / "02-HateSpeech" / "SD_TYPO" / "1.jpg").write_bytes(b"torn")
    (folder / "policy.txt").write_text(POLICY)
    return folder


@pytest.fixture(scope="module")
def flags(bench, tmp_path_factory):
    checkpoint = tmp_path_factory.mktemp("checkpoint")
    make_checkpoint(checkpoint, seed=6)
    settings = ["--policy", str(bench / "policy.txt"), "--text-length", "16", "--labels", "p,I", "--answer", "{label}"]
    return ["--model", str(checkpoint), "--data", str(bench), *settings, "--samples", str(N), "--tau", "0.05"]


@pytest.fixture(scope="module")
def finished(flags, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "out"
    assert mm_safetybench.main([*flags, "--out", str(out)]) == 0
    return out


def journal(folder):
    lines = [json.loads(line) for line in (folder / "kept.jsonl.journal").read_text().splitlines()]
    return {line["id"]: line["outcome"] for line in lines[1:]}


def test_every_question_is_counted_in_its_scenario(finished):
    rows = {row["scenario"]: row for row in json.loads((finished / "result.json").read_text())["rows"]}
    assert list(rows) == [*SCENARIOS, "all"]
    met = journal(finished)
    assert set(met) == {f"{name}/SD_TYPO/{n}" for name, texts in SCENARIOS.items() for n in range(len(texts))}
    for name, row in rows.items():
        mine = [outcome for question, outcome in met.items() if name in ("all", question.split("/")[0])]
        assert row["questions"] == len(mine)
        assert row["outcomes"] == {str(outcome): mine.count(outcome) for outcome in Outcome}
    assert rows["02-HateSpeech"]["outcomes"]["unreadable"] == 1
    assert rows["all"]["outcomes"]["kept"] == rows["all"]["drawn"] > 0
    assert sum(count > 0 for count in rows["all"]["outcomes"].values()) > 2, "the questions part the inputs"


def test_means_are_those_of_the_certificates(finished):
    rows = {row["scenario"]: row for row in json.loads((finished / "result.json").read_text())["rows"]}
    found = hrs.read_certificates(finished / "certificates.json")
    assert (found.tau, found.alpha) == (0.05, 0.01)
    for name, row in rows.items():
        mine = [i for i, question in enumerate(found.counts.ids) if name in ("all", question.split("/")[0])]
        assert row["drawn"] == len(mine)
        if mine:
            assert row["certified"] == sum(found.radius[mine, 0] >= 0)
            assert row["budget"] == pytest.approx(np.maximum(found.budget[mine], 0).mean())
            assert row["radius"] == pytest.approx(np.maximum(found.radius[mine, :2], 0).mean(axis=0).tolist())
    assert (finished / "mm_safetybench.png").stat().st_size > 10_000


def test_steps_are_commands_and_what_is_done_is_not_done_again(flags, finished, tmp_path, capsys, monkeypatch):
    for name in ("kept.jsonl.journal", "run/ledger.sqlite", "run/inputs.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes((finished / name).read_bytes())
    called, real = [], cli.main
    monkeypatch.setattr(cli, "main", lambda argv: called.append(argv) or real(argv))
    assert mm_safetybench.main([*flags, "--out", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert [argv[0] for argv in called] == ["curate", "sample", "certify"]
    assert f"$ hybrid-rs {called[0][0]} --model" in said
    assert "This session classified 0 noisy copies" in " ".join(said.split())
    assert (
        json.loads((tmp_path / "result.json").read_text())["rows"]
        == json.loads((finished / "result.json").read_text())["rows"]
    )
    assert mm_safetybench.main([*flags, "--out", str(tmp_path)]) == 0
    assert "left as it is" in capsys.readouterr().out


def test_the_picture_alone_can_be_the_one_without_its_phrase(bench, tmp_path):
    args = mm_safetybench.parsed(
        mm_safetybench.parser(),
        ["--model", "x", "--data", str(bench), "--out", str(tmp_path), "--without-text", "--limit", "4"],
    )
    found = mm_safetybench.questions(args)
    assert found.texts == ("on the other side", "what is it?", "a wall", "one key")
    assert [Path(name).parts[-3:] for name in found.clean_images][3] == ("02-HateSpeech", "SD", "0.jpg")
    assert '"clean_image": ' in (tmp_path / "questions.jsonl").read_text()


@pytest.mark.slow
def test_nothing_kept_is_a_table_without_certificates(flags, tmp_path, capsys):
    out = tmp_path / "none"
    assert mm_safetybench.main([*flags, "--out", str(out), "--scenarios", "02-HateSpeech", "--labels", "I,p"]) == 0
    row = json.loads((out / "result.json").read_text())["rows"][-1]
    if row["outcomes"]["kept"]:
        pytest.skip("the random network keeps one of these")
    assert (row["drawn"], row["radius"]) == (0, None)
    assert "02-HateSpeech" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (["--data", "."], "has no processed_questions"),
        (["--scenarios", "14-None"], "has no scenario '14-None'; found are 01-Illegal_Activitiy and 02-HateSpeech"),
        (["--images", "SD", "--without-text"], "--without-text means something to the pictures SD_TYPO only"),
        (["--polcy", "x"], "--polcy"),
        (["--sigma", "-1"], "--sigma must be positive"),
    ],
)
def test_bad_input_ends_with_one_sentence(flags, tmp_path, capsys, change, sentence):
    assert mm_safetybench.main([*flags, "--out", str(tmp_path / "none"), *change]) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert len(error.strip().splitlines()) == 1
