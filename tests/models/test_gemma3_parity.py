"""Gemma 3 against PyTorch, on configurations drawn at random: norms, windows, ropes, pictures that look both ways."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from torch_models import (
    IMAGE_TOKEN,
    VISION,
    hidden,
    logits,
    save,
    tensor,
    tokens,
    torch,
    transformers,
    without_gradients,
)

from hybrid_rs_jax.models import from_pretrained, make_mesh

TEXT = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
TEXT |= {"vocab_size": 96, "query_pre_attn_scalar": 12, "sliding_window": 7, "num_hidden_layers": 2}
TEXT |= {"layer_types": ["sliding_attention", "full_attention"]}
SPECIAL = {"image_token_index": IMAGE_TOKEN, "boi_token_index": 91, "eoi_token_index": 92}


def config_of(tokens_per_image=4, **text):
    vision = {name: value for name, value in VISION.items() if name != "num_hidden_layers"}
    vision = transformers.SiglipVisionConfig(vision_use_head=False, num_hidden_layers=1, **vision)
    tied = {"tie_word_embeddings": text.pop("tie_word_embeddings", True)}
    text = transformers.Gemma3TextConfig(**TEXT | text)
    return transformers.Gemma3Config(
        vision_config=vision, text_config=text, mm_tokens_per_image=tokens_per_image, **SPECIAL, **tied
    )


def drawn(seed):
    random = np.random.default_rng(seed)

    def pick(*choices):
        return choices[random.integers(len(choices))]

    groups = pick(1, 2)
    text = {"num_attention_heads": groups * pick(1, 2), "num_key_value_heads": groups, "head_dim": pick(8, 10, 16)}
    text |= {"sliding_window": pick(2, 5, 9, 100), "query_pre_attn_scalar": pick(8, 16, 30)}
    text |= {"attention_bias": pick(True, False), "hidden_activation": pick("gelu_pytorch_tanh", "silu")}
    kinds = pick(
        ["full_attention", "sliding_attention"], ["sliding_attention"] * 2, ["sliding_attention", "full_attention"]
    )
    local = {"rope_type": "default", "rope_theta": pick(1e4, 300.0)}
    whole = pick({"rope_type": "default"}, {"rope_type": "linear", "factor": 8.0}) | {"rope_theta": pick(1e6, 1e4)}
    text |= {"layer_types": kinds, "rope_parameters": {"sliding_attention": local, "full_attention": whole}}
    return config_of(pick(1, 4, 16), tie_word_embeddings=pick(True, False), **text)


def compared(reference, model, seed=0, start=3):
    """Largest difference of two rows' logits in units of their scale."""
    images = np.random.default_rng(seed).normal(size=(2, 28, 28, 3)).astype(np.float32)
    count = model.image_tokens()
    ids, lengths = tokens(2, count + 14, seed, image_tokens=count, start=start), np.array([count + 14, count + 8])
    mask = torch.tensor(np.arange(ids.shape[1]) < lengths[:, None]).long()
    kinds = tensor((ids == IMAGE_TOKEN).astype(np.int32))
    given = {"pixel_values": tensor(images), "attention_mask": mask, "token_type_ids": kinds}
    expected = reference(tensor(ids), **given).logits.numpy()
    model.place(start, (28, 28))
    found = np.asarray(logits(model, jnp.asarray(ids), jnp.asarray(images[:, None])))
    rows = [(found[row, :length], expected[row, :length]) for row, length in enumerate(lengths)]
    return max(np.abs(mine - theirs).max() / np.abs(theirs).max() for mine, theirs in rows)


@pytest.mark.parametrize("seed", [pytest.param(n, marks=[pytest.mark.slow] if n >= 2 else []) for n in range(14)])
@without_gradients
def test_configurations_drawn_at_random_give_the_logits_of_pytorch(seed, tmp_path):
    assert compared(save(drawn(seed), tmp_path, seed), from_pretrained(tmp_path), seed) < 1e-5


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gemma")
    return save(config_of(16), folder), folder


def older(content):
    """config.json as transformers 4.50 wrote it: one pattern of layers, and two bases beside each other."""
    text = content["text_config"]
    del text["layer_types"], text["rope_parameters"]
    text |= {"sliding_window_pattern": 2, "rope_theta": 1e6, "rope_local_base_freq": 1e4}
    text |= {"cache_implementation": "hybrid"}
    text |= {"rope_scaling": {"rope_type": "linear", "factor": 8.0}}


@without_gradients
@pytest.mark.filterwarnings("ignore")
def test_older_layouts_and_those_of_shieldgemma_give_the_same_logits_on_two_devices(saved, tmp_path):
    from safetensors.numpy import load_file, save_file

    content = json.loads((saved[1] / "config.json").read_text())
    older(content)
    tensors = load_file(saved[1] / "model.safetensors")
    assert "language_model.model.layers.0.mlp.up_proj.weight" in tensors
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    (tmp_path / "config.json").write_text(json.dumps(content))
    reference = transformers.Gemma3ForConditionalGeneration.from_pretrained(tmp_path).eval()
    content |= {"model_type": "shieldgemma2", "yes_token_index": 5, "no_token_index": 6}
    (tmp_path / "config.json").write_text(json.dumps(content))
    wrapped = {f"model.{name}": value for name, value in tensors.items()}
    save_file(wrapped, tmp_path / "model.safetensors", {"format": "pt"})
    assert compared(reference, from_pretrained(tmp_path, mesh=make_mesh(1, 2))) < 1e-5
    newer = {f"model.{name.replace('.model.', '.')}": value for name, value in tensors.items()}
    save_file(newer, tmp_path / "model.safetensors", {"format": "pt"})
    assert compared(reference, from_pretrained(tmp_path)) < 1e-5


def test_a_text_after_a_kept_prefix_with_the_picture_has_the_same_hidden_states(saved):
    model = from_pretrained(saved[1])
    decoder = model.language_model
    model.place(4, (28, 28))
    embeddings = jnp.asarray(np.random.default_rng(0).normal(size=(1, 30, 32)).astype(np.float32))
    whole = hidden(decoder, embeddings)
    for border in (4, 20, 25):
        prefix = jax.jit(lambda decoder, x: decoder.extend(x))(decoder, embeddings[:, :border])
        np.testing.assert_allclose(
            hidden(decoder, embeddings[:, border:], prefix), whole[:, border:], rtol=0, atol=1e-5
        )
    with pytest.raises(
        ValueError, match=r"^A text may not begin or end within the picture at 4\.\.19, .*, got 0\.\.9\.$"
    ):
        decoder.extend(embeddings[:, :10])


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"text_config.final_logit_softcapping": 30.0}, r"text_config\.final_logit_softcapping must be null .*"),
        ({"text_config.attn_logit_softcapping": 30.0}, r"text_config\.attn_logit_softcapping must be null .*"),
        ({"text_config.use_bidirectional_attention": True}, r".*use_bidirectional_attention must be False .*"),
        ({"text_config.altup": 2}, r"text_config\.altup is unknown for gemma3 .*"),
        ({"text_config.layer_types": ["full_attention"]}, r"text_config\.layer_types must be 2 times .*"),
        (
            {"text_config.rope_parameters": {"full_attention": {"rope_type": "yarn"}}},
            r"The rotary scaling must be .* yarn\.",
        ),
        ({"vision_config.model_type": "clip_vision_model"}, r".*model_type must be 'siglip_vision_model' for gemma3.*"),
    ],
)
def test_settings_that_change_the_function_are_refused(change, sentence, saved, tmp_path):
    content = json.loads((saved[1] / "config.json").read_text())
    for name, value in change.items():
        outer, inner = name.split(".")
        content[outer][inner] = value
    (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        from_pretrained(tmp_path)
