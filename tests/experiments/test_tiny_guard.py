"""The tiny trained guard: a checkpoint like any other, from training to a frontier, and the one that is shipped."""

import csv
import itertools
import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import hybrid_rs_jax as hrs
from hybrid_rs_jax import cli
from hybrid_rs_jax.data import demo
from hybrid_rs_jax.models import from_pretrained

sys.path.insert(0, str(Path(__file__).parents[2] / "experiments"))

import train_tiny_guard as script

transformers = pytest.importorskip("transformers", reason="tokenizers are read with transformers")

SHIPPED = Path(script.__file__).parent / "tiny_guard"
FLAGS = {"policy": SHIPPED / "policy.txt", "text_length": demo.LENGTH, "image_size": (8, 8)}


@pytest.fixture(scope="module")
def guard():
    from hybrid_rs_jax.classifiers import VlmGuard

    return VlmGuard.from_pretrained(SHIPPED, **FLAGS)


@pytest.fixture(scope="module")
def held_out():
    inputs = demo.load_demo("held_out")
    labels = np.asarray(script.rule(jnp.asarray(inputs.tokens), jnp.asarray(inputs.digits)))
    return inputs, np.repeat(inputs.images, 3, axis=3), labels


def test_the_shipped_guard_is_right_on_clean_held_out_inputs(guard, held_out):
    inputs, images, labels = held_out
    tokens = np.stack([guard.symbols(prompt) for prompt in inputs.prompts])
    decisions = np.asarray(guard(tokens, images))
    stored = json.loads((SHIPPED / "training.json").read_text())["results"]
    assert np.mean(decisions == labels) == pytest.approx(stored["clean_accuracy"], abs=0.003)
    assert np.mean(decisions == labels) > 0.98
    assert np.mean(decisions[labels]) > 0.99


def test_the_shipped_guard_is_right_on_noisy_copies(guard, held_out):
    inputs, images, labels = held_out
    tokens = np.stack([guard.symbols(prompt) for prompt in inputs.prompts])
    eligible = tokens == 0
    smoothing = hrs.HybridSmoothing(hrs.UniformKernel(0.25, guard.vocab_size), 0.25)
    n = 8
    counts = hrs.sample_counts(
        guard, tokens, images, smoothing, n, jax.random.key(0), eligible=eligible, batch_size=454
    )
    assert counts[labels].sum() / (n * labels.sum()) > 0.985
    assert counts[~labels].sum() / (n * (~labels).sum()) < 0.05


def test_guard_and_training_see_the_same_prompt(guard, held_out):
    inputs, images, _ = held_out
    trained = script.TinyGuard(0)
    network = from_pretrained(SHIPPED)
    expected = trained.margin(network, jnp.asarray(inputs.tokens[:16]), jnp.asarray(images[:16]))
    tokens = np.stack([guard.symbols(prompt) for prompt in inputs.prompts[:16]])
    np.testing.assert_allclose(guard.margin(tokens, images[:16]), expected, rtol=0, atol=1e-3)


def test_transformers_gives_the_same_answer_from_the_same_files(guard, held_out):
    torch = pytest.importorskip("torch", reason="transformers needs PyTorch for the network")
    inputs, images, labels = held_out
    model = transformers.LlavaOnevisionForConditionalGeneration.from_pretrained(SHIPPED, dtype=torch.float32).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(SHIPPED)
    rows = [int(np.flatnonzero(labels)[0]), int(np.flatnonzero(~labels)[0])]
    margins = guard.margin(np.stack([guard.symbols(inputs.prompts[row]) for row in rows]), images[rows])
    for row, margin in zip(rows, margins, strict=True):
        content = [{"type": "image"}, {"type": "text", "text": f"{script.onevision.POLICY}\n\n{inputs.prompts[row]}"}]
        message = [{"role": "user", "content": content}]
        text = tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
        text = text.replace("<image>", "<image>" * guard.prompt.image_tokens)
        views = np.moveaxis(np.asarray(guard.prompt.layout.pixels(jnp.asarray(images[row : row + 1]))), -1, -3)
        shown = {"pixel_values": torch.tensor(views.copy()), "image_sizes": torch.tensor([[8, 8]])}
        with torch.no_grad():
            ids = tokenizer(text + '{"rating": "', return_tensors="pt")["input_ids"]
            logits = model(ids, **shown).logits[0, -1]
            answer = model.generate(
                tokenizer(text, return_tensors="pt")["input_ids"], **shown, max_new_tokens=8, do_sample=False
            )
        unsafe, safe = (tokenizer.convert_tokens_to_ids(word) for word in ("Unsafe", "Safe"))
        assert float(logits[unsafe] - logits[safe]) == pytest.approx(float(margin), abs=1e-4)
        said = tokenizer.decode(answer[0]).split("assistant")[-1]
        assert ("Unsafe" if labels[row] else "Safe") in said.split()


def write_data(folder, count):
    """Held-out unsafe inputs as a table with pictures."""
    inputs = demo.held_out_unsafe(count)
    folder.mkdir()
    with (folder / "data.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["id", "text", "image"])
        for name, prompt, image in zip(inputs.ids, inputs.prompts, inputs.images, strict=True):
            Image.fromarray(np.round(image[..., 0] * 255).astype(np.uint8)).save(folder / f"{name}.png")
            table.writerow([name, prompt, f"{name}.png"])
    return folder


def test_sample_and_certify_give_a_frontier(tmp_path, capsys):
    data, run = write_data(tmp_path / "data", 3), tmp_path / "run"
    flags = ["--policy", str(SHIPPED / "policy.txt"), "--text-length", str(demo.LENGTH), "--image-size", "8x8"]
    draws = ["--sigma", "0.25", "--samples", "600", "--batch-size", "300", "--out", str(run)]
    assert cli.main(["sample", "--model", str(SHIPPED), "--data", str(data), *flags, *draws]) in (0, None)
    capsys.readouterr()
    assert cli.main(["certify", str(run), "--max-budget", "4", "--json"]) in (0, None)
    report = json.loads(capsys.readouterr().out)
    assert len(report["certificates"]) == 3
    for certificate in report["certificates"]:
        radius = certificate["radius"]
        assert certificate["n"] == 600
        assert certificate["successes"] > 580
        assert radius[0] > 1.0
        assert radius[2] > 0.5
        assert all(larger >= smaller for larger, smaller in itertools.pairwise(radius))
        assert certificate["budget"] >= 2


def test_the_rule_reads_the_whole_text():
    texts = ["dial seven", "seven", "dial", "please dial the code six now seven"]
    tokens = jnp.asarray(np.stack([demo.encode(text) for text in texts]))
    assert script.rule(tokens, jnp.full(4, 7)).tolist() == [True, False, False, True]
    assert script.rule(tokens, jnp.full(4, 6)).tolist() == [False, False, False, True]
    assert not script.rule(tokens, jnp.full(4, 10)).any()


def test_pads_move_behind_what_follows_them():
    text, tail = jnp.asarray([[5, 0, 6, 0], [1, 2, 3, 4]]), jnp.asarray([[8, 9], [8, 9]])
    words, lengths = script.without_pads(text, tail)
    assert lengths.tolist() == [4, 6]
    assert words[0, :4].tolist() == [5, 6, 8, 9]
    assert words[1].tolist() == [1, 2, 3, 4, 8, 9]


@pytest.mark.slow
def test_a_short_training_writes_a_checkpoint_and_never_over_another(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(script, "BATCH", 8)
    monkeypatch.setattr(script, "prompt_pool", lambda seed: pool(seed))
    pytest.importorskip("sklearn", reason="training reads the digits from scikit-learn")
    out = tmp_path / "guard"
    with jax.numpy_dtype_promotion("standard"):  # optax mixes dtypes
        assert script.main(["--steps", "2", "--draws", "1", "--out", str(out)]) == 0
    names = {path.name for path in out.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "policy.txt", "training.json"} <= names
    assert from_pretrained(out).config == from_pretrained(SHIPPED).config
    record = json.loads((out / "training.json").read_text())
    assert 0 <= record["results"]["clean_accuracy"] <= 1
    assert script.main(["--steps", "2", "--out", str(out)]) == 2
    assert capsys.readouterr().err.endswith("holds a checkpoint already; choose another folder.\n")
    assert script.main(["--steps", "0", "--out", str(tmp_path / "other")]) == 2


def pool(seed):
    from train_demo_guard import prompt_pool

    return prompt_pool(seed, 2)


def test_the_shipped_weights_are_small():
    assert sum(path.stat().st_size for path in SHIPPED.iterdir()) < 600_000
