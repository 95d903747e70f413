"""SigLIP and CLIP against their PyTorch models, stage by stage."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from torch_models import clip_config, pixels, save, siglip_config, tensor, without_gradients

from hybrid_rs_jax.models import from_pretrained

CONFIGS = {
    "siglip": siglip_config(),
    "siglip with a strip of pixels left over": siglip_config(patch_size=9),
    "siglip with exact gelu": siglip_config(hidden_act="gelu"),
    "clip": clip_config(),
    "clip with another epsilon": clip_config(layer_norm_eps=1e-3),
}


@pytest.mark.parametrize("name", CONFIGS)
@without_gradients
def test_patches_and_every_layer_equal_the_reference(name, tmp_path):
    reference, images = save(CONFIGS[name], tmp_path), pixels(3)
    model = from_pretrained(tmp_path)
    expected = reference(tensor(images), output_hidden_states=True).hidden_states
    states, patches = jax.jit(lambda model, x: (model.hidden_states(x), model.patch_embedding(x)))(model, images)
    assert len(states) == 4
    for found, wanted in zip(states, expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5)
    wanted = reference.embeddings.patch_embedding(tensor(images)).flatten(2).transpose(1, 2)
    np.testing.assert_allclose(patches, wanted, rtol=0, atol=1e-5)


def test_pixels_of_another_size_are_refused(tmp_path):
    save(siglip_config(), tmp_path)
    with pytest.raises(ValueError, match=r"^pixels must have shape \[tiles, 28, 28, 3\], got \(1, 28, 21, 3\)\.$"):
        from_pretrained(tmp_path)(jnp.zeros((1, 28, 21, 3)))
