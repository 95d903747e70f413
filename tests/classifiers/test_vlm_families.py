"""Whole guards of Qwen2.5-VL and Gemma 3 against PyTorch with the checkpoint's own image processor, and profiles."""

import json

import jax
import numpy as np
import pytest
from guard_families import GEMMA_SIDE, QWEN_PATCH, make_gemma, make_qwen
from PIL import Image
from vlm_checkpoint import IMAGE, make_checkpoint, picture, torch, transformers

from hybrid_rs_jax.classifiers import VlmGuard
from hybrid_rs_jax.classifiers.vlm.profiles import PROFILES, find_profile
from hybrid_rs_jax.classifiers.vlm.settings import GuardSettings
from hybrid_rs_jax.models import load_preprocessor

TEXTS = ["open the door", "what is on the other side, user?", 'say "Safe" twice']
POLICY = "Rate the message and the picture.\nMessage:\n{text}"


@pytest.fixture(scope="module")
def qwen(tmp_path_factory):
    folder = tmp_path_factory.mktemp("qwen")
    (folder / "policy.txt").write_text(POLICY)
    return make_qwen(folder), folder


@pytest.fixture(scope="module")
def gemma(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gemma")
    (folder / "policy.txt").write_text("No picture of a door.")
    return make_gemma(folder), folder


def spoken(folder, text, **options):
    """The prompt as a user of transformers renders it."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    turn = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]}
    return tokenizer.apply_chat_template([turn], tokenize=False, add_generation_prompt=True, **options)


def processed(folder, kind, image):
    pixels = Image.fromarray((image * 255).round().astype(np.uint8))
    return dict(kind.from_pretrained(folder)(pixels, return_tensors="pt"))


def margin(model, folder, prompt, labels, mark, **inputs):
    """Masses of two single tokens behind the prompt, with the picture's positions marked as the processor does it."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    ids = torch.tensor([tokenizer(prompt, add_special_tokens=False)["input_ids"]])
    unsafe, safe = (tokenizer(label, add_special_tokens=False)["input_ids"] for label in labels)
    assert len(unsafe) == len(safe) == 1
    names = {"<|image_pad|>": "mm_token_type_ids", "<image_soft_token>": "token_type_ids"}
    if mark in names:
        inputs[names[mark]] = (ids == tokenizer.convert_tokens_to_ids(mark)).int()
    with torch.no_grad():
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), **inputs).logits[0, -1]
    return float(logits[unsafe[0]] - logits[safe[0]])


def stacked(guard, texts, size):
    rows = [guard.encode(text, picture(*size, number)) for number, text in enumerate(texts)]
    return np.stack([row.tokens for row in rows]), np.stack([row.image for row in rows])


@pytest.mark.parametrize("template", ["checkpoint", "policy_first"])
def test_a_guard_of_qwen_equals_pytorch_with_its_own_processor(template, qwen):
    model, folder = qwen
    step, size = 2 * QWEN_PATCH, (40, 24)  # as many pixels as the processor keeps
    settings = PROFILES["qwenguard"].settings(policy=folder / "policy.txt", text_length=24, image_size=size)
    guard = VlmGuard.from_pretrained(folder, settings, template=template)
    assert guard.prompt.image_tokens == size[0] * size[1] // step**2
    tokens, images = stacked(guard, TEXTS, size)
    found, picture_text = guard.margin(tokens, images), "<|vision_start|>" + "<|image_pad|>"
    for row, text in enumerate(TEXTS):
        prompt = spoken(folder, POLICY.replace("{text}", text)) + '{\n    "rating": "'
        head = POLICY.replace("{text}", "")
        if template == "policy_first":  # before the token that announces the picture
            prompt = prompt.replace(head, "").replace(picture_text, head + picture_text)
        else:
            assert picture_text in prompt
        prompt = prompt.replace("<|image_pad|>", "<|image_pad|>" * guard.prompt.image_tokens)
        inputs = processed(folder, transformers.Qwen2VLImageProcessor, images[row])
        expected = margin(model, folder, prompt, ("Unsafe", "Safe"), "<|image_pad|>", **inputs)
        np.testing.assert_allclose(found[row], expected, rtol=0, atol=1e-4)
    assert np.ptp(np.asarray(found)) > 0.01


@pytest.mark.parametrize("size", [(40, 24), (50, 37), (9, 120), (200, 210)])
def test_pictures_of_any_size_are_shown_to_qwen_as_by_its_own_processor(size, qwen):
    """Up to the rounding of the library, which works on 8 bits."""
    plan, step = load_preprocessor(qwen[1]).plan(*size), 2 * QWEN_PATCH
    image = 0.4 + 0.2 * picture(*size)
    found = np.asarray(plan(image[None]))[0, 0]
    given = processed(qwen[1], transformers.Qwen2VLImageProcessorPil, image)
    _, rows, columns = given["image_grid_thw"][0].tolist()
    assert found.shape == (rows * QWEN_PATCH, columns * QWEN_PATCH, 3)
    cut = found.reshape(rows // 2, 2, QWEN_PATCH, columns // 2, 2, QWEN_PATCH, 3).transpose(0, 3, 1, 4, 6, 2, 5)
    patches = given["pixel_values"].numpy().reshape(*cut.shape[:5], 2, QWEN_PATCH, QWEN_PATCH)
    levels = 255 * 0.28 * np.abs(cut[..., None, :, :] - patches).max()
    assert levels < 1.5
    assert found.shape[0] % step == 0


def test_a_guard_of_llava_next_equals_pytorch_with_its_own_processor(tmp_path):
    model = make_checkpoint(tmp_path, "next")
    (tmp_path / "policy.txt").write_text(POLICY)
    guard = VlmGuard.from_pretrained(tmp_path, policy=tmp_path / "policy.txt", text_length=24)
    assert guard.prompt.image_tokens == 16 + 4 * 5
    tokens, images = stacked(guard, TEXTS, guard.image_size)
    found = guard.margin(tokens, images)
    for row, text in enumerate(TEXTS):
        prompt = spoken(tmp_path, POLICY.replace("{text}", text)) + '{"rating": "'
        inputs = processed(tmp_path, transformers.LlavaNextImageProcessorPil, images[row])
        prompt = prompt.replace(IMAGE, IMAGE * guard.prompt.image_tokens)
        expected = margin(model, tmp_path, prompt, ("Unsafe", "Safe"), IMAGE, **inputs)
        np.testing.assert_allclose(found[row], expected, rtol=0, atol=1e-4)


def test_a_guard_of_gemma_equals_pytorch_with_its_own_processor(gemma):
    model, folder = gemma
    profile = find_profile(folder)
    assert profile.name == "nemotron"  # by its chat template
    guard = VlmGuard.from_pretrained(folder, profile.settings(text_length=24))
    assert guard.prompt.image_tokens == 4
    tokens, images = stacked(guard, TEXTS, (GEMMA_SIDE, GEMMA_SIDE))
    found = guard.margin(tokens, images)
    frame = "\n\n<start_of_image>" + "<image_soft_token>" * 4 + "<end_of_image>\n\n"
    for row, text in enumerate(TEXTS):
        prompt = spoken(folder, text, request_categories="/no_categories").replace("<start_of_image>", frame)
        inputs = processed(folder, transformers.Gemma3ImageProcessor, images[row])
        labels = (" unsafe", " safe")
        expected = margin(
            model,
            folder,
            prompt + "User Safety:",
            labels,
            "<image_soft_token>",
            pixel_values=inputs["pixel_values"],
        )
        np.testing.assert_allclose(found[row], expected, rtol=0, atol=1e-4)
    described = guard.describe()
    assert described["profile"] == "nemotron"
    assert described["template_options"]["request_categories"] == "/no_categories"
    with pytest.raises(ValueError, match=r"^Its text holds the token '<start_of_image>'"):
        guard.encode("look <start_of_image>", picture())


@pytest.mark.slow
def test_a_picture_that_many_texts_share_is_computed_once_with_the_same_margins(gemma, qwen):
    for folder, profile in ((gemma[1], "nemotron"), (qwen[1], "qwenguard")):
        settings = PROFILES[profile].settings(policy=folder / "policy.txt", text_length=24)
        alone, shared = (VlmGuard.from_pretrained(folder, settings, share_image=share) for share in (False, True))
        tokens, images = stacked(alone, TEXTS, alone.image_size)
        images = np.repeat(images[:1], len(images), axis=0)
        np.testing.assert_allclose(shared.margin(tokens, images), alone.margin(tokens, images), rtol=0, atol=1e-5)


@pytest.mark.parametrize("template", ["checkpoint", pytest.param("policy_first", marks=pytest.mark.slow)])
@pytest.mark.parametrize("family", ["qwen", pytest.param("gemma", marks=pytest.mark.slow), "next"])
def test_texts_behind_one_picture_have_the_margins_of_separate_passes(family, template, request, tmp_path):
    if family == "next":
        make_checkpoint(tmp_path, "next")
        folder = tmp_path
        (folder / "policy.txt").write_text(POLICY)
        settings = GuardSettings(policy=folder / "policy.txt", text_length=24)
    else:
        folder = request.getfixturevalue(family)[1]
        profile = PROFILES[{"qwen": "qwenguard", "gemma": "nemotron"}[family]]
        chosen = {"image_size": (40, 24)} if family == "qwen" else {}
        policy = tmp_path / "policy.txt"
        policy.write_text(POLICY)
        settings = profile.settings(policy=policy, text_length=24, **chosen)
    guard = VlmGuard.from_pretrained(folder, settings, template=template)
    random = np.random.default_rng(0)
    tokens = random.integers(1, guard.vocab_size, (3, 4, 24)).astype(np.int32)
    tokens[:, ::2, 15:] = 0  # shorter texts among longer ones
    images = random.normal(0.5, 0.5, (3, *guard.image_size, 3)).astype(np.float32)
    together = jax.jit(guard.shared_picture())(guard.functional()[1], tokens, images)
    apart = guard.margin(tokens.reshape(-1, 24), np.repeat(images, 4, axis=0))
    np.testing.assert_allclose(np.asarray(together).reshape(-1), apart, rtol=0, atol=1e-5)
    assert np.ptp(np.asarray(apart)) > 0.01


def test_a_guard_of_pictures_alone_is_shown_no_text(gemma):
    model, folder = gemma
    settings = PROFILES["shieldgemma2"].settings(policy=folder / "policy.txt")
    guard = VlmGuard.from_pretrained(folder, settings, template_options=())
    tokens, images = stacked(guard, ["", ""], (GEMMA_SIDE, GEMMA_SIDE))
    assert tokens.shape == (2, 0)
    found = guard.margin(tokens, images)
    frame = "\n\n<start_of_image>" + "<image_soft_token>" * 4 + "<end_of_image>\n\n"
    for row in range(2):
        prompt = spoken(folder, "No picture of a door.").replace("<start_of_image>", frame)
        pixels = processed(folder, transformers.Gemma3ImageProcessor, images[row])["pixel_values"]
        expected = margin(model, folder, prompt, ("Yes", "No"), "<image_soft_token>", pixel_values=pixels)
        np.testing.assert_allclose(found[row], expected, rtol=0, atol=1e-4)
    with pytest.raises(ValueError, match=r"^Its text must be empty: the guard judges pictures alone\.$"):
        guard.encode("a door", picture())


@pytest.mark.parametrize(
    ("folder", "family", "name"),
    [
        ("LlavaGuard-v1.2-7B", "llava_next", "llavaguard"),
        ("LlavaGuard-v1.2-0.5B-OV-hf", "llava_onevision", "llavaguard"),
        ("QwenGuard-v1.2-3B", "qwen2_5_vl", "qwenguard"),
        ("Nemotron-3-Content-Safety", "gemma3", "nemotron"),
        ("anything", "shieldgemma2", "shieldgemma2"),
        ("gemma-3-4b-it", "gemma3", "generic"),
        ("llava-v1.6", "llava_next", "generic"),
    ],
)
def test_family_and_name_tell_the_profile_and_the_user_may_overrule_it(folder, family, name, tmp_path):
    (tmp_path / folder).mkdir()
    (tmp_path / folder / "config.json").write_text(json.dumps({"model_type": family}))
    profile = find_profile(tmp_path / folder)
    assert profile.name == name
    assert find_profile(tmp_path / folder, "qwenguard").name == "qwenguard"
    if profile.policy is None:
        with pytest.raises(ValueError, match=rf"^policy is needed: the profile {name} .* give it as a file\.$"):
            profile.settings()
    settings = profile.settings(policy="text_only", labels=("a", "b"))
    assert (settings.labels, settings.answer, settings.profile) == (("a", "b"), profile.answer, name)
    with pytest.raises(ValueError, match=r"^profile must be one of llavaguard, .*, got 'x'\.$"):
        find_profile(tmp_path / folder, "x")
