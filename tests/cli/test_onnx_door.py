"""`--model FILE.onnx`: small files that the test itself builds, against the same rule in NumPy."""

from pathlib import Path

import numpy as np
import pytest

from hybrid_rs_jax.cli import main
from hybrid_rs_jax.results.count_files import read_counts

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
FLOAT, INT64 = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64
RULES = """
import numpy as np

def score(tokens, images):
    return images.mean((1, 2, 3)) > 0.4

def columns(tokens, images):
    means = images.mean((1, 2))
    return means.argmax(1) != 0
"""


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    Path("onnx_rules.py").write_text(RULES)
    rng = np.random.default_rng(0)
    images = 0.3 + 0.2 * rng.random((4, 5, 4, 3)).astype(np.float32)
    np.savez("a.npz", tokens=rng.integers(0, 9, (4, 6)), images=images)


def build(name, keep, batch="b", with_tokens=False):
    """Means of the pictures over some axes, with a small share of the tokens' sum where asked."""
    helper = onnx.helper
    axes = [1, 2, 3] if keep == "score" else [2, 3]
    columns = 1 if keep == "score" else 3
    axes_value = helper.make_tensor("axes", INT64, [len(axes)], axes)
    nodes = [helper.make_node("ReduceMean", ["images", "axes"], ["means"], keepdims=0)]
    inputs = [helper.make_tensor_value_info("images", FLOAT, [batch, 3, 5, 4])]
    outputs = [helper.make_tensor_value_info("means", FLOAT, [batch] if columns == 1 else [batch, columns])]
    if with_tokens:
        inputs.append(helper.make_tensor_value_info("tokens", INT64, [batch, 6]))
        nodes.append(helper.make_node("Identity", ["tokens"], ["copied"]))
        outputs.append(helper.make_tensor_value_info("copied", INT64, [batch, 6]))
    graph = helper.make_graph(nodes, "small", inputs, outputs, [axes_value])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    onnx.save(model, name)


def drawn(model, *more, out):
    noise = ["--sigma", "0.5", "--vocab-size", "9", "--samples", "150", "--batch-size", "40"]
    return main(["sample", "--model", model, "--data", "a.npz", *noise, "--out", out, *more])


@pytest.mark.parametrize("batch", ["b", 7])
def test_a_score_with_a_threshold_counts_what_the_rule_says(batch):
    build("score.onnx", "score", batch, with_tokens=True)
    assert drawn("score.onnx", "--threshold", "0.4", out="run") == 0
    assert drawn("onnx_rules:score", out="own") == 0
    found, own = read_counts(Path("run")).successes, read_counts(Path("own")).successes
    assert np.abs(found - own).max() <= 1, "two float32 means may differ at the threshold itself"
    assert 0 < own.sum() < 600
    classifier = read_counts(Path("run")).run.facts["classifier"]
    assert (classifier["output"], classifier["threshold"]) == ("means", 0.4)
    assert len(classifier["digest"]) == 64


def test_columns_are_classes_or_those_that_are_unsafe():
    build("columns.onnx", "columns")
    assert drawn("columns.onnx", out="classes") == 0
    assert drawn("columns.onnx", "--unsafe-classes", "1,2", out="run") == 0
    votes = read_counts(Path("classes")).votes
    assert votes.shape == (4, 3)
    np.testing.assert_array_equal(read_counts(Path("run")).successes, votes[:, 1:].sum(axis=1))
    assert drawn("onnx_rules:columns", out="own") == 0
    assert np.abs(read_counts(Path("own")).successes - read_counts(Path("run")).successes).max() <= 1


def test_files_that_cannot_be_used_are_one_sentence(capsys):
    build("score.onnx", "score")
    Path("broken.onnx").write_bytes(b"nothing")
    for model, more, sentence in (
        ("missing.onnx", [], "missing.onnx does not exist."),
        ("broken.onnx", [], "cannot be read as an ONNX file"),
        ("score.onnx", ["--output", "logits"], "has the outputs means, got --output logits."),
        ("score.onnx", ["--features", "pixels"], "--features means nothing to an ONNX file"),
    ):
        assert drawn(model, *more, out="run") == 2
        error = capsys.readouterr().err
        assert sentence in error
        assert error.count("\n") == 1
