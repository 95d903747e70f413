"""Image processing inside the graph against the checkpoints' own processors and against Pillow in floats."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from hybrid_rs_jax.models._anyres import tile_plan
from hybrid_rs_jax.models._resize import FILTERS, crop_matrix, resize_matrix
from hybrid_rs_jax.models.image_processing import ImagePreprocessor

PILLOW = {"lanczos": 1, "bilinear": 2, "bicubic": 3}
SIZES = [(48, 48), (33, 70), (90, 41), (2, 2), (5, 31), (31, 480)]
PINPOINTS = [[32 * rows, 32 * columns] for rows in range(1, 4) for columns in range(1, 4)]
SIGLIP = {"image_processor_type": "SiglipImageProcessor"}

sizes = st.integers(1, 300)
methods = st.sampled_from(sorted(FILTERS))


# The weights


@given(sizes, sizes, methods)
def test_weights_of_every_pixel_sum_to_one(size, new_size, method):
    matrix = resize_matrix(size, new_size, method)
    assert matrix.shape == (new_size, size)
    np.testing.assert_allclose(matrix.sum(1), 1, rtol=1e-14)


@given(sizes, sizes, methods)
def test_weights_are_those_of_pillow_in_floats(size, new_size, method):
    impulses = np.asarray(Image.fromarray(np.eye(size, dtype=np.float32)).resize((size, new_size), PILLOW[method]))
    np.testing.assert_allclose(resize_matrix(size, new_size, method), impulses, rtol=0, atol=1e-6)


@given(sizes, methods)
def test_equal_sizes_change_nothing(size, method):
    np.testing.assert_array_equal(resize_matrix(size, size, method), np.eye(size))


def test_crop_takes_the_pixels_from_start_and_black_beyond():
    np.testing.assert_array_equal(crop_matrix(5, 1, 3) @ np.arange(5), [1, 2, 3])
    np.testing.assert_array_equal(crop_matrix(3, -2, 6) @ np.arange(1, 4), [0, 0, 1, 2, 3, 0])


# Parity with the processors of the checkpoints


def processors():
    """Name, processor of the library, its settings: small ones, so that many image sizes can be tried."""
    clip = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    return {
        "clip": ("CLIPImageProcessor", clip),
        "clip-larger-crop": ("CLIPImageProcessor", {**clip, "crop_size": {"height": 45, "width": 20}}),
        "llava": ("LlavaImageProcessor", clip),
        "llava-padded": ("LlavaImageProcessor", {**clip, "do_pad": True}),
        "siglip": ("SiglipImageProcessor", {"size": {"height": 32, "width": 40}}),
        "siglip-bilinear": ("SiglipImageProcessor", {"size": {"height": 32, "width": 32}, "resample": 2}),
        "onevision": (
            "LlavaOnevisionImageProcessor",
            {"size": {"height": 32, "width": 32}, "image_grid_pinpoints": PINPOINTS},
        ),
        "gemma3": ("Gemma3ImageProcessor", {"size": {"height": 32, "width": 32}}),
        "next": ("LlavaNextImageProcessor", {**clip, "image_grid_pinpoints": PINPOINTS}),
        "onevision-few": (
            "LlavaOnevisionImageProcessor",
            {"size": {"height": 32, "width": 32}, "image_grid_pinpoints": [[64, 32], [32, 128], [160, 160]]},
        ),
    }


@pytest.fixture(scope="module", params=sorted(processors()))
def pair(request, tmp_path_factory):
    """The library's processor, and ours read from the files that it saves."""
    transformers = pytest.importorskip("transformers")
    name, options = processors()[request.param]
    theirs = getattr(transformers, f"{name}Pil", None) or getattr(transformers, name)
    theirs = theirs(**options)
    folder = tmp_path_factory.mktemp(request.param)
    theirs.save_pretrained(folder)
    return theirs, ImagePreprocessor.from_pretrained(folder)


def photograph(height, width, low=0, high=255, seed=0):
    """A picture with edges, gradients and grain, and with values of all of low..high."""
    rng = np.random.default_rng([seed, height, width])
    y, x = np.mgrid[:height, :width] / max(height, width)
    waves = np.stack([np.sin(9 * x + 4 * y * c) + (np.hypot(x - 0.4, y - 0.3) < 0.2) for c in (1, 2, 3)], axis=-1)
    picture = waves + 0.4 * rng.standard_normal(waves.shape)
    picture = (picture - picture.min()) / max(np.ptp(picture), 1e-9)
    return np.round(low + (high - low) * picture).astype(np.uint8)


def library_pixels(theirs, picture):
    """The library's views [T, h, w, 3], normalised, with channels last."""
    values = np.asarray(theirs(Image.fromarray(picture), return_tensors="np")["pixel_values"])[0]
    return np.moveaxis(values if values.ndim == 4 else values[None], -3, -1)


def our_pixels(plan, picture):
    return jax.jit(plan.__call__)(picture[None].astype(np.float32) / 255)[0]


def levels(plan, views):
    """Pixel values before normalisation, in 8-bit levels."""
    return (np.asarray(views, np.float64) * plan.settings.std + plan.settings.mean) * 255


@pytest.mark.parametrize("size", SIZES)
def test_clean_images_are_within_one_level_of_the_library(pair, size):
    """Without overshoot beyond black and white, all that differs is the library's rounding, twice by half a level."""
    theirs, ours = pair
    picture, plan = photograph(*size, low=90, high=165), ours.plan(*size)
    expected = levels(plan, library_pixels(theirs, picture))
    found = levels(plan, our_pixels(plan, picture))
    assert found.shape == expected.shape == (plan.views, *plan.view_size, 3)
    assert np.abs(np.round(found) - np.round(expected)).max() <= 1
    assert np.abs(found - expected).mean() < 0.4


def test_the_real_grid_of_tiles_agrees_with_the_library():
    transformers = pytest.importorskip("transformers")
    kind = getattr(transformers, "LlavaOnevisionImageProcessorPil", None) or transformers.LlavaOnevisionImageProcessor
    theirs, ours = kind(), ImagePreprocessor.from_config({"image_processor_type": "LlavaOnevisionImageProcessor"})
    grids = {}
    for size in ((384, 384), (500, 375), (240, 800), (1000, 300)):
        plan, picture = ours.plan(*size), photograph(*size, low=90, high=165)
        expected = levels(plan, library_pixels(theirs, picture))
        assert np.abs(np.round(levels(plan, our_pixels(plan, picture))) - np.round(expected)).max() <= 1
        grids[size] = plan.grid
    assert grids == {(384, 384): (1, 1), (500, 375): (2, 1), (240, 800): (1, 3), (1000, 300): (3, 1)}


@pytest.mark.parametrize("size", [(50, 50), (31, 480), (7, 3), (1, 1), (1024, 768)])
def test_tiles_are_those_of_pillow_in_floats(size):
    """Pixels of noise, far outside of [0, 1]: nothing is rounded or clipped."""
    content = {"image_processor_type": "LlavaOnevisionImageProcessor", "size": 48, "do_normalize": False}
    pinpoints = [[48, 48], [96, 48], [48, 96], [144, 48], [48, 144], [96, 96]]
    plan = ImagePreprocessor.from_config({**content, "image_grid_pinpoints": pinpoints}).plan(*size)
    noise = np.random.default_rng(size).normal(0.5, 1, (*size, 3)).astype(np.float32)
    height, width = plan.best_resolution
    scale = min(height / size[0], width / size[1])
    inner = [min(int(np.ceil(edge * scale)), most) for edge, most in zip(size, (height, width), strict=True)]
    canvas = np.zeros((height, width, 3))
    top, left = (height - inner[0]) // 2, (width - inner[1]) // 2
    canvas[top : top + inner[0], left : left + inner[1]] = float_resized(noise, *inner)
    tiles = [canvas[y : y + 48, x : x + 48] for y in range(0, height, 48) for x in range(0, width, 48)]
    expected = np.stack([float_resized(noise, 48, 48), *tiles])
    np.testing.assert_allclose(plan(noise[None])[0], expected, rtol=0, atol=1e-4)


def float_resized(image, height, width):
    channels = [Image.fromarray(channel).resize((width, height), 3) for channel in np.moveaxis(image, -1, 0)]
    return np.stack([np.asarray(channel) for channel in channels], axis=-1)


@pytest.mark.parametrize(("size", "new_size"), [((90, 41), (32, 32)), ((20, 33), (64, 50)), ((300, 500), (37, 90))])
def test_resizing_is_within_one_level_of_torch(size, new_size):
    """The kernel behind the library's torchvision processors."""
    torch = pytest.importorskip("torch")
    picture = photograph(*size, low=90, high=165)
    tensor = torch.from_numpy(np.moveaxis(picture, -1, 0).copy())[None]
    expected = torch.nn.functional.interpolate(tensor, new_size, mode="bicubic", antialias=True)[0].numpy()
    plan = ImagePreprocessor.from_config({**SIGLIP, "size": list(new_size)}).plan(*size)
    found = levels(plan, our_pixels(plan, picture))[0]
    assert np.abs(np.round(found) - np.moveaxis(expected, 0, -1)).max() <= 1


# One graph: jit, gradients, noise


@pytest.fixture(scope="module")
def plan():
    content = {"image_processor_type": "LlavaOnevisionImageProcessor", "size": 24, "image_grid_pinpoints": [[48, 24]]}
    return ImagePreprocessor.from_config(content).plan(40, 30)


def test_jit_equals_eager(plan):
    images = np.random.default_rng(0).normal(size=(3, 40, 30, 3)).astype(np.float32)
    np.testing.assert_allclose(jax.jit(plan.__call__)(images), plan(images), rtol=0, atol=1e-5)


def test_an_image_does_not_depend_on_its_batch(plan):
    images = np.random.default_rng(0).normal(size=(3, 40, 30, 3)).astype(np.float32)
    np.testing.assert_allclose(plan(images)[1:2], plan(images[1:2]), rtol=0, atol=1e-5)


def test_pixels_outside_of_0_to_1_are_kept(plan):
    """Affine: the views of a + b - c are those of a, plus those of b, minus those of c."""
    a, b, c = 5 * np.random.default_rng(1).normal(size=(3, 1, 40, 30, 3)).astype(np.float32)
    np.testing.assert_allclose(plan(a + b - c), plan(a) + plan(b) - plan(c), rtol=0, atol=1e-3)


def test_gradient_is_the_slope(plan):
    rng = np.random.default_rng(2)
    images, step = (rng.normal(size=(1, 40, 30, 3)).astype(np.float32) for _ in range(2))
    weights = rng.normal(size=plan(images).shape).astype(np.float32)
    gradient = jax.grad(lambda pixels: (plan(pixels) * weights).sum())(jnp.asarray(images))
    rise = float(((np.asarray(plan(images + step), np.float64) - plan(images)) * weights).sum())
    assert float((gradient * step).sum()) == pytest.approx(rise, rel=1e-4, abs=1e-2)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_views_are_float32_for_every_float(plan, dtype):
    assert plan(jnp.full((1, 40, 30, 3), 0.5, dtype)).dtype == jnp.float32


# Views that need to be encoded only once


@pytest.mark.parametrize(
    ("size", "identical"), [((32, 32), True), ((200, 200), True), ((32, 30), False), ((64, 128), False)]
)
def test_one_tile_that_shows_the_whole_image_is_recognised(size, identical):
    pinpoints = [[32, 32]] if size != (64, 128) else [[32, 64]]
    content = {"image_processor_type": "LlavaOnevisionImageProcessor", "size": 32, "image_grid_pinpoints": pinpoints}
    plan = ImagePreprocessor.from_config(content).plan(*size)
    assert plan.views_are_identical is identical
    images = np.random.default_rng(0).random((2, *size, 3), np.float32)
    views = np.asarray(plan(images))
    assert views.shape[1] == plan.views
    assert (plan.views == 2 and np.array_equal(views[:, 0], views[:, 1])) is identical
    np.testing.assert_array_equal(plan.distinct(images), views[:, :1] if identical else views)


def test_without_tiles_there_is_one_view_and_no_grid():
    plan = ImagePreprocessor.from_config(SIGLIP).plan(100, 50)
    assert (plan.views, plan.grid, plan.best_resolution, plan.views_are_identical) == (1, None, None, False)
    assert plan.image_size == (100, 50)


@pytest.mark.parametrize("size", [(384, 384), (500, 375), (240, 800), (1000, 300), (2000, 1999)])
def test_the_network_expects_the_same_grid(size):
    plan = ImagePreprocessor.from_config({"image_processor_type": "LlavaOnevisionImageProcessor"}).plan(*size)
    tiles = tile_plan(plan.image_size, plan.settings.pinpoints, plan.view_size[0], 14, None)
    assert plan.grid == (tiles.rows, tiles.columns)
    assert plan.best_resolution == (384 * tiles.rows, 384 * tiles.columns)


# Settings of every generation


def same_plan(*contents):
    """True when all settings process an image alike."""
    picture = photograph(70, 50)[None].astype(np.float32) / 255
    found = [np.asarray(ImagePreprocessor.from_config(content).plan(70, 50)(picture)) for content in contents]
    return all(np.array_equal(found[0], other) for other in found)


def test_numbers_of_old_files_are_edges():
    old = {"feature_extractor_type": "CLIPFeatureExtractor", "size": 40, "crop_size": 40, "resample": 3}
    new = {
        "image_processor_type": "CLIPImageProcessor",
        "size": {"shortest_edge": 40},
        "crop_size": {"height": 40, "width": 40},
    }
    assert same_plan(old, new, {**new, "image_processor_type": "CLIPImageProcessorFast"})


def test_settings_inside_a_processor_config_come_first(tmp_path):
    inner = {**SIGLIP, "size": {"height": 20, "width": 30}}
    (tmp_path / "processor_config.json").write_text(json.dumps({"processor_class": "X", "image_processor": inner}))
    assert ImagePreprocessor.from_pretrained(tmp_path).plan(9, 9).view_size == (20, 30)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(SIGLIP))
    assert ImagePreprocessor.from_pretrained(str(tmp_path)).plan(9, 9).view_size == (20, 30)
    (tmp_path / "processor_config.json").write_text(json.dumps({"processor_class": "X"}))
    assert ImagePreprocessor.from_pretrained(tmp_path).plan(9, 9).view_size == (224, 224)


def test_steps_can_be_switched_off():
    off = {"do_resize": False, "do_center_crop": False, "do_normalize": False}
    plan = ImagePreprocessor.from_config({"image_processor_type": "CLIPImageProcessor", **off}).plan(5, 7)
    picture = np.random.default_rng(0).random((1, 5, 7, 3), np.float32)
    np.testing.assert_allclose(plan(picture)[:, 0], picture, rtol=1e-6)
    plain = ImagePreprocessor.from_config(
        {"image_processor_type": "CLIPImageProcessor", **off, "do_rescale": False}
    ).plan(5, 7)
    np.testing.assert_allclose(plain(picture)[:, 0], 255 * picture, rtol=1e-6)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"image_processor_type": "Idefics3ImageProcessor"}, "'Idefics3ImageProcessor'"),
        ({"image_processor_type": None}, "nothing"),
        ({"size": {"longest_edge": 3}}, "longest_edge"),
        ({"size": 0}, "0"),
        ({"size": True}, "True"),
        ({"size": [1, 2, 3]}, r"\[1, 2, 3\]"),
        ({"size": {"height": 10.5, "width": 3}}, "10.5"),
        ({"resample": 0}, "0"),
        ({"image_mean": [0.5, 0.5]}, r"\[0.5, 0.5\]"),
        ({"image_std": [0.5, 0.0, 0.5]}, r"\[0.5, 0.0, 0.5\]"),
        ({"image_mean": "grey"}, "'grey'"),
        ({"rescale_factor": float("nan")}, "NaN"),
        ({"do_center_crop": True}, "crop_size"),
        ({"do_resize": "yes"}, "'yes'"),
    ],
)
def test_bad_settings_raise_one_sentence_with_file_and_value(tmp_path, change, words):
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({**SIGLIP, **change}))
    with pytest.raises(ValueError, match=rf"^[^\n]*preprocessor_config.json[: ][^\n]*{words}[^\n]*\.$"):
        ImagePreprocessor.from_pretrained(tmp_path)


@pytest.mark.parametrize("content", ["{", "[]", '"text"'])
def test_broken_files_raise_one_sentence(tmp_path, content):
    (tmp_path / "preprocessor_config.json").write_text(content)
    with pytest.raises(ValueError, match=r"^[^\n]*preprocessor_config.json [^\n]*\.$"):
        ImagePreprocessor.from_pretrained(tmp_path)


def test_a_folder_without_settings_raises_one_sentence(tmp_path):
    with pytest.raises(ValueError, match=r"expected a preprocessor_config.json\.$"):
        ImagePreprocessor.from_pretrained(tmp_path)


@pytest.mark.parametrize("size", [(0, 5), (5, -1), (1, 51), (5100, 100)])
def test_illegal_image_sizes_raise_one_sentence_with_the_size(size):
    with pytest.raises(ValueError, match=rf"^[^\n]*got {size[0]} x {size[1]}\.$"):
        ImagePreprocessor.from_config(SIGLIP).plan(*size)


def test_images_of_another_size_than_the_plan_raise_one_sentence(plan):
    with pytest.raises(ValueError, match=r"^[^\n]*\(batch, 40, 30, 3\)[^\n]*\(1, 30, 40, 3\)\.$"):
        plan(np.zeros((1, 30, 40, 3), np.float32))


@pytest.mark.parametrize("size", [(32, 32), (40, 25), (25, 61)])
def test_the_base_view_is_what_the_library_makes_of_each_of_several_pictures(pair, size):
    theirs, ours = pair
    if ours.settings.family != "LlavaOnevision":
        with pytest.raises(ValueError, match="views must be checkpoint for the image processor of"):
            ours.base_view()
        return
    picture = photograph(*size)
    both = [Image.fromarray(picture), Image.fromarray(photograph(30, 30))]
    expected = np.asarray(theirs([both], return_tensors="np")["pixel_values"][0])
    expected = np.moveaxis(expected.reshape(-1, *expected.shape[-3:])[:1], -3, -1)
    plan = ours.base_view().plan(*size)
    assert (plan.views, plan.alone, plan.views_are_identical) == (1, True, False)
    np.testing.assert_allclose(our_pixels(plan, picture), expected, rtol=0, atol=3 / 255 / min(ours.settings.std))
