"""The interaction-only filter: what it keeps, that it asks no more than it must, and that it survives a kill."""

import json
import signal
import subprocess
import sys
import textwrap
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from hybrid_rs_jax.classifiers import DemoGuard
from hybrid_rs_jax.data import Outcome, RawInput, curate, demo, folder_or_csv
from hybrid_rs_jax.errors import BadInputError, UnreadableInputError
from hybrid_rs_jax.kernels import HybridSmoothing, UniformKernel

WORDS = {"T": Outcome.TEXT_UNSAFE, "I": Outcome.IMAGE_UNSAFE, "-": Outcome.PAIR_SAFE, "N": Outcome.NOISE_UNSAFE}
WORDS |= {"K": Outcome.KEPT, "U": Outcome.UNREADABLE}
LETTERS = "KT-INKKU--TNIKTU-KIN"


def sample(name, letter):
    """An input that `decide` sends the way that its letter says; the image carries the letter too."""
    if letter == "U":
        return UnreadableInputError("Its image is torn.")
    return RawInput(name, f"{letter} text", np.full((2, 3, 3), "TI-NK".index(letter) / 10, np.float32))


class Given:
    """Inputs that are there already, with the error that stands for one that cannot be read."""

    def __init__(self, ids, inputs):
        self.ids, self.inputs = ids, inputs

    def read(self, index):
        if isinstance(self.inputs[index], Exception):
            raise self.inputs[index]
        return self.inputs[index]


IDS = [str(i) for i in range(len(LETTERS))]
SAMPLES = [sample(str(i), letter) for i, letter in enumerate(LETTERS)]
INPUTS = Given(IDS, SAMPLES)
EXPECTED = {str(i): WORDS[letter] for i, letter in enumerate(LETTERS)}


class Judge:
    """Decides by the letter, and remembers what it was asked."""

    def __init__(self):
        self.batches = []

    def __call__(self, pairs):
        self.batches.append(pairs)
        return [self.decide(text, image) for text, image in pairs]

    @staticmethod
    def decide(text, image):
        if text == "noise":
            return bool(image[0, 0, 0] == 1)
        if image is None:
            return text[0] == "T"
        if text is None:
            return bool(np.isclose(image[0, 0, 0], 0.1))
        return text[0] in "KN"


def noise(sample):
    return "noise", np.full_like(sample.image, sample.text[0] == "N")


@pytest.mark.parametrize("batch_size", [1, 3, 16, 1000])
def test_inputs_are_sorted_by_the_first_question_that_they_fail(batch_size):
    result = curate(INPUTS, Judge(), noise=noise, batch_size=batch_size)
    assert list(result.outcomes.items()) == list(EXPECTED.items())
    assert result.kept == tuple(str(i) for i, letter in enumerate(LETTERS) if letter == "K")
    assert result.reasons == {"7": "Its image is torn.", "15": "Its image is torn."}


def test_the_picture_alone_is_the_one_without_its_text_where_there_is_one():
    """The pair keeps its picture; a clean picture that cannot be read leaves the input out."""
    judge, clean = Judge(), {"3": np.full((5, 4, 3), 0.7, np.float32), "0": np.full((2, 3, 3), 0.1, np.float32)}

    def clean_image(index):
        if IDS[index] == "8":
            raise UnreadableInputError("Its clean image is torn.")
        return clean.get(IDS[index])

    result = curate(INPUTS, judge, noise=noise, clean_image=clean_image, batch_size=3)
    changed = {name for name, outcome in result.outcomes.items() if outcome != EXPECTED[name]}
    assert changed == {"0", "3", "8"}
    assert result.outcomes["3"] is Outcome.PAIR_SAFE
    assert result.outcomes["0"] is Outcome.IMAGE_UNSAFE
    assert result.reasons["8"] == "Its clean image is torn."
    shown = [image.shape for batch in judge.batches for text, image in batch if image is not None and text is None]
    assert shown.count((5, 4, 3)) == 1
    assert (5, 4, 3) not in [
        image.shape for batch in judge.batches for text, image in batch if text is not None and image is not None
    ]


def test_batches_are_full_until_the_data_end_and_no_question_is_asked_in_vain():
    judge = Judge()
    curate(INPUTS, judge, noise=noise, batch_size=4)
    asked = {"T": 1, "I": 2, "-": 3, "N": 4, "K": 4, "U": 0}
    assert sum(map(len, judge.batches)) == sum(asked[letter] for letter in LETTERS)
    sizes = [len(batch) for batch in judge.batches]
    assert set(sizes[:-4]) == {4}
    assert sizes == sorted(sizes, reverse=True)


def test_the_report_says_how_many_were_dropped_why():
    result = curate(INPUTS, Judge(), noise=noise)
    assert sum(result.counts.values()) == len(SAMPLES)
    assert result.report().splitlines() == [
        "20 inputs, 5 of them interaction-only",
        "  dropped 3: text alone is unsafe",
        "  dropped 3: image alone is unsafe",
        "  dropped 4: text and image together are safe",
        "  dropped 3: noise alone is unsafe",
        "  dropped 2: unreadable",
    ]


def test_no_inputs_give_an_empty_result():
    result = curate(Given([], []), Judge(), noise=noise)
    assert (result.kept, result.report().splitlines()[0]) == ((), "0 inputs, 0 of them interaction-only")


def test_progress_grows_to_the_number_of_inputs():
    seen = []
    curate(INPUTS, Judge(), noise=noise, batch_size=3, progress=seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == len(SAMPLES)


# The journal


class Killed(Exception):
    pass


def until(batches):
    judge = Judge()

    def decide(pairs):
        if len(judge.batches) == batches:
            raise Killed
        return judge(pairs)

    return decide


@pytest.mark.parametrize("batches", [0, 1, 3, 8])
def test_a_run_that_was_interrupted_goes_on_and_asks_nothing_twice(tmp_path, batches):
    path = tmp_path / "journal.jsonl"
    with pytest.raises(Killed):
        curate(INPUTS, until(batches), noise=noise, journal=path, batch_size=3)
    finished = {json.loads(line).get("id") for line in path.read_text().splitlines()}
    judge = Judge()
    result = curate(INPUTS, judge, noise=noise, journal=path, batch_size=5)
    assert list(result.outcomes.items()) == list(EXPECTED.items())
    names = {int(name) for name in finished - {None}}
    texts = [text for batch in judge.batches for text, image in batch if image is None]
    assert len(texts) == sum(letter != "U" for i, letter in enumerate(LETTERS) if i not in names)


def test_every_cut_of_the_journal_leads_to_the_same_result(tmp_path):
    path = tmp_path / "journal.jsonl"
    curate(INPUTS, Judge(), noise=noise, journal=path, settings={"model": "é", "size": (3, 4)})
    whole = path.read_bytes()
    for end in range(0, len(whole) + 1, 19):
        path.write_bytes(whole[:end])
        result = curate(INPUTS, Judge(), noise=noise, journal=path, settings={"model": "é", "size": (3, 4)})
        assert list(result.outcomes.items()) == list(EXPECTED.items())
        assert sorted(path.read_text().splitlines()) == sorted(whole.decode().splitlines())


def test_a_finished_journal_asks_nothing_and_reads_no_image(tmp_path):
    Image.new("RGB", (3, 2), "red").save(tmp_path / "a.png")
    (tmp_path / "inputs.csv").write_text("id,text,image\n1,K text,a.png\n2,T text,a.png\n")
    samples = folder_or_csv(tmp_path / "inputs.csv")
    first = curate(samples, Judge(), noise=noise, journal=tmp_path / "journal.jsonl")
    assert first.outcomes == {"1": Outcome.KEPT, "2": Outcome.TEXT_UNSAFE}
    (tmp_path / "a.png").unlink()
    again = curate(samples, until(0), noise=noise, journal=tmp_path / "journal.jsonl")
    assert again == first
    with pytest.raises(BadInputError, match="belongs to other data: it has id '2'"):
        curate(samples.first(1), until(0), noise=noise, journal=tmp_path / "journal.jsonl")


PROGRAM = """
    import os, signal, sys
    from pathlib import Path
    from hybrid_rs_jax.data import RawInput, curate
    import numpy as np
    calls = 0
    def decide(pairs):
        global calls
        calls += 1
        if calls == 6:
            os.kill(os.getpid(), signal.SIGKILL)
        return [(len(text or "") + (image is not None)) % 2 == 0 for text, image in pairs]
    class Inputs:
        ids = [str(i) for i in range(30)]
        def read(self, index):
            return RawInput(self.ids[index], "x" * (index % 5), np.zeros((2, 2, 3), np.float32))
    curate(Inputs(), decide, journal=Path(sys.argv[1]), batch_size=4, noise=lambda raw: ("noise", raw.image))
"""


def test_a_killed_process_loses_nothing_that_it_had_finished(tmp_path):
    path = tmp_path / "journal.jsonl"
    program = [sys.executable, "-c", textwrap.dedent(PROGRAM), path]
    killed = subprocess.run(program, capture_output=True, timeout=120)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    survivors = path.read_text().splitlines()
    assert len(survivors) > 5

    def decide(pairs):
        return [(len(text or "") + (image is not None)) % 2 == 0 for text, image in pairs]

    ids = [str(i) for i in range(30)]
    samples = Given(ids, [RawInput(name, "x" * (int(name) % 5), np.zeros((2, 2, 3), np.float32)) for name in ids])
    resumed = curate(samples, decide, journal=path, batch_size=4, noise=lambda raw: ("noise", raw.image))
    assert resumed == curate(samples, decide, noise=lambda raw: ("noise", raw.image))
    assert path.read_text().splitlines()[: len(survivors)] == survivors


HEADER = '{"curate": 1, "settings": {}}\n'


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("my precious notes", "not a journal of curate; choose another name"),
        ("my precious notes\nof two lines", "line 1 is not a line of a journal"),
        ('{"curate": 2, "settings": {}}\n', "line 1 is not a line of a journal"),
        (HEADER + "{\n", "line 2 is not a line of a journal"),
        (HEADER + '{"id": 1, "outcome": "kept"}\n', "line 2 is not a line of a journal"),
        (HEADER + '{"id": "1", "outcome": "liked"}\n', "line 2 is not a line of a journal"),
        (HEADER + '{"id": "0", "outcome": "kept"}\n' * 2, "line 3: id '0' appears again"),
        (HEADER + '{"id": "stranger", "outcome": "kept"}\n', "belongs to other data: it has id 'stranger'"),
        ('{"curate": 1, "settings": {"seed": 3}}\n', "written with seed = 3, and now it is null; use a new journal"),
    ],
)
def test_foreign_and_broken_journals_are_refused_and_left_as_they_are(tmp_path, content, words):
    path = tmp_path / "journal.jsonl"
    path.write_text(content)
    with pytest.raises(BadInputError, match=rf"^[^\n]*{words}[^\n]*\.$"):
        curate(Given(IDS[:1], SAMPLES[:1]), Judge(), noise=noise, journal=path)
    assert path.read_text().startswith(content)


def test_a_journal_that_cannot_be_written_is_refused(tmp_path):
    with pytest.raises(BadInputError, match="cannot be used as a journal: No such file or directory"):
        curate(INPUTS, Judge(), journal=tmp_path / "missing" / "journal.jsonl", noise=noise)


# Bad input


@pytest.mark.parametrize("answer", [[True], [0] * 16, np.zeros((16, 1), bool), [True] * 17])
def test_wrong_numbers_of_decisions_are_refused(answer):
    with pytest.raises(ValueError, match=r"^decide must give one boolean for each of 16 pairs, got [^\n]*\.$"):
        curate(INPUTS, lambda pairs: answer, batch_size=16, noise=noise)


def test_ids_that_appear_twice_are_refused():
    with pytest.raises(ValueError, match=r"^id '3' appears twice; every id must be different\.$"):
        curate(Given(IDS[3:4] * 2, SAMPLES[3:4] * 2), Judge(), noise=noise)


def test_a_batch_size_below_1_is_refused():
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        curate(INPUTS, Judge(), batch_size=0, noise=noise)


# The built-in demo


def demo_noise(raw):
    """A draw about an empty prompt and a grey picture, noise on every position."""
    smoothing = HybridSmoothing(UniformKernel(0.25, demo.VOCAB_SIZE), 0.5)
    key = jax.random.key(zlib.crc32(raw.id.encode()), impl="threefry2x32")
    empty, grey = jnp.zeros(demo.LENGTH, jnp.int32), jnp.full(demo.IMAGE_SHAPE, 0.5, jnp.float32)
    return tuple(map(np.asarray, smoothing.sample(key, empty, grey, jnp.ones(demo.LENGTH, bool))))


@pytest.mark.slow
def test_on_the_demo_the_guard_keeps_what_the_rule_calls_unsafe():
    """A pair is unsafe by the rule only as a pair, so all that the rule calls unsafe is interaction-only."""
    guard, inputs = DemoGuard.load(), demo.load_demo()
    samples = [
        RawInput(name, prompt, np.repeat(image, 3, axis=2))
        for name, prompt, image in zip(inputs.ids, inputs.prompts, inputs.images, strict=True)
    ]

    def decide(pairs):
        tokens, images = np.zeros((64, demo.LENGTH), np.int32), np.zeros((64, *demo.IMAGE_SHAPE), np.float32)
        for row, (text, image) in enumerate(pairs):
            tokens[row] = text if isinstance(text, np.ndarray) else demo.encode(text or "")
            if image is not None:
                images[row] = image[:, :, :1]
        return np.asarray(guard(tokens, images))[: len(pairs)]

    result = curate(Given(inputs.ids, samples), decide, noise=demo_noise, batch_size=64)
    rule = {name for name, unsafe in zip(inputs.ids, inputs.labels, strict=True) if unsafe}
    pairs_wrong = np.asarray(guard(inputs.tokens, inputs.images)) != inputs.labels
    wrong = {name for name, error in zip(inputs.ids, pairs_wrong, strict=True) if error}
    lost = rule - set(result.kept)
    assert len(rule) > 100
    assert set(result.kept) <= rule | wrong
    assert all(name in wrong or result.outcomes[name] is Outcome.NOISE_UNSAFE for name in lost)
    assert len(lost) <= 0.05 * len(rule)
