"""Tensor and data parallelism on virtual devices: the same logits, and weights that are really split."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from hybrid_rs_jax.models import from_config, make_mesh, shard
from hybrid_rs_jax.models.sharding import named_parameters, parameter_shardings, partition_spec

TEXT = {
    "model_type": "qwen2",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 96,
}
VISION = {
    "model_type": "siglip_vision_model",
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 7,
}
CONFIG = {
    "model_type": "llava_onevision",
    "text_config": TEXT,
    "vision_config": VISION,
    "image_token_index": 90,
    "image_grid_pinpoints": [[28, 28], [28, 56]],
}
SIZE = (28, 56)


def network():
    return from_config(CONFIG, seed=3)


def inputs(model):
    ids = np.random.default_rng(0).integers(0, 90, (4, 60)).astype(np.int32)
    ids[:, 2 : 2 + model.image_tokens(SIZE)] = 90
    return ids, np.random.default_rng(1).normal(size=(4, 3, 28, 28, 3)).astype(np.float32)


@jax.jit
def logits(model, ids, images):
    return model(ids, images, SIZE)


@pytest.fixture(scope="module")
def expected():
    model = network()
    return np.asarray(logits(model, *inputs(model)))


@pytest.mark.parametrize(("data", "parts"), [(1, 2), (2, 1)])
def test_two_devices_give_the_logits_of_one(data, parts, expected):
    mesh, model = make_mesh(data, parts), network()
    rows = NamedSharding(mesh, PartitionSpec("data"))
    ids, images = (jax.device_put(array, rows) for array in inputs(model))
    found = logits(shard(model, mesh), ids, images)
    assert len(found.sharding.device_set) == 2
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


FOUR_DEVICES = """
import numpy as np, jax
from jax.sharding import NamedSharding, PartitionSpec
from test_sharding import inputs, logits, make_mesh, network, shard
single = network()
expected = logits(single, *inputs(single))
for data, parts in ((2, 2), (1, 4)):
    mesh, model = make_mesh(data, parts), network()
    batch = [jax.device_put(array, NamedSharding(mesh, PartitionSpec("data"))) for array in inputs(model)]
    found = logits(shard(model, mesh), *batch)
    assert len(found.sharding.device_set) == 4
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
print("equal")
"""


def test_four_devices_give_the_logits_of_one():
    folder = str(Path(__file__).parent)
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "4", "JAX_PLATFORMS": "cpu", "PYTHONPATH": folder}
    done = subprocess.run([sys.executable, "-c", FOUR_DEVICES], env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == "equal", done.stderr


def test_every_large_weight_is_split_and_nothing_is_stored_twice():
    model = shard(network(), make_mesh(1, 2))
    for name, leaf in named_parameters(model).items():
        array = leaf[...]
        whole = name.endswith(("bias", "scale", "newline")) or "patch_embedding" in name or "position" in name
        assert array.addressable_shards[0].data.size == array.size // 2 or whole, name


@pytest.mark.parametrize(
    ("name", "shape", "spec"),
    [
        ("layers.0.attention.q_proj.kernel", (32, 32), (None, "model")),
        ("layers.0.attention.q_proj.bias", (32,), ("model",)),
        ("layers.0.attention.o_proj.kernel", (32, 32), ("model", None)),
        ("layers.0.attention.o_proj.bias", (32,), ()),
        ("layers.0.mlp.gate_proj.kernel", (32, 48), (None, "model")),
        ("layers.0.mlp.down_proj.kernel", (48, 32), ("model", None)),
        ("vision_tower.layers.0.mlp.fc1.kernel", (24, 40), (None, "model")),
        ("vision_tower.layers.0.mlp.fc2.kernel", (40, 24), ("model", None)),
        ("language_model.embed_tokens.embedding", (96, 32), ("model", None)),
        ("language_model.embed_tokens.embedding", (97, 32), ()),
        ("language_model.lm_head.kernel", (32, 96), (None, "model")),
        ("language_model.norm.scale", (32,), ()),
        ("image_newline", (32,), ()),
    ],
)
def test_blocks_open_by_columns_and_close_by_rows(name, shape, spec):
    assert partition_spec(name, shape, 2) == PartitionSpec(*spec)


def test_a_head_is_never_cut_in_two():
    mesh = jax.sharding.AbstractMesh((1, 4), ("data", "model"))
    model = network()
    specs = {name: sharding.spec for name, sharding in parameter_shardings(model, mesh).items()}
    assert specs["language_model.layers.0.attention.q_proj.kernel"] == PartitionSpec(None, "model")
    assert specs["language_model.layers.0.attention.k_proj.kernel"] == PartitionSpec()
    assert specs["vision_tower.layers.0.attention.k_proj.kernel"] == PartitionSpec()


def test_a_mesh_of_more_devices_than_there_are_is_refused():
    count = len(jax.devices())
    with pytest.raises(ValueError, match=rf"^data x model must lie in 1\.\.{count} devices, got {count} x 2\.$"):
        make_mesh(count, 2)


def test_a_mesh_without_a_model_axis_is_refused():
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("batch",))
    with pytest.raises(ValueError, match=r"^mesh must have an axis named 'model', got \('batch',\)\.$"):
        shard(network(), mesh)


def test_loading_onto_a_mesh_equals_loading_and_moving(tmp_path):
    torch_models = pytest.importorskip("torch_models")
    from hybrid_rs_jax.models import from_pretrained

    torch_models.save(torch_models.qwen2_config(), tmp_path)
    mesh = make_mesh(1, 2)
    direct, moved = from_pretrained(tmp_path, mesh=mesh), shard(from_pretrained(tmp_path), mesh)
    first, second = named_parameters(direct), named_parameters(moved)
    for name, leaf in first.items():
        assert leaf[...].sharding == second[name][...].sharding, name
        np.testing.assert_array_equal(leaf[...], second[name][...])
