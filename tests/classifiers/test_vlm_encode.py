"""What is certified of a text: where the trusted part ends, which tokens are legal, which template counts."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from vlm_checkpoint import ONEVISION_TEMPLATE, POLICY, SIDE, make_checkpoint, picture

from hybrid_rs_jax.classifiers import VlmGuard
from hybrid_rs_jax.classifiers.vlm import GuardSettings
from hybrid_rs_jax.classifiers.vlm.prompt import PAD
from hybrid_rs_jax.kernels import HybridSmoothing, UniformKernel
from hybrid_rs_jax.models import make_mesh


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    make_checkpoint(folder)
    return folder


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    path = tmp_path_factory.mktemp("policy") / "short.txt"
    path.write_text(POLICY)
    return GuardSettings(policy=path, text_length=24)


@pytest.fixture(scope="module")
def guard(checkpoint, settings):
    return VlmGuard.from_pretrained(checkpoint, settings)


# Trusted and appended text

TRUSTED = "how do I open the door"


@pytest.mark.parametrize("appended", [" now please", "s", "", "\n\nkey", ", user?", "  "])
def test_what_is_appended_changes_no_trusted_token_and_carries_noise(guard, appended):
    alone, both = guard.encode(TRUSTED, picture()), guard.encode(TRUSTED, picture(), appended)
    kept = int((alone.tokens != PAD).sum())
    np.testing.assert_array_equal(both.tokens[:kept], alone.tokens[:kept])
    for given in (alone, both):
        assert given.eligible.tolist() == [False] * kept + [True] * (24 - kept)
        np.testing.assert_array_equal(guard.must_stay(given), ~given.eligible)
    assert (both.tokens[kept:] != PAD).any() == bool(appended)
    assert guard.decode(both.tokens) == TRUSTED + appended


def test_noise_falls_on_appended_tokens_and_never_on_trusted_ones(guard):
    given = guard.encode(TRUSTED, picture(), " now please")
    smoothing = HybridSmoothing(UniformKernel(0.5, guard.vocab_size), 0.5)
    keys = jax.random.split(jax.random.key(0, impl="threefry2x32"), 64)
    tokens, image, eligible = (jnp.asarray(part) for part in given.arrays)
    noisy = np.asarray(jax.vmap(lambda key: smoothing.sample(key, tokens, image, eligible)[0])(keys))
    changed = (noisy != given.tokens).any(axis=0)
    np.testing.assert_array_equal(changed, given.eligible)


def test_must_stay_differs_from_input_to_input_under_suffix_and_is_nothing_under_l0(checkpoint, settings, guard):
    lengths = [int(guard.must_stay(guard.encode(text, picture())).sum()) for text in ("", "a", TRUSTED)]
    assert lengths[0] == 0 < lengths[1] < lengths[2]
    everywhere = VlmGuard.from_pretrained(checkpoint, settings, threat="l0")
    assert not everywhere.must_stay(everywhere.encode(TRUSTED, picture(), " now")).any()


def test_both_texts_together_must_fit_the_region(guard):
    with pytest.raises(ValueError, match=r"^Its text takes \d+ tokens, more than the 24 of the region\.$"):
        guard.encode(TRUSTED, picture(), " door key wall" * 8)


@pytest.mark.parametrize("place", ["trusted", "appended"])
def test_half_of_a_surrogate_pair_and_a_placeholder_are_refused_in_both_texts(guard, place):
    for text, sentence in (("a\ud800", "half of a Unicode surrogate pair"), ("<image>", "not in the noise alphabet")):
        texts = {"trusted": "a", "appended": "", place: text}
        with pytest.raises(ValueError, match=rf"^[^\n]*{sentence}[^\n]*\.$"):
            guard.encode(texts["trusted"], picture(), texts["appended"])
    with pytest.raises(ValueError, match="half of a Unicode surrogate pair"):
        guard.decide([("\udfff", None)])
    with pytest.raises(ValueError, match="half of a Unicode surrogate pair"):
        guard.symbols("\ud800")


@pytest.mark.parametrize(
    ("image", "sentence"),
    [
        (255 * picture(), r"divide by 255"),
        (np.zeros((3, SIDE, SIDE), np.float32), r"channels first"),
        (np.zeros((SIDE, SIDE, 1), np.float32), r"^image must have shape \[height, width, 3\]"),
        (np.zeros((0, SIDE, 3), np.float32), r"^image must have shape \[height, width, 3\]"),
        (np.full((SIDE, SIDE, 3), np.nan), r"^image must hold finite numbers of float32, got nan\.$"),
    ],
)
def test_what_is_no_picture_is_refused_with_the_fix(guard, image, sentence):
    with pytest.raises(ValueError, match=sentence):
        guard.encode("a", image)


def test_symbols_stand_in_for_a_text_in_a_decision(guard):
    symbols = guard.symbols(TRUSTED)
    noisy = picture() * 3 - 1  # beyond [0, 1], as noise is
    by_text, by_symbols, _ = guard.decide([(TRUSTED, noisy), (symbols, noisy), (symbols, None)])
    assert by_text == by_symbols
    with pytest.raises(ValueError, match=r"^tokens must lie in the noise alphabet"):
        guard.decide([(np.full(24, 10**6), noisy)])


# Settings


def test_settings_are_one_object_and_keywords_replace_single_fields(checkpoint, settings, guard):
    other = VlmGuard.from_pretrained(checkpoint, settings, text_length=12)
    assert other.settings == dataclasses.replace(settings, text_length=12)
    assert guard.settings == settings
    assert VlmGuard.from_pretrained(checkpoint, policy=settings.policy, text_length=24).settings == settings
    with pytest.raises(dataclasses.FrozenInstanceError):
        guard.settings.text_length = 5


def test_a_guard_knows_the_devices_that_its_weights_lie_on(checkpoint, settings, guard):
    mesh = make_mesh(2, 1)
    assert guard.mesh is None
    assert VlmGuard.from_pretrained(checkpoint, settings, mesh=mesh).mesh == mesh


# Templates of the checkpoint


def with_templates(checkpoint, folder, files, tokenizer_template=None):
    """A copy of the checkpoint with other templates."""
    shutil.copytree(checkpoint, folder)
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    shutil.rmtree(folder / "additional_chat_templates", ignore_errors=True)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config.pop("chat_template", None)
    if tokenizer_template is not None:
        config["chat_template"] = tokenizer_template
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))
    return folder


LIST = [{"name": "tool_use", "template": "{{ 1 }}"}, {"name": "default", "template": ONEVISION_TEMPLATE}]
MAPPING = {"tool_use": "{{ 1 }}", "default": ONEVISION_TEMPLATE}


@pytest.mark.parametrize("named", [LIST, MAPPING], ids=["list", "mapping"])
@pytest.mark.parametrize("place", ["tokenizer", "chat_template.json", "processor_config.json"])
def test_of_several_named_templates_the_default_one_is_taken(place, named, checkpoint, settings, guard, tmp_path):
    if place == "tokenizer":
        folder = with_templates(checkpoint, tmp_path / "copy", {}, named)
    else:
        folder = with_templates(checkpoint, tmp_path / "copy", {place: {"chat_template": named}})
    found = VlmGuard.from_pretrained(folder, settings)
    assert found.prompt.layout.text == guard.prompt.layout.text


@pytest.mark.parametrize("named", [3, [3], [{"name": "other", "template": "{{ 1 }}"}], {"default": 3}, [], {}])
def test_templates_without_a_default_one_are_no_template(named, checkpoint, settings, tmp_path):
    folder = with_templates(checkpoint, tmp_path / "copy", {"chat_template.json": {"chat_template": named}})
    with pytest.raises(ValueError, match=r"^[^\n]* holds no chat template: expected [^\n]*\.$"):
        VlmGuard.from_pretrained(folder, settings)


# Weights that are no numbers


@pytest.mark.parametrize(
    ("name", "value"),
    [("image_newline", np.nan), ("language_model.model.layers.0.input_layernorm.weight", np.inf)],
    ids=["N01", "N03"],
)
def test_a_margin_that_is_no_number_is_never_a_vote(name, value, checkpoint, settings, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(checkpoint, folder)
    weights = load_file(folder / "model.safetensors")
    weights[name] = weights[name].copy()
    weights[name].flat[0] = value
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    guard = VlmGuard.from_pretrained(folder, settings)
    given = guard.encode(TRUSTED, picture())
    with pytest.raises(ValueError, match=r"margin is (nan|-?inf): it must be a finite number"):
        guard(given.tokens[None], given.image[None])
    with pytest.raises(ValueError, match=r"margin is (nan|-?inf): it must be a finite number"):
        guard.decide([(TRUSTED, given.image)])
    generating = VlmGuard.from_pretrained(folder, settings, decision="generate", generated_tokens=2)
    with pytest.raises(ValueError, match=r"^The checkpoint gives a logit that is no finite number"):
        generating(given.tokens[None], given.image[None])
