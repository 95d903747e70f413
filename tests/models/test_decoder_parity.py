"""Qwen2 and Llama against their PyTorch models, layer by layer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from torch_models import llama_config, qwen2_config, save, tensor, tokens, torch, without_gradients

from hybrid_rs_jax.models import from_pretrained

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
    "rope_theta": 1000.0,
}
CONFIGS = {
    "qwen2": qwen2_config(),
    "qwen2 tied": qwen2_config(tie_word_embeddings=True),
    "qwen2 with a million for theta": qwen2_config(rope_parameters={"rope_type": "default", "rope_theta": 1e6}),
    "llama": llama_config(),
    "llama tied": llama_config(tie_word_embeddings=True),
    "llama with biases and wide heads": llama_config(attention_bias=True, mlp_bias=True, head_dim=12),
    "llama 3 frequencies": llama_config(rope_parameters=LLAMA3, head_dim=32),
    "llama with linear scaling": llama_config(
        rope_parameters={"rope_type": "linear", "factor": 3.0, "rope_theta": 10_000.0}
    ),
}


@jax.jit
def stages(model, ids):
    embeddings = model.embed(ids)
    states = model.hidden_states(embeddings)
    return [*states[:-1], model.hidden(embeddings)], model(embeddings)


@pytest.mark.parametrize("name", CONFIGS)
@without_gradients
def test_every_layer_and_the_logits_equal_the_reference(name, tmp_path):
    reference, model = save(CONFIGS[name], tmp_path), from_pretrained(tmp_path)
    ids = tokens(3, 40)
    expected = reference(tensor(ids), output_hidden_states=True)
    states, logits = stages(model, jnp.asarray(ids))
    assert len(states) == 3
    for found, wanted in zip(states, expected.hidden_states, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5)
    assert abs(expected.logits).max() > 1
    np.testing.assert_allclose(logits, expected.logits, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["qwen2", "llama tied"])
@without_gradients
def test_a_batch_of_unequal_prompts_equals_the_reference(name, tmp_path):
    reference, model = save(CONFIGS[name], tmp_path), from_pretrained(tmp_path)
    ids, lengths = tokens(4, 24), np.array([24, 3, 11, 1], np.int32)
    mask = torch.tensor(np.arange(24) < lengths[:, None]).long()
    logits = reference(tensor(ids), attention_mask=mask).logits.numpy()
    expected = np.stack([row[n - 1] for row, n in zip(logits, lengths, strict=True)])
    found = jax.jit(lambda model, ids, lengths: model.last_logits(model.embed(ids), lengths))(model, ids, lengths)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_bfloat16_stays_near_the_reference(tmp_path):
    reference = save(qwen2_config(), tmp_path)
    ids = tokens(2, 16)
    with torch.no_grad():
        expected = reference(tensor(ids)).logits.numpy()
    model = from_pretrained(tmp_path, dtype=jnp.bfloat16)
    assert model.lm_head.kernel[...].dtype == jnp.bfloat16
    found = stages(model, jnp.asarray(ids))[1]
    assert found.dtype == jnp.float32
    assert np.abs(found - expected).max() < 0.03 * np.abs(expected).max()


def test_weights_in_bfloat16_can_compute_in_float32(tmp_path):
    save(qwen2_config(), tmp_path)
    wide = from_pretrained(tmp_path, param_dtype=jnp.bfloat16)
    assert wide.layers[0].mlp.up_proj.kernel[...].dtype == jnp.bfloat16
    assert stages(wide, jnp.asarray(tokens(1, 4)))[0][-1].dtype == jnp.float32


def test_half_precision_weights_on_disk_are_read_exactly(tmp_path):
    reference = save(qwen2_config(), tmp_path / "full")
    reference.to(torch.bfloat16).save_pretrained(tmp_path / "half")
    model = from_pretrained(tmp_path / "half")
    expected = reference.lm_head.weight.detach().float().numpy().T
    np.testing.assert_array_equal(model.lm_head.kernel[...], expected)


@pytest.mark.parametrize("options", [{"dtype": jnp.float16}, {"param_dtype": jnp.int8}])
def test_other_dtypes_are_refused(options, tmp_path):
    save(qwen2_config(), tmp_path)
    with pytest.raises(ValueError, match=r"^(param_)?dtype must be float32 or bfloat16, got (float16|int8)\.$"):
        from_pretrained(tmp_path, **options)
