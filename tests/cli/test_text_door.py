"""`--tokenizer hf:PATH`, and tables of texts without pictures."""

import json
from pathlib import Path

import numpy as np
import pytest

from hybrid_rs_jax.cli import main
from hybrid_rs_jax.data import Subwords, load_npz, open_data
from hybrid_rs_jax.results.count_files import read_counts

tokenizers = pytest.importorskip("tokenizers")
TEXTS = ["dial seven now", "call me", "dial nine", "hello there my friend"]
MODELS = """
import numpy as np
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

def reads(texts):
    return np.array(["dial" in text for text in texts])

def both(texts, images):
    assert images.shape[1:] == (1, 1, 0)
    return reads(texts)

both.takes_text = True

def ids(tokens, images):
    return tokens[:, 0] > 3

texts = ["dial seven now", "call me", "dial nine", "hello there my friend"]
count = CountVectorizer(analyzer="char", ngram_range=(4, 4), vocabulary=["dial"], binary=True)
pipeline = make_pipeline(count, LogisticRegression(C=100)).fit(texts, [1, 0, 1, 0])
"""


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    Path("text_models.py").write_text(MODELS)
    Path("texts.jsonl").write_text("".join(json.dumps({"id": f"i{k}", "text": t}) + "\n" for k, t in enumerate(TEXTS)))
    model = tokenizers.Tokenizer(tokenizers.models.BPE())
    model.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=290,
        special_tokens=["<|end|>", "<|start|>"],
        initial_alphabet=sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    model.train_from_iterator(TEXTS, trainer)
    model.enable_truncation(3)
    Path("tokens").mkdir()
    model.save("tokens/tokenizer.json")


def drawn(model, *more, data="texts.jsonl", out="run"):
    return main(["sample", "--model", model, "--data", data, "--samples", "60", "--out", out, *more])


def test_subwords_are_those_of_the_tokenizer_and_its_special_tokens_are_no_symbols():
    transformers = pytest.importorskip("transformers")
    oracle = transformers.PreTrainedTokenizerFast(tokenizer_file="tokens/tokenizer.json")
    ours = Subwords.read("tokens")
    assert ours.vocab_size == len(oracle) - 2 + 1
    for text in (*TEXTS, "né, twice  blank"):
        symbols = np.array(ours.symbols(text))
        ids = oracle(text, add_special_tokens=False, truncation=False)["input_ids"]
        np.testing.assert_array_equal(ours.ids[symbols - 1], ids)
        assert ours.decode(np.concatenate([symbols, [0, 0]])) == oracle.decode(ids) == text
    with pytest.raises(ValueError, match="special token '<|end|>'".replace("|", r"\|")):
        ours.symbols("now <|end|>")


@pytest.mark.parametrize("model", ["reads", "both", "pipeline"])
def test_texts_alone_carry_token_noise_and_are_certified_in_d(model, capsys):
    assert drawn(f"text_models:{model}", "--tokenizer", "hf:tokens", "--threat", "anywhere", "--beta", "0.1") == 0
    assert "The inputs have no pictures: tokens alone carry noise (--no-pixel-noise)." in capsys.readouterr().out
    counts = read_counts(Path("run"))
    assert counts.run.smoothing.sigma is None
    assert counts.run.smoothing.discrete.vocab_size == 290 - 2 + 1
    assert counts.run.facts["data"]["tokenizer"]["folder"] == "tokens"
    assert 30 < counts.successes[0] < 60, "noise breaks the word now and then"
    assert counts.successes[1] == 0
    assert drawn("text_models:reads", "--tokenizer", "hf:tokens", "--threat", "l0", "--beta", "0.1", out="again") == 0
    assert counts.successes.tolist() == read_counts(Path("again")).successes.tolist()
    assert main(["certify", "run", "--tau", "0.2", "--max-budget", "1", "--json"]) == 0
    record = json.loads(capsys.readouterr().out.partition("\n{")[2].join(["{", ""]))
    assert [found["budget"] for found in record["certificates"]][1] == -1
    assert record["certificates"][0]["budget"] >= 0


def test_an_archive_of_texts_alone_draws_what_the_table_does():
    assert main(["pack", "texts.jsonl", "--tokenizer", "hf:tokens", "--out", "a.npz"]) == 0
    assert load_npz(Path("a.npz")).images.shape == (4, 1, 1, 0)
    assert drawn("text_models:ids", "--vocab-size", "289", data="a.npz", out="packed") == 0
    assert drawn("text_models:ids", "--tokenizer", "hf:tokens") == 0
    assert read_counts(Path("packed")).successes.tolist() == read_counts(Path("run")).successes.tolist()


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--sigma", "0.1"], "--sigma means nothing to inputs without pictures"),
        (["--image-size", "4x4"], "--image-size means nothing to texts.jsonl, which has no column of pictures"),
        (["--tokenizer", "hf:"], "--tokenizer must be words, bytes or hf:FOLDER, got hf:"),
        (["--tokenizer", "hf:nowhere"], "--tokenizer hf:nowhere must be a folder with a tokenizer.json"),
        (["--tokenizer", "hf:texts.jsonl"], "texts.jsonl cannot be read as a tokenizer"),
    ],
)
def test_what_texts_alone_cannot_use_is_one_sentence(flags, sentence, capsys):
    assert drawn("text_models:reads", *flags) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1
    assert not open_data("texts.jsonl").pictures
