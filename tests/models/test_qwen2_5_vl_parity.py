"""Qwen2.5-VL against PyTorch, on configurations drawn at random, in both layouts of config.json and of the weights."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from torch_models import (
    IMAGE_TOKEN,
    TEXT,
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
from hybrid_rs_jax.models._views import stepped_size

PATCH = 4
SPECIAL = {"image_token_id": IMAGE_TOKEN, "video_token_id": 91, "vision_start_token_id": 92, "vision_end_token_id": 93}


def config_of(vision=(), **text):
    vision = {"depth": 2, "hidden_size": 16, "num_heads": 2, "intermediate_size": 24, "patch_size": PATCH} | dict(
        vision
    )
    text = {**TEXT, "num_hidden_layers": 1, "rope_parameters": rope([1, 1, 2])} | text
    vision |= {"out_hidden_size": text["hidden_size"]}
    vision = {"window_size": 16, "fullatt_block_indexes": [1]} | vision
    tied = {"tie_word_embeddings": text.pop("tie_word_embeddings", False)}
    return transformers.Qwen2_5_VLConfig(vision_config=vision, text_config=text, **SPECIAL, **tied)


def rope(sections, **more):
    return {"rope_type": "default", "mrope_section": sections, "rope_theta": 1e6} | more


def drawn(seed):
    """A configuration and the height and width of a picture in merged patches."""
    random = np.random.default_rng(seed)

    def pick(*choices):
        return choices[random.integers(len(choices))]

    groups = pick(1, 2)
    heads = groups * pick(1, 2)
    half = TEXT["hidden_size"] // heads // 2
    first = int(random.integers(0, half))
    sections = [first, (half - first) // 2, half - first - (half - first) // 2]
    scaled = pick({}, {"rope_type": "linear", "factor": 2.0}, {"rope_theta": 1e4})
    text = {"num_attention_heads": heads, "num_key_value_heads": groups, "rope_parameters": rope(sections, **scaled)}
    text |= {"tie_word_embeddings": pick(True, False), "rms_norm_eps": pick(1e-5, 1e-6)}
    vision = {
        "num_heads": pick(1, 2, 4),
        "window_size": pick(8, 16, 24),
        "fullatt_block_indexes": pick([1], [0], [0, 1]),
    }
    vision |= {"temporal_patch_size": pick(1, 2), "spatial_merge_size": pick(1, 2), "hidden_act": pick("silu", "gelu")}
    return config_of(vision, **text), (int(random.integers(1, 9)), int(random.integers(1, 9)))


def patches(images, vision):
    """What the model's own processor makes of normalised pictures: patches in blocks, with equal frames."""
    merge, size, (count, height, width, _) = vision.spatial_merge_size, vision.patch_size, images.shape
    rows, columns = height // size // merge, width // size // merge
    cut = images.reshape(count, rows, merge, size, columns, merge, size, 3).transpose(0, 1, 4, 2, 5, 7, 3, 6)
    frames = np.repeat(cut[:, :, :, :, :, :, None], vision.temporal_patch_size, axis=6)
    flat = frames.reshape(count * rows * columns * merge**2, -1)
    return torch.tensor(flat), torch.tensor([[1, rows * merge, columns * merge]] * count)


def reference_logits(reference, ids, images, lengths):
    values, grid = patches(images, reference.config.vision_config)
    mask = torch.tensor(np.arange(ids.shape[1]) < lengths[:, None]).long()
    given = {"pixel_values": values, "image_grid_thw": grid, "attention_mask": mask}
    kinds = tensor((ids == IMAGE_TOKEN).astype(np.int32)).int()
    return reference(tensor(ids), mm_token_type_ids=kinds, **given).logits.numpy()


def compared(reference, model, size, seed=0, **options):
    """Largest difference of two rows' logits in units of their scale."""
    step = model.config.vision.step
    images = np.random.default_rng(seed).normal(size=(2, size[0] * step, size[1] * step, 3)).astype(np.float32)
    count = size[0] * size[1]
    ids, lengths = tokens(2, count + 12, seed, image_tokens=count, start=3), np.array([count + 12, count + 7])
    expected = reference_logits(reference, ids, images, lengths)
    model.place(3, images.shape[1:3])
    found = np.asarray(logits(model, jnp.asarray(ids), jnp.asarray(images[:, None])))
    rows = [(found[row, :length], expected[row, :length]) for row, length in enumerate(lengths)]
    return max(np.abs(mine - theirs).max() / np.abs(theirs).max() for mine, theirs in rows)


@pytest.mark.parametrize("seed", [pytest.param(n, marks=[pytest.mark.slow] if n >= 2 else []) for n in range(14)])
@without_gradients
def test_configurations_drawn_at_random_give_the_logits_of_pytorch(seed, tmp_path):
    config, size = drawn(seed)
    assert compared(save(config, tmp_path, seed), from_pretrained(tmp_path), size, seed) < 1e-5


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("qwen")
    return save(config_of(), folder), folder


def published(folder, target):
    """The checkpoint as the hub has it: the decoder's fields beside the others, and older names."""
    from safetensors.numpy import load_file, save_file

    content = json.loads((folder / "config.json").read_text())
    text = content.pop("text_config")
    text["rope_scaling"] = {"type": "mrope", "mrope_section": text.pop("rope_parameters")["mrope_section"]}
    content |= text | {"rope_theta": 1e6, "model_type": "qwen2_5_vl"}
    content["vision_config"] |= {"in_chans": 3, "spatial_patch_size": PATCH}
    (target / "config.json").write_text(json.dumps(content))
    tensors = load_file(folder / "model.safetensors")
    names = {
        name: name.replace("model.language_model.", "model.").replace("model.visual.", "visual.") for name in tensors
    }
    save_file({names[name]: value for name, value in tensors.items()}, target / "model.safetensors", {"format": "pt"})


@without_gradients
def test_the_published_layout_and_two_devices_give_the_same_logits(saved, tmp_path):
    reference, folder = saved
    published(folder, tmp_path)
    assert compared(reference, from_pretrained(tmp_path, mesh=make_mesh(1, 2)), (3, 5)) < 1e-5


def test_a_text_after_a_kept_prefix_with_the_picture_has_the_same_hidden_states(saved):
    model = from_pretrained(saved[1])
    size, decoder = (3, 5), model.language_model
    model.place(4, (3 * 8, 5 * 8))
    embeddings = jnp.asarray(np.random.default_rng(0).normal(size=(1, 30, 32)).astype(np.float32))
    whole = hidden(decoder, embeddings)
    for border in (4, 4 + size[0] * size[1], 25):
        prefix = jax.jit(lambda decoder, x: decoder.extend(x))(decoder, embeddings[:, :border])
        np.testing.assert_allclose(
            hidden(decoder, embeddings[:, border:], prefix), whole[:, border:], rtol=0, atol=1e-5
        )


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"vision_config.window": 3}, r"vision_config\.window is unknown for qwen2_5_vl .*"),
        (
            {"text_config.use_sliding_window": True, "text_config.layer_types": ["sliding_attention"]},
            r".*use_sliding_window must be false.*",
        ),
        ({"text_config.rope_parameters": rope([1, 2])}, r".*mrope_section must be integers with the sum 4, half .*"),
        ({"text_config.rope_parameters": rope([4], ntk=2)}, r".*rope_parameters\.ntk is unknown .*"),
        (
            {"vision_config.out_hidden_size": 24},
            r"vision_config\.out_hidden_size must be 32 for a decoder of width 32.*",
        ),
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


def test_sizes_are_those_of_the_models_own_processor():
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

    random = np.random.default_rng(0)
    for height, width in random.integers(1, 3000, (500, 2)).tolist():
        if max(height, width) <= 50 * min(height, width):
            area = (56 * 56, 28 * 28 * 1280)
            assert stepped_size(height, width, 28, area) == smart_resize(height, width, 28, *area)
