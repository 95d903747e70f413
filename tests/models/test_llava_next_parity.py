"""LLaVA-NeXT against PyTorch, on configurations drawn at random, and what its reader refuses."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from torch_models import (
    PINPOINTS,
    clip_config,
    llama_config,
    mistral_config,
    next_config,
    pixels,
    save,
    siglip_config,
    tensor,
    tokens,
    torch,
    without_gradients,
)

from hybrid_rs_jax.models import from_pretrained, make_mesh

ROPES = [
    {"rope_type": "default", "rope_theta": 1e6},
    {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4},
    {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "rope_theta": 5e5}
    | {"original_max_position_embeddings": 64},
]


def drawn(seed):
    """A configuration and the height and width of a picture."""
    random = np.random.default_rng(seed)

    def pick(*choices):
        return choices[random.integers(len(choices))]

    groups = pick(1, 2)
    heads, tied = groups * pick(1, 2, 4), pick(True, False)
    text = {"num_attention_heads": heads, "num_key_value_heads": groups, "head_dim": pick(6, 8), "num_hidden_layers": 1}
    text |= {"tie_word_embeddings": tied, "rope_parameters": pick(*ROPES), "max_position_embeddings": 4096}
    decoder = pick(llama_config(**text), mistral_config(**text, sliding_window=pick(None, 900)))
    siglip, layer = pick(True, False, False), pick(-2, -1, [-1, -3], 1)
    grids = pick(PINPOINTS, [[56, 28], [28, 56], [84, 84]])
    settings = {"vision_feature_layer": layer, "vision_feature_select_strategy": "full" if siglip else "default"}
    settings |= {
        "tie_word_embeddings": tied,
        "image_grid_pinpoints": grids,
        "multimodal_projector_bias": pick(0, 1) == 1,
    }
    size = (int(random.integers(10, 140)), int(random.integers(10, 140)))
    return next_config(siglip_config() if siglip else clip_config(), decoder, **settings), size


@pytest.mark.parametrize("seed", [pytest.param(n, marks=[pytest.mark.slow] if n >= 2 else []) for n in range(14)])
@without_gradients
def test_configurations_drawn_at_random_give_the_logits_of_pytorch(seed, tmp_path):
    config, size = drawn(seed)
    reference = save(config, tmp_path, seed)
    model = from_pretrained(tmp_path, mesh=make_mesh(1, 2) if seed == 1 else None)  # on two devices, too
    count = model.image_tokens(size)
    images, ids = pixels(2, 1 + model.plan(size).tiles, seed=seed), tokens(2, count + 12, seed, image_tokens=count)
    lengths = np.array([count + 12, count + 7])
    mask = torch.tensor(np.arange(count + 12) < lengths[:, None]).long()
    given = {"pixel_values": tensor(images), "image_sizes": torch.tensor([size] * 2), "attention_mask": mask}
    expected = reference(tensor(ids), **given).logits.numpy()
    found = jax.jit(lambda model, ids, images: model(ids, images, size))(model, ids, images)
    for row, length in enumerate(lengths):
        error = np.abs(found[row, :length] - expected[row, :length]).max()
        assert error < 1e-5 * np.abs(expected[row, :length]).max()


def edited(folder, change):
    """The checkpoint's config.json with a change, as `change` makes it."""
    content = json.loads((folder / "config.json").read_text())
    change(content)
    (folder / "config.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            {"use_image_newline_parameter": False},
            r"use_image_newline_parameter must be True for llava_next, .*",
        ),
        (
            {"vision_feature_select_strategy": "full"},
            r"vision_feature_select_strategy must be 'default' .*",
        ),
        (
            {"image_scale": 2},
            r"image_scale is unknown for llava_next and may change what it computes, got 2; .*",
        ),
        ({"text_config.softcap": 3.0}, r"text_config\.softcap is unknown for llava_next .*"),
        ({"vision_config.window": 3}, r"vision_config\.window is unknown for llava_next .*"),
    ],
)
def test_settings_that_change_the_function_are_refused(change, sentence, tmp_path):
    save(next_config(), tmp_path)

    def write(content):
        for name, value in change.items():
            *outer, inner = name.split(".")
            (content[outer[0]] if outer else content)[inner] = value

    edited(tmp_path, write)
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        from_pretrained(tmp_path)


def test_a_prompt_longer_than_the_window_is_refused_and_one_as_long_is_right(tmp_path):
    reference = save(mistral_config(num_hidden_layers=2, sliding_window=12), tmp_path)
    model = from_pretrained(tmp_path)
    assert model.config.positions == 12
    ids = jnp.asarray(tokens(1, 13))
    with torch.no_grad():
        expected = reference(tensor(ids[:, :12])).logits
    np.testing.assert_allclose(model(model.embed(ids[:, :12])), expected, rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match=r"^A text may take at most the 12 positions .*, got 13\.$"):
        model(model.embed(ids))


def test_a_window_that_is_not_named_is_the_architectures_own(tmp_path):
    save(mistral_config(), tmp_path)
    assert from_pretrained(tmp_path).config.positions == 131_072
    edited(tmp_path, lambda content: content.pop("sliding_window"))
    assert from_pretrained(tmp_path).config.positions == 4096
