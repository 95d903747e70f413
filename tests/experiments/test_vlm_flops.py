"""The analytic count of operations against the matrix products in the traced program."""

import json
import math
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from hybrid_rs_jax.models import LlavaOnevision

sys.path.insert(0, str(Path(__file__).parents[2] / "experiments"))
sys.path.insert(0, str(Path(__file__).parents[2] / "experiments" / "bench"))

import _onevision
from _vlm_flops import forward_flops


def abstract_network(shape):
    settings = LlavaOnevision.read_config(_onevision.config(shape, _onevision.words_of(shape)))
    return settings, nnx.eval_shape(lambda: LlavaOnevision(settings, rngs=nnx.Rngs(0)))


def products(jaxpr):
    """Operations of all matrix products of a traced program, inner programs included."""
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            left = equation.invars[0].aval.shape
            contracted = equation.params["dimension_numbers"][0][0]
            total += 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(left[axis] for axis in contracted)
        for value in equation.params.values():
            inner = getattr(value, "jaxpr", value)
            total += products(inner) if hasattr(inner, "eqns") else 0
    return total


def traced(network, *shapes, forward):
    arguments = [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in shapes]
    return products(jax.make_jaxpr(forward)(network, *arguments).jaxpr)


def hidden_pairs(settings, positions):
    """Operations of attention on what causality hides, in all layers but the last."""
    queries = settings.text.num_heads * settings.text.head_dim
    return 4 * (settings.text.num_layers - 1) * queries * (positions**2 - positions * (positions + 1) // 2)


@pytest.mark.parametrize(
    ("size", "views"),
    [
        ((8, 8), 1),
        ((100, 220), 3),
        pytest.param((336, 336), 10, marks=pytest.mark.slow),
    ],
)
def test_the_count_is_that_of_the_traced_network(size, views):
    settings, network = abstract_network("small")
    side, text, image = settings.vision.image_size, 17, network.image_tokens(size)

    def forward(network, words, pixels):
        features = network.image_features(pixels, size)
        decoder = network.language_model
        x = jnp.concatenate([features, decoder.embed(words)], axis=1)
        return decoder.last_hidden(x, jnp.full(1, image + text, jnp.int32))

    found = traced(network, ((1, text), jnp.int32), ((1, views, side, side, 3), jnp.float32), forward=forward)
    expected = forward_flops(settings, views, image, text, labels=0)
    positions = image + text
    # the traced attention computes all pairs, the count only those that causality lets through; but for the last layer
    assert found == expected.total + hidden_pairs(settings, positions)


def test_a_cached_prefix_costs_its_attention_alone():
    settings, network = abstract_network("small")
    rows, text, cached = 1, 23, 40

    def forward(network, words, prefix):
        decoder = network.language_model
        return decoder.last_hidden(decoder.embed(words), jnp.full(rows, text, jnp.int32), prefix)

    decoder = network.language_model
    before = jax.ShapeDtypeStruct((1, cached), jnp.int32)
    prefix = jax.eval_shape(lambda decoder, ids: decoder.extend(decoder.embed(ids)), decoder, before)
    words = jax.ShapeDtypeStruct((rows, text), jnp.int32)
    found = products(jax.make_jaxpr(forward)(network, words, prefix).jaxpr)
    expected = forward_flops(settings, 0, 0, text, cached=cached, labels=0)
    assert expected.tower == expected.projector == 0
    assert found == expected.total + hidden_pairs(settings, text)


@pytest.mark.slow
def test_published_sizes_cost_what_their_weights_say():
    settings, _ = abstract_network("0.5b")
    flops = forward_flops(settings, 1, 1485, 300)
    # two operations per weight and position: 358 million weights in the decoder's layers, 4.1e8 in the tower's
    # of the last layer only keys and values are computed for all positions
    assert flops.maps == pytest.approx(2 * 357.8e6 * (23 / 24) * 1785, rel=2e-3)
    assert flops.tower == pytest.approx(2 * 411e6 * 729, rel=0.08)


@pytest.mark.slow
def test_the_benchmark_compares_equal_decisions(tmp_path):
    pytest.importorskip("torch", reason="PyTorch is what the benchmark compares with")
    pytest.importorskip("transformers")
    import vlm

    out = tmp_path / "vlm.json"
    flags = ["--shape", "tiny", "--batch-sizes", "2", "--tiles", "1", "--repeats", "1", "--dtype", "float32"]
    assert vlm.main([*flags, "--out", str(out)]) == 0
    record = json.loads(out.read_text())
    (case,) = record["cases"]
    assert case["largest_margin_difference"] < 1e-4
    assert case["same_decisions"] == 1
    assert set(case["samples_per_second"]) == {"checkpoint", "policy_first", "torch"}
    assert record["note"] == vlm.NO_GPU


@pytest.mark.slow
def test_texts_on_one_picture_compute_nothing_twice():
    import prefix

    two, nine = (prefix.shared_prefix("tiny", budgets, text_length=16) for budgets in (2, 9))
    text = (nine.together - two.together) / 7
    picture = two.together - 2 * text
    assert picture > 2 * text > 0
    # a pass by itself also computes what causality hides of the text from the picture, and no more
    assert 0.9 < (picture + text) / (nine.apart / 9) < 1.02
    assert nine.apart / 9 == pytest.approx(two.apart / 2, rel=0.01)


@pytest.mark.slow
def test_a_frontier_of_nine_budgets_costs_at_most_1_3_passes_at_the_published_size(tmp_path, capsys):
    import prefix

    assert prefix.main(["--out", str(tmp_path / "prefix.json")]) == 0
    found = json.loads((tmp_path / "prefix.json").read_text())
    assert (found["shape"], found["budgets"]) == ("0.5b", 9)
    assert 1 < found["passes"] <= 1.3
    assert "cost 1." in capsys.readouterr().out


@pytest.mark.slow
def test_the_benchmark_of_a_card_runs_without_one_and_says_so(tmp_path):
    pytest.importorskip("torch", reason="PyTorch is what the benchmark compares with")
    pytest.importorskip("transformers")
    import gpu

    out = tmp_path / "gpu.json"
    assert gpu.main(["--shapes", "tiny", "--batch", "2", "--repeats", "1", "--out", str(out)]) == 0
    record = json.loads(out.read_text())
    (case,) = record["shapes"]
    assert record["note"] == gpu.NO_GPU
    assert set(case["copies_per_second"]) == {"ours", "ours, shared picture", "torch"}
    assert case["same_decisions"] == {"ours": 1, "torch": 1}
    assert 0 < case["largest_change_by_rounding"] < case["tie_tolerance"]
    assert all(0 < share < 1 for share in case["share_of_peak"].values())
