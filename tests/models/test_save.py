"""Networks written as checkpoints: what was saved comes back, here and in transformers."""

import json
import re

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax import nnx
from torch_models import (
    IMAGE_TOKEN,
    PINPOINTS,
    TEXT,
    VISION,
    pixels,
    tensor,
    tokens,
    torch,
    transformers,
    without_gradients,
)

from hybrid_rs_jax.models import LlavaOnevision, from_config, from_pretrained, load_config
from hybrid_rs_jax.models._safetensors import checkpoint_tensors, write_tensors
from hybrid_rs_jax.models.save import save_pretrained, stored_tensors
from hybrid_rs_jax.models.sharding import named_parameters

ONEVISION = {
    "model_type": "llava_onevision",
    "text_config": {"model_type": "qwen2", **TEXT},
    "vision_config": {"model_type": "siglip_vision_model", **VISION},
    "image_token_index": IMAGE_TOKEN,
    "image_grid_pinpoints": PINPOINTS,
}
TIED = ONEVISION | {
    "text_config": ONEVISION["text_config"] | {"tie_word_embeddings": True},
    "tie_word_embeddings": True,
}
LLAVA = {
    "model_type": "llava",
    "text_config": {"model_type": "llama", **TEXT},
    "vision_config": {"model_type": "clip_vision_model", **VISION},
    "vision_feature_layer": -1,
    "image_token_index": IMAGE_TOKEN,
}
CONFIGS = {"onevision": ONEVISION, "onevision, tied": TIED, "llava": LLAVA}
MODELS = {
    "llava_onevision": transformers.LlavaOnevisionForConditionalGeneration,
    "llava": transformers.LlavaForConditionalGeneration,
}


def network(config, seed=0):
    """Random weights, biases and scales included."""
    made, generator = from_config(config, seed=seed), np.random.default_rng(seed)
    for parameter in named_parameters(made).values():
        noise = 0.05 * generator.normal(size=parameter.shape)
        parameter.set_value(parameter[...] + jnp.asarray(noise, parameter.dtype))
    return made


def weights(made):
    return {name: np.asarray(parameter[...]) for name, parameter in named_parameters(made).items()}


@pytest.mark.parametrize("name", CONFIGS)
def test_every_weight_comes_back_as_it_was(name, tmp_path):
    saved = network(CONFIGS[name])
    save_pretrained(saved, tmp_path, CONFIGS[name], dtype=jnp.float32)
    jax.tree.map(np.testing.assert_array_equal, weights(from_pretrained(tmp_path)), weights(saved))


@pytest.mark.parametrize("name", CONFIGS)
@without_gradients
def test_transformers_loads_every_tensor_and_gives_the_same_logits(name, tmp_path):
    saved = network(CONFIGS[name])
    save_pretrained(saved, tmp_path, CONFIGS[name], dtype=jnp.float32)
    reference, found = MODELS[CONFIGS[name]["model_type"]].from_pretrained(tmp_path, output_loading_info=True)
    assert not any(found[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))

    size = (50, 50) if "onevision" in name else None
    count = saved.image_tokens(size)
    images, ids = pixels(2, 1 + saved.plan(size).tiles if size else 1), tokens(2, count + 9, image_tokens=count)
    shown = {"pixel_values": tensor(images), "image_sizes": torch.tensor([size] * 2)} if size else {}
    shown = shown or {"pixel_values": tensor(images[:, 0])}
    expected = reference.eval()(tensor(ids), **shown).logits
    logits = jax.jit(lambda saved, ids, images: saved(ids, images, size))(saved, ids, images)
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_weights_in_half_precision_are_rounded_to_nearest(dtype, tmp_path):
    saved = network(ONEVISION)
    save_pretrained(saved, tmp_path, ONEVISION, dtype=dtype)
    assert load_config(tmp_path)["dtype"] == str(np.dtype(dtype))
    rounded = {name: value.astype(dtype).astype(np.float32) for name, value in weights(saved).items()}
    jax.tree.map(np.testing.assert_array_equal, weights(from_pretrained(tmp_path)), rounded)


def test_shards_hold_what_one_file_would(tmp_path):
    saved = network(ONEVISION)
    save_pretrained(saved, tmp_path, ONEVISION, dtype=jnp.float32, shard_bytes=30_000)
    shards = sorted(tmp_path.glob("*.safetensors"))
    count = len(shards)
    assert [path.name for path in shards] == [f"model-{i:05d}-of-{count:05d}.safetensors" for i in range(1, count + 1)]
    assert count > 4
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(4 * np.prod(shape) for shape, _ in stored_tensors(saved).values())
    assert max(path.stat().st_size for path in shards) < 30_000 + 10_000  # with the header
    jax.tree.map(np.testing.assert_array_equal, weights(from_pretrained(tmp_path)), weights(saved))


def test_the_safetensors_library_reads_the_file(tmp_path):
    from safetensors.numpy import load_file

    saved = network(ONEVISION)
    save_pretrained(saved, tmp_path, ONEVISION, dtype=jnp.float32)
    found = load_file(tmp_path / "model.safetensors")
    assert {name: value.shape for name, value in found.items()} == {
        name: shape for name, (shape, _) in stored_tensors(saved).items()
    }
    kernel = found["language_model.model.layers.1.mlp.down_proj.weight"]
    np.testing.assert_array_equal(kernel, weights(saved)["language_model.layers.1.mlp.down_proj.kernel"].T)


def test_names_on_disk_are_those_of_published_checkpoints():
    settings = LlavaOnevision.read_config(ONEVISION)
    shapes = nnx.eval_shape(lambda: LlavaOnevision(settings, rngs=nnx.Rngs(0)))
    names = set(stored_tensors(shapes))
    assert {
        "image_newline",
        "language_model.lm_head.weight",
        "language_model.model.embed_tokens.weight",
        "language_model.model.layers.0.self_attn.q_proj.bias",
        "multi_modal_projector.linear_2.weight",
        "vision_tower.vision_model.encoder.layers.2.self_attn.out_proj.weight",
        "vision_tower.vision_model.post_layernorm.bias",
    } < names
    assert len(names) == len(named_parameters(shapes)) + 2


def test_other_files_are_written_beside_the_weights(tmp_path):
    files = {"tokenizer_config.json": {"unk_token": "<unk>"}, "policy.txt": "Be careful.\n"}
    save_pretrained(network(ONEVISION), tmp_path / "new" / "folder", ONEVISION, files=files)
    assert json.loads((tmp_path / "new" / "folder" / "tokenizer_config.json").read_text()) == {"unk_token": "<unk>"}
    assert (tmp_path / "new" / "folder" / "policy.txt").read_text() == "Be careful.\n"


def test_a_checkpoint_is_never_overwritten(tmp_path):
    saved = network(ONEVISION)
    save_pretrained(saved, tmp_path, ONEVISION)
    before = (tmp_path / "model.safetensors").read_bytes()
    with pytest.raises(ValueError, match=rf"^{re.escape(str(tmp_path))} holds a checkpoint already; [^\n]*\.$"):
        save_pretrained(network(ONEVISION, seed=1), tmp_path, ONEVISION)
    assert (tmp_path / "model.safetensors").read_bytes() == before


def test_a_config_of_another_network_is_refused(tmp_path):
    wrong = ONEVISION | {"image_token_index": IMAGE_TOKEN + 1}
    with pytest.raises(ValueError, match=r"^config must describe the network, [^\n]*\.$"):
        save_pretrained(network(ONEVISION), tmp_path / "new", wrong)
    assert not (tmp_path / "new").exists()


def test_a_tower_without_its_last_layers_is_refused(tmp_path):
    config = LLAVA | {"vision_feature_layer": -2}
    with pytest.raises(ValueError, match=r"^num_hidden_layers of the tower must be 2, [^\n]*, got 3\.$"):
        save_pretrained(network(config), tmp_path, config)


def test_a_tensor_comes_back_whole_and_in_parts(tmp_path):
    whole = np.arange(30, dtype=np.float32).reshape(6, 5)
    entries = {"a": ((6, 5), np.dtype(ml_dtypes.bfloat16)), "b": ((), np.dtype(np.float32))}
    write_tensors(tmp_path, entries, lambda name: {"a": whole, "b": np.array(7.0)}[name])
    found = checkpoint_tensors(tmp_path)
    np.testing.assert_array_equal(found["a"].read().astype(np.float32), whole)
    np.testing.assert_array_equal(found["a"].read((slice(1, 3), slice(2, 5))).astype(np.float32), whole[1:3, 2:5])
    assert found["b"].read() == 7.0


def test_a_value_of_another_shape_leaves_no_file(tmp_path):
    entries = {"a": ((6, 5), np.dtype(np.float32))}
    with pytest.raises(ValueError, match=r"^The value of a must have the shape \[6, 5\], got \[5, 5\]\.$"):
        write_tensors(tmp_path, entries, lambda name: np.zeros((5, 5)))
    assert not list(tmp_path.iterdir())


def test_integers_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"^The dtype of a must be one of float64, [^\n]*, got int8\.$"):
        write_tensors(tmp_path, {"a": ((2,), np.dtype(np.int8))}, lambda name: [])
