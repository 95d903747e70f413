"""LLaVA-OneVision and LLaVA-1.5 against their PyTorch models: features, projector, packing, logits."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from torch_models import (
    IMAGE_TOKEN,
    llama_config,
    llava_config,
    onevision_config,
    pixels,
    qwen2_config,
    save,
    siglip_config,
    tensor,
    tokens,
    torch,
    without_gradients,
)

from hybrid_rs_jax.models import from_pretrained

SIZES = {  # height and width of the picture, and the tiles that it is cut into
    (28, 28): (1, 1),
    (50, 50): (2, 2),
    (28, 80): (1, 3),
    (97, 41): (4, 2),
    (90, 100): (4, 4),
}


@pytest.fixture(scope="module")
def onevision(tmp_path_factory):
    folder = tmp_path_factory.mktemp("onevision")
    return save(onevision_config(), folder), from_pretrained(folder)


@functools.partial(jax.jit, static_argnums=3)
def stages(model, ids, images, size):
    views = images.reshape(-1, *images.shape[2:])
    features = model.image_features(images, size)
    logits = model.language_model(model.embed(ids, features))
    return model.vision_tower(views), model.encode(views), features, logits


@without_gradients
def reference_stages(model, ids, images, size):
    states = model.model.vision_tower(tensor(images.reshape(-1, *images.shape[2:])), output_hidden_states=True)
    tower = states.hidden_states[-1]
    sizes = torch.tensor([size] * len(images))
    features = model.model.get_image_features(tensor(images), sizes).pooler_output
    logits = model(tensor(ids), pixel_values=tensor(images), image_sizes=sizes).logits
    return tower, model.model.multi_modal_projector(tower), torch.stack(features), logits


def assert_stages_equal(reference, model, size):
    count = model.image_tokens(size)
    images, ids = pixels(2, 1 + model.plan(size).tiles), tokens(2, count + 9, image_tokens=count)
    found, expected = stages(model, ids, images, size), reference_stages(reference, ids, images, size)
    assert found[2].shape[1] == count
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "size", [pytest.param(size, marks=[pytest.mark.slow] if size in ((50, 50), (97, 41)) else []) for size in SIZES]
)
def test_onevision_equals_the_reference_from_tower_to_logits(onevision, size):
    plan = onevision[1].plan(size)
    assert (plan.rows, plan.columns) == SIZES[size]
    assert_stages_equal(*onevision, size)


def test_onevision_with_tied_embeddings_equals_the_reference(tmp_path):
    config = onevision_config(qwen2_config(num_hidden_layers=1, tie_word_embeddings=True), tie_word_embeddings=True)
    reference, model = save(config, tmp_path), from_pretrained(tmp_path)
    assert not hasattr(model.language_model, "lm_head")
    assert_stages_equal(reference, model, (28, 28))


@pytest.mark.parametrize(
    ("limit", "size"),
    [
        (3, (60, 110)),
        pytest.param(1, (112, 112), marks=pytest.mark.slow),
        pytest.param(5, (111, 84), marks=pytest.mark.slow),
        pytest.param(9, (112, 112), marks=pytest.mark.slow),
    ],
)
@without_gradients
def test_features_of_too_many_tiles_are_resized_as_in_the_reference(limit, size, tmp_path):
    reference = save(onevision_config(vision_aspect_ratio=f"anyres_max_{limit}"), tmp_path)
    model = from_pretrained(tmp_path)
    plan = model.plan(size)
    assert plan.resized
    images = pixels(1, 1 + plan.tiles)
    expected = reference.model.get_image_features(tensor(images), torch.tensor([size])).pooler_output
    found = jax.jit(lambda model, images: model.image_features(images, size))(model, images)
    np.testing.assert_allclose(found[0], expected[0], rtol=0, atol=1e-5)


def test_a_view_that_is_also_the_only_tile_is_encoded_once(onevision):
    _, model = onevision
    image = jnp.asarray(pixels(2, 1))
    encode = jax.jit(lambda model, views: model.image_features(views, (28, 28)))
    once, twice = encode(model, image), encode(model, jnp.concatenate([image, image], axis=1))
    np.testing.assert_allclose(once, twice, rtol=0, atol=1e-6)


def test_onevision_refuses_views_that_do_not_fit_the_picture(onevision):
    _, model = onevision
    with pytest.raises(ValueError, match=r"^Pictures of size \(28, 80\) take 4 views \(.*1 x 3 tiles\), got 3\.$"):
        model.image_features(jnp.asarray(pixels(1, 3)), (28, 80))
    with pytest.raises(ValueError, match=r"^image_size must be .*, got None\.$"):
        model.image_features(jnp.asarray(pixels(1, 3)))


LLAVA = {
    "clip and llama": llava_config(),
    "last layer but two": llava_config(vision_feature_layer=-3),
    "layer counted from the input": llava_config(vision_feature_layer=1),
    "several feature layers": llava_config(vision_feature_layer=[-1, -3]),
    "class token kept": llava_config(vision_feature_select_strategy="full"),
    "no projector bias": llava_config(multimodal_projector_bias=False),
    "tied": llava_config(text=llama_config(num_hidden_layers=1, tie_word_embeddings=True), tie_word_embeddings=True),
    "siglip and qwen2": llava_config(
        siglip_config(), qwen2_config(num_hidden_layers=1), vision_feature_select_strategy="full"
    ),
}


FAST = ("clip and llama", "several feature layers", "siglip and qwen2")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in FAST else [pytest.mark.slow]) for name in LLAVA]
)
@without_gradients
def test_llava_equals_the_reference_from_projector_to_logits(name, tmp_path):
    reference = save(LLAVA[name], tmp_path)
    model, images = from_pretrained(tmp_path), pixels(3, 1)
    expected = torch.stack(reference.model.get_image_features(tensor(images[:, 0])).pooler_output)
    assert model.image_tokens((480, 640)) == expected.shape[1]

    ids, lengths = tokens(3, 40, image_tokens=expected.shape[1]), np.array([40, 30, 22], np.int32)
    mask = torch.tensor(np.arange(40) < lengths[:, None]).long()
    logits = reference(tensor(ids), pixel_values=tensor(images[:, 0]), attention_mask=mask).logits
    *_, features, found = stages(model, ids, images, None)
    np.testing.assert_allclose(features, expected, rtol=0, atol=1e-5)
    for row, length in enumerate(lengths):
        np.testing.assert_allclose(found[row, :length], logits[row, :length], rtol=0, atol=1e-5)


def test_layers_behind_the_feature_layer_are_not_built(tmp_path):
    save(LLAVA["last layer but two"], tmp_path)
    assert len(from_pretrained(tmp_path).vision_tower.layers) == 1


def test_llava_refuses_several_views(tmp_path):
    save(LLAVA["clip and llama"], tmp_path)
    with pytest.raises(ValueError, match=r"^pixels must hold one view per picture, got 2\.$"):
        from_pretrained(tmp_path).image_features(jnp.asarray(pixels(1, 2)))


@pytest.fixture(scope="module")
def llava(tmp_path_factory):
    folder = tmp_path_factory.mktemp("llava")
    save(LLAVA["clip and llama"], folder)
    return from_pretrained(folder)


def test_one_picture_serves_a_whole_batch(llava):
    ids = jnp.asarray(tokens(4, 30, image_tokens=16))
    features = llava.image_features(jnp.asarray(pixels(1, 1)))
    embed = jax.jit(lambda model, ids, features: model.embed(ids, features))
    shared = embed(llava, ids, features)
    np.testing.assert_array_equal(shared, embed(llava, ids, jnp.repeat(features, 4, axis=0)))
    np.testing.assert_array_equal(shared[:, 2:18], jnp.repeat(features, 4, axis=0))


def test_a_placeholder_among_the_noise_cannot_move_the_picture(llava):
    ids = tokens(2, 30, image_tokens=16, start=5)
    features = llava.image_features(jnp.asarray(pixels(1, 1)))
    noisy = ids.copy()
    noisy[1, [0, 3, 25]] = IMAGE_TOKEN
    embeddings = llava.embed(jnp.asarray(noisy), features, image_start=5)
    np.testing.assert_array_equal(embeddings[1, 5:21], features[0])
    words = llava.language_model.embed(jnp.asarray(noisy))
    np.testing.assert_array_equal(embeddings[1, [0, 3, 25]], words[1, [0, 3, 25]])
    np.testing.assert_array_equal(llava.embed(jnp.asarray(ids), features)[0], embeddings[0])


@pytest.mark.parametrize("start", [-1, 15])
def test_a_picture_that_does_not_fit_in_the_text_is_refused(llava, start):
    features = llava.image_features(jnp.asarray(pixels(1, 1)))
    with pytest.raises(ValueError, match=rf"^image_start must lie in 0\.\.14 .*got {start}\.$"):
        llava.embed(jnp.asarray(tokens(1, 30)), features, image_start=start)


def test_the_whole_network_compiles_once_for_all_pictures_and_texts(llava):
    traces = []

    @jax.jit
    def classify(model, ids, images):
        traces.append(1)
        embeddings = model.embed(ids, model.image_features(images), image_start=2)
        return model.language_model.last_logits(embeddings, jnp.full(ids.shape[0], ids.shape[1]))

    first, second = (
        classify(llava, jnp.asarray(tokens(2, 30, seed)), jnp.asarray(pixels(2, 1, seed=seed))) for seed in (0, 1)
    )
    assert len(traces) == 1
    assert np.abs(first - second).max() > 0.1


@without_gradients
def test_the_base_view_alone_is_what_torch_makes_of_each_of_several_pictures(onevision):
    reference, model = onevision
    views = pixels(2, 1)
    sizes = torch.tensor([[28, 28], [50, 90]])
    several = {"batch_num_images": torch.tensor([2])}
    expected = torch.stack(reference.model.get_image_features(tensor(views), sizes, **several).pooler_output)
    found = model.base_features(jnp.asarray(views))
    assert found.shape[1] == model.config.vision.image_size**2 // model.config.vision.patch_size**2 + 1
    np.testing.assert_allclose(found, expected.numpy(), rtol=0, atol=2e-5)
