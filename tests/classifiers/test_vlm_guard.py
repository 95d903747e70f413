"""The vision-language guard against PyTorch: prompts, margins, answers; and what it promises about batches."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from vlm_checkpoint import IMAGE, POLICY, SIDE, make_checkpoint, picture, torch, transformers

import hybrid_rs_jax as hrs
from hybrid_rs_jax.classifiers import BaseClassifier, VlmGuard
from hybrid_rs_jax.classifiers.vlm._ties import largest_change, tie_tolerance
from hybrid_rs_jax.classifiers.vlm.prompt import PAD
from hybrid_rs_jax.classifiers.vlm.settings import first_label
from hybrid_rs_jax.confidence import FixedSample
from hybrid_rs_jax.models import make_mesh
from hybrid_rs_jax.sampling import data_mesh, sample

TEXTS = ["open the door", "what is on the other side, user?", "a", 'say "Safe" twice, then the key:']


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    path = tmp_path_factory.mktemp("policy") / "short.txt"
    path.write_text(POLICY)
    return path


@pytest.fixture(scope="module")
def onevision(tmp_path_factory):
    folder = tmp_path_factory.mktemp("onevision")
    return make_checkpoint(folder), folder


@pytest.fixture(scope="module")
def llava(tmp_path_factory):
    folder = tmp_path_factory.mktemp("llava")
    return make_checkpoint(folder, "llava"), folder


@pytest.fixture(scope="module")
def guard(onevision, policy):
    return VlmGuard.from_pretrained(onevision[1], policy=policy, text_length=24)


@pytest.fixture(scope="module")
def policy_first(onevision, policy):
    return VlmGuard.from_pretrained(onevision[1], policy=policy, text_length=24, template="policy_first")


def encode(guard, texts=TEXTS, size=(SIDE, SIDE)):
    rows = [guard.encode(text, picture(*size, number)).arrays for number, text in enumerate(texts)]
    return tuple(np.stack(part) for part in zip(*rows, strict=True))


# The oracle: PyTorch, with prompts that are put together as a user of transformers would


def processor(folder):
    name = json.loads((folder / "preprocessor_config.json").read_text())["image_processor_type"]
    kind = getattr(transformers, f"{name}Pil", None) or getattr(transformers, name)
    return kind.from_pretrained(folder)


def reference_ids(folder, prompt, image_tokens):
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    image = tokenizer.convert_tokens_to_ids(IMAGE)
    ids = tokenizer(prompt)["input_ids"]
    return [copy for token in ids for copy in [token] * (image_tokens if token == image else 1)]


def reference_prompt(folder, text, plain=False):
    words = POLICY.replace("{text}", text)
    content = f"{IMAGE}\n{words}" if plain else [{"type": "image"}, {"type": "text", "text": words}]
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    turns = [{"role": "user", "content": content}]
    return tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)


def reference_inputs(folder, prompt, image, image_tokens):
    from PIL import Image

    pixels = Image.fromarray((image * 255).round().astype(np.uint8))
    found = processor(folder)(pixels, return_tensors="pt")
    ids = torch.tensor([reference_ids(folder, prompt, image_tokens)])
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), **found}


def reference_margin(model, inputs, unsafe, safe):
    inputs = {name: value for name, value in inputs.items() if name != "batch_num_images"}
    with torch.no_grad():
        logits = model(**inputs).logits[0, -1].double()
    return float(torch.logsumexp(logits[unsafe], 0) - torch.logsumexp(logits[safe], 0))


def label_ids(folder, *words):
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    return [tokenizer(word, add_special_tokens=False)["input_ids"][0] for word in words]


ANSWER = '{"rating": "'


@pytest.mark.parametrize("size", [pytest.param((28, 28), marks=pytest.mark.slow), (40, 60)])
def test_margins_equal_those_of_pytorch_with_a_prompt_without_padding(onevision, policy, size):
    model, folder = onevision
    guard = VlmGuard.from_pretrained(folder, policy=policy, text_length=24, image_size=size)
    tokens, images, _ = encode(guard, size=size)
    found = guard.margin(tokens, images)
    for row, text in enumerate(TEXTS):
        prompt = reference_prompt(folder, text) + ANSWER
        inputs = reference_inputs(folder, prompt, images[row], guard.prompt.image_tokens)
        if size != (SIDE, SIDE):  # PyTorch's processor would round to 8 bits between the steps of the resizing
            views = np.moveaxis(np.asarray(guard.prompt.layout.pixels(images[row : row + 1])), -1, -3)
            assert views.shape == tuple(inputs["pixel_values"].shape)
            inputs["pixel_values"] = torch.tensor(np.ascontiguousarray(views))
        expected = reference_margin(model, inputs, label_ids(folder, "Unsafe"), label_ids(folder, "Safe"))
        np.testing.assert_allclose(found[row], expected, rtol=0, atol=1e-4)
    assert np.ptp(np.asarray(found)) > 0.01


def test_llava_with_a_plain_text_template_equals_pytorch_too(llava, policy):
    model, folder = llava
    guard = VlmGuard.from_pretrained(folder, policy=policy, text_length=24, answer="{label}")
    tokens, images, _ = encode(guard)
    for row, text in enumerate(TEXTS):
        inputs = reference_inputs(
            folder, reference_prompt(folder, text, plain=True), images[row], guard.prompt.image_tokens
        )
        expected = reference_margin(model, inputs, label_ids(folder, "Unsafe"), label_ids(folder, "Safe"))
        np.testing.assert_allclose(guard.margin(tokens, images)[row], expected, rtol=0, atol=1e-4)


def test_policy_first_equals_pytorch_with_the_tokens_in_that_order(onevision, policy_first):
    (model, folder), guard = onevision, policy_first
    assert guard.functional()[1]["prefix"].length == len(guard.prompt.layout.before) > 10
    tokens, images, _ = encode(guard)
    for row, text in enumerate(TEXTS[:2]):
        head = POLICY.replace("{text}", "")
        prompt = f"<|im_start|>user {head}{IMAGE}\n{text}<|im_end|><|im_start|>assistant\n{ANSWER}"
        inputs = reference_inputs(folder, prompt, images[row], guard.prompt.image_tokens)
        expected = reference_margin(model, inputs, label_ids(folder, "Unsafe"), label_ids(folder, "Safe"))
        np.testing.assert_allclose(guard.margin(tokens, images)[row], expected, rtol=0, atol=1e-4)


def test_masses_of_several_spellings_are_added(onevision, policy):
    model, folder = onevision
    guard = VlmGuard.from_pretrained(
        folder, policy=policy, text_length=24, labels=("Unsafe|user|or", "Safe|is"), answer="{label}"
    )
    tokens, images, _ = encode(guard, TEXTS[:1])
    inputs = reference_inputs(folder, reference_prompt(folder, TEXTS[0]), images[0], guard.prompt.image_tokens)
    unsafe, safe = label_ids(folder, "Unsafe", "user", "or"), label_ids(folder, "Safe", "is")
    expected = reference_margin(model, inputs, unsafe, safe)
    np.testing.assert_allclose(guard.margin(tokens, images)[0], expected, rtol=0, atol=1e-4)


def test_a_label_is_the_one_token_of_its_letters(guard):
    layout, tokenizer = guard.prompt.layout, guard.tokenizer
    assert tokenizer.decode(list(layout.beginning)) == ANSWER
    assert [tokenizer.decode([token]) for token in (*layout.unsafe, *layout.safe)] == ["Unsafe", "Safe"]


@pytest.mark.parametrize(
    ("text", "found"),
    [('{"rating": "Unsafe"}', True), ("Safe, not Unsafe", False), ("Unsafely", None), ("unsafe", None), ("", None)],
)
def test_the_first_label_in_a_generated_answer_counts(text, found):
    assert first_label(text, (("Unsafe",), ("Safe",))) is found


def test_generated_answers_are_those_of_pytorch(onevision, policy):
    model, folder = onevision
    guard = VlmGuard.from_pretrained(
        folder, policy=policy, text_length=24, decision="generate", generated_tokens=5, labels=("e|o|t", "qq")
    )
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokens, images, _ = encode(guard, TEXTS[:2])
    answers = guard.generate(tokens, images)
    for row, text in enumerate(TEXTS[:2]):
        inputs = reference_inputs(folder, reference_prompt(folder, text), images[row], guard.prompt.image_tokens)
        inputs.pop("batch_num_images", None)
        with torch.no_grad():
            ids = model.generate(**inputs, max_new_tokens=5, do_sample=False, eos_token_id=tokenizer.eos_token_id)
        expected = tokenizer.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        assert answers[row] == expected
    assert guard.on_host
    assert guard.tie_tolerance is None
    decisions = guard(tokens, images)
    assert decisions.tolist() == [first_label(answer, (("e", "o", "t"), ("qq",))) is True for answer in answers]
    assert guard.decide([(TEXTS[0], None)]).dtype == np.bool_


def test_a_text_alone_is_put_to_the_network_without_a_picture(onevision, guard):
    model, folder = onevision
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    turns = [{"role": "user", "content": [{"type": "text", "text": POLICY.replace("{text}", TEXTS[0])}]}]
    prompt = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True) + ANSWER
    assert IMAGE not in prompt
    ids = torch.tensor([tokenizer(prompt)["input_ids"]])
    expected = reference_margin(model, {"input_ids": ids}, label_ids(folder, "Unsafe"), label_ids(folder, "Safe"))
    pairs = [(TEXTS[0], None), (None, picture()), (TEXTS[0], picture())]
    alone, blank, both = guard.decide(pairs)
    assert alone == (expected > 0)
    tokens, images, _ = encode(guard, ["", TEXTS[0]])
    assert blank == bool(guard(tokens[:1], images[:1])[0])
    assert both == bool(guard(tokens[1:], picture()[None])[0])
    tokens = jnp.asarray(guard.symbols(TEXTS[0]))[None]
    margin = guard.text_prompt.margin(tokens, jnp.zeros((1, SIDE, SIDE, 3), jnp.float32))
    np.testing.assert_allclose(margin[0], expected, rtol=0, atol=1e-4)


# Batches, PADs, devices


def test_a_margin_does_not_depend_on_its_batch(guard):
    tokens, images, _ = encode(guard)
    together = guard.margin(tokens, images)
    for row in range(len(tokens)):
        alone = guard.margin(tokens[row : row + 1], images[row : row + 1])
        np.testing.assert_allclose(alone[0], together[row], rtol=0, atol=guard.tie_tolerance / 10)


def test_pads_are_dropped_wherever_they_stand(guard):
    tokens, images, _ = encode(guard, TEXTS[:1])
    words = tokens[0][tokens[0] != PAD]
    spread = np.zeros_like(tokens)
    spread[0, np.sort(np.random.default_rng(0).choice(24, words.size, replace=False))] = words
    assert not np.array_equal(spread, tokens)
    np.testing.assert_allclose(guard.margin(spread, images), guard.margin(tokens, images), rtol=0, atol=1e-6)
    assert guard.decode(spread[0]) == TEXTS[0]


def test_tokens_in_the_suffix_do_move_the_margin(guard):
    tokens, images, eligible = encode(guard, TEXTS[:1])
    changed = tokens.copy()
    changed[0, np.flatnonzero(eligible[0])[0]] = 100
    assert abs(guard.margin(changed, images)[0] - guard.margin(tokens, images)[0]) > 1e-3


@pytest.mark.parametrize("template", ["checkpoint", pytest.param("policy_first", marks=pytest.mark.slow)])
def test_a_shared_picture_gives_the_same_margins(template, onevision, policy, guard, policy_first):
    plain = policy_first if template == "policy_first" else guard
    shared = VlmGuard.from_pretrained(onevision[1], policy=policy, text_length=24, template=template, share_image=True)
    tokens, images, _ = encode(plain)
    same = np.repeat(images[:1], len(images), axis=0)
    for pictures in (same, images):
        np.testing.assert_allclose(shared.margin(tokens, pictures), plain.margin(tokens, pictures), rtol=0, atol=1e-5)
    assert np.abs(plain.margin(tokens, images) - plain.margin(tokens, same)).max() > 1e-4


def test_one_trace_serves_all_batches_of_a_size(guard):
    apply, parameters = guard.functional()
    assert guard.functional()[0] is apply
    traces = []

    @jax.jit
    def margin(parameters, tokens, images):
        traces.append(1)
        return apply(parameters, tokens, images)

    tokens, images, _ = encode(guard)
    for shift in range(3):
        rolled = np.roll(tokens, shift, axis=0)
        np.testing.assert_allclose(margin(parameters, rolled, images), guard.margin(rolled, images), rtol=0, atol=1e-5)
    assert len(traces) == 1


@pytest.mark.slow
def test_weights_spread_over_devices_give_the_same_counts(onevision, policy, policy_first):
    mesh = make_mesh(1, 2)
    spread = VlmGuard.from_pretrained(onevision[1], policy=policy, text_length=24, template="policy_first", mesh=mesh)
    kernel = spread.functional()[1]["network"]["language_model"]["layers"][0]["mlp"]["gate_proj"]["kernel"]
    assert kernel[...].sharding.mesh == mesh
    tokens, images, _ = encode(spread, TEXTS[:2])
    smoothing = hrs.HybridSmoothing(hrs.UniformKernel(0.25, spread.vocab_size), 0.25)
    found, expected = (
        sample(guard, tokens, images, smoothing, FixedSample(8), jax.random.key(0), batch_size=16, mesh=devices)
        for guard, devices in ((spread, mesh), (policy_first, data_mesh(1)))
    )
    assert np.all(np.abs(found.successes - expected.successes) <= expected.ties + found.ties)
    assert found.n.tolist() == [8, 8]


def test_counts_are_those_of_a_loop_over_noisy_copies(guard):
    tokens, images, eligible = encode(guard, TEXTS[:2])
    smoothing = hrs.HybridSmoothing(hrs.UniformKernel(0.25, guard.vocab_size), 0.5)
    key = jax.random.key(3)
    draws = sample(guard, tokens, images, smoothing, FixedSample(8), key, eligible=eligible, batch_size=8)
    noisy = jax.jit(smoothing.sample)
    expected = np.zeros(2, int)
    for row in range(2):
        for copy in range(8):
            own = jax.random.fold_in(jax.random.fold_in(key, row), copy)
            shown = noisy(own, jnp.asarray(tokens[row]), jnp.asarray(images[row]), jnp.asarray(eligible[row]))
            expected[row] += bool(guard(shown[0][None], shown[1][None])[0])
    assert np.all(np.abs(draws.successes - expected) <= draws.ties)


def test_bfloat16_comes_close_to_float32(onevision, policy, guard):
    tokens, images, _ = encode(guard)
    with jax.numpy_dtype_promotion("standard"):  # the layer norm of flax mixes dtypes
        half = VlmGuard.from_pretrained(onevision[1], policy=policy, text_length=24, dtype=jnp.bfloat16)
        np.testing.assert_allclose(half.margin(tokens, images), guard.margin(tokens, images), rtol=0, atol=0.2)
    assert half.tie_tolerance > guard.tie_tolerance


# What is certified


def test_encoding_fills_up_with_pads_and_marks_the_positions_of_the_threat(onevision, policy, guard):
    tokens, image, eligible = guard.encode(TEXTS[0], picture(50, 20)).arrays
    words = int((tokens != PAD).sum())
    assert (tokens[:words] != PAD).all()
    assert tokens.shape == (24,)
    assert image.shape == (SIDE, SIDE, 3)
    assert eligible.tolist() == [False] * words + [True] * (24 - words)
    assert guard.decode(tokens) == TEXTS[0]
    everywhere = VlmGuard.from_pretrained(onevision[1], policy=policy, text_length=24, threat="l0")
    assert everywhere.encode(TEXTS[0], picture()).eligible.all()


def test_the_default_alphabet_is_every_ordinary_token(onevision, guard):
    tokenizer = transformers.AutoTokenizer.from_pretrained(onevision[1])
    ordinary = set(tokenizer.get_vocab().values()) - set(range(4))
    assert guard.alphabet.table[1:].tolist() == sorted(ordinary)
    assert guard.vocab_size == 1 + len(ordinary)
    assert isinstance(guard, BaseClassifier)


def test_tokens_outside_of_the_alphabet_are_refused(onevision, policy, guard):
    with pytest.raises(ValueError, match=r"^Its text holds the token '<image>' \(id 3\), which is not in the noise"):
        guard.encode("look: <image>", picture())
    folder = onevision[1]
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    allowed = tokenizer("open the door", add_special_tokens=False)["input_ids"]
    narrow = VlmGuard.from_pretrained(folder, policy=policy, text_length=24, alphabet=sorted(set(allowed)))
    assert narrow.vocab_size == 1 + len(set(allowed))
    assert narrow.alphabet.digest != guard.alphabet.digest
    assert narrow.decode(narrow.encode("open the door", picture()).tokens) == "open the door"
    with pytest.raises(ValueError, match="which is not in the noise alphabet"):
        narrow.encode("open a door?", picture())
    with pytest.raises(ValueError, match=r"^tokens must lie in the noise alphabet 0\.\.\d+, got 900\.$"):
        narrow(np.full((1, 24), 900), picture()[None])


def test_a_text_longer_than_the_region_is_refused(guard):
    with pytest.raises(ValueError, match=r"^Its text takes \d+ tokens, more than the 24 of the region\.$"):
        guard.encode("door key wall " * 10, picture())


def test_the_description_tells_guards_apart(onevision, policy, guard, tmp_path):
    first = guard.describe()
    assert json.loads(json.dumps(first)) == first
    other = tmp_path / "policy.txt"
    other.write_text(POLICY + " ")
    same = VlmGuard.from_pretrained(onevision[1], policy=policy, text_length=24)
    assert same.describe() == first
    longer = VlmGuard.from_pretrained(onevision[1], policy=policy, text_length=25, labels=("Unsafe", "Safe|is"))
    assert {name for name in first if first[name] != longer.describe()[name]} == {"text_length", "labels"}
    copy = tmp_path / "copy"
    shutil.copytree(onevision[1], copy)
    weights = bytearray((copy / "model.safetensors").read_bytes())
    weights[-2] ^= 1
    (copy / "model.safetensors").write_bytes(weights)
    changed = VlmGuard.from_pretrained(copy, policy=policy, text_length=24).describe()
    assert changed["checkpoint_sha256"] != first["checkpoint_sha256"]


# Shapes


@pytest.mark.parametrize(
    ("tokens", "images", "sentence"),
    [
        (
            np.zeros((1, 3), int),
            np.zeros((1, SIDE, SIDE, 3)),
            r"^tokens must have shape \[batch, 24\], got \[1, 3\]\.$",
        ),
        (
            np.zeros((1, 24), int),
            np.zeros((1, 9, 9, 3)),
            r"^images must have shape \[1, 28, 28, 3\], got \[1, 9, 9, 3\]",
        ),
        (np.zeros((1, 24)), np.zeros((1, SIDE, SIDE, 3)), r"^tokens must be integers, got float"),
    ],
)
def test_batches_of_another_shape_are_refused(tokens, images, sentence, guard):
    with pytest.raises(ValueError, match=sentence):
        guard(tokens, images)


@pytest.mark.slow
def test_the_base_view_alone_halves_the_picture_and_is_what_torch_computes_from_its_features(tmp_path):
    """The form in which LLaVA-OneVision is shown each of several pictures, here with one."""
    network = make_checkpoint(tmp_path)
    (tmp_path / "policy.txt").write_text(POLICY)
    chosen = {"policy": tmp_path / "policy.txt", "text_length": 12}
    whole, alone = (VlmGuard.from_pretrained(tmp_path, **chosen, views=views) for views in ("checkpoint", "base"))
    assert (whole.prompt.image_tokens, alone.prompt.image_tokens) == (36, 17)
    assert "views" not in whole.describe()
    assert alone.describe()["views"] == "base"
    rows = [alone.encode(text, picture(seed=seed)) for seed, text in enumerate(("the key", "open the door", ""))]
    margins = np.asarray(
        alone.margin(*(np.stack([getattr(row, name) for row in rows]) for name in ("tokens", "image")))
    )
    layout = alone.prompt.layout
    for row, margin in zip(rows, margins, strict=True):
        views = np.moveaxis(np.asarray(layout.pixels(row.image[None])), -1, -3)
        twice = torch.tensor(np.concatenate([views, views]))
        with torch.no_grad():
            several = {"batch_num_images": torch.tensor([2])}
            features = network.model.get_image_features(twice, torch.tensor([[28, 28]] * 2), **several).pooler_output[0]
            words = alone.alphabet.tokens(row.tokens)
            ends = [*layout.before], [*layout.between, *words, *layout.after, *layout.beginning]
            before, behind = (network.get_input_embeddings()(torch.tensor([part]))[0] for part in ends)
            logits = network(inputs_embeds=torch.cat([before, features, behind])[None]).logits[0, -1]
        unsafe, safe = (torch.logsumexp(logits[list(ids)], 0) for ids in (layout.unsafe, layout.safe))
        assert float(unsafe - safe) == pytest.approx(float(margin), abs=2e-5)
    there = alone.decide_unfitted(np.stack([row.tokens for row in rows]), np.stack([row.image for row in rows]))
    np.testing.assert_array_equal(
        there, whole(*(np.stack([getattr(row, name) for row in rows]) for name in ("tokens", "image")))
    )


def test_other_networks_have_no_base_view(tmp_path):
    make_checkpoint(tmp_path, "llava")
    with pytest.raises(ValueError, match="views must be checkpoint for the image processor of CLIP, got base"):
        VlmGuard.from_pretrained(tmp_path, views="base")


def test_ties_elsewhere_than_on_a_cpu_are_measured_on_pairs_of_noise(guard, monkeypatch):
    """Alone, in one batch and with shared pictures the same pairs have the same margins, but for rounding."""
    size, length = guard.vocab_size, guard.settings.text_length
    change, largest = largest_change(guard.prompt, size, length)
    random = np.random.default_rng(0)
    tokens = random.integers(1, size, (8, length)).astype(np.int32)
    images = np.repeat(random.normal(0.5, 0.5, (2, SIDE, SIDE, 3)).astype(np.float32), 4, axis=0)
    margins = np.asarray(guard.margin(tokens, images), np.float64)
    assert largest == pytest.approx(np.abs(margins).max(), abs=1e-4)
    assert 0 <= change < 1e-3
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    found = tie_tolerance(guard.prompt, "float32", size, length)
    assert found == max(4 * change, float(jnp.finfo("float32").eps) * largest)
