"""Loading many shards needs little host memory beside the weights themselves."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

MEBI = 2**20
CONFIG = {
    "model_type": "llama",
    "hidden_size": 512,
    "intermediate_size": 2048,
    "num_hidden_layers": 5,
    "num_attention_heads": 8,
    "vocab_size": 16_384,
    "tie_word_embeddings": True,
}
SHAPES = {
    "input_layernorm": (512,),
    "post_attention_layernorm": (512,),
    **{f"self_attn.{name}_proj": (512, 512) for name in "qkvo"},
    **{f"mlp.{name}_proj": (2048, 512) for name in ("gate", "up")},
    "mlp.down_proj": (512, 2048),
}

MEASURE = """
import gc, json, sys
from hybrid_rs_jax.models import from_config, from_pretrained
from hybrid_rs_jax.models.sharding import named_parameters

def memory(field):
    lines = open("/proc/self/status").read().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field))

from_config({"model_type": "llama", "hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 2,
             "num_hidden_layers": 1, "vocab_size": 8})  # JAX allocates for itself once
gc.collect()
open("/proc/self/clear_refs", "w").write("5")
before = memory("VmRSS")
network = from_pretrained(sys.argv[1])
weights = sum(leaf[...].nbytes for leaf in named_parameters(network).values())
print(json.dumps({"weights": weights, "beside": memory("VmHWM") - before - weights}))
"""


@pytest.fixture
def shards(tmp_path):
    """Five files of random weights: one per layer, the first with the embedding."""
    random = np.random.default_rng(0)

    def draw(*shape):
        return random.standard_normal(shape, np.float32)

    files = [
        {f"model.layers.{layer}.{name}.weight": draw(*shape) for name, shape in SHAPES.items()} for layer in range(5)
    ]
    files[0] |= {"model.embed_tokens.weight": draw(16_384, 512), "model.norm.weight": draw(512)}
    index = {}
    for number, tensors in enumerate(files):
        save_file(tensors, tmp_path / f"model-{number}.safetensors")
        index |= dict.fromkeys(tensors, f"model-{number}.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    return tmp_path


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peak memory is read from Linux's /proc")
def test_the_host_never_holds_two_shards_beside_the_weights(shards):
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", MEASURE, str(shards)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found, largest = json.loads(done.stdout), max(path.stat().st_size for path in shards.glob("*.safetensors"))
    assert found["weights"] > 100 * MEBI
    assert found["beside"] < 1.8 * largest  # a second shard, or all of them, would be 2 and more
