"""Records of certificates, their files, and the noise that they name."""

import csv
import json

import numpy as np
import pytest
from hybrid_rs_jax.results.certificates import certificate_record, read_certificates, write_certificates
from hybrid_rs_jax.results.words import deployment_text, guarantee_text, threat_model

import hybrid_rs_jax as hrs
from hybrid_rs_jax._files import write_json
from hybrid_rs_jax.errors import BadInputError
from hybrid_rs_jax.kernels.record import build_smoothing, describe_smoothing, smoothing_text

UNIFORM = hrs.UniformKernel(0.25, 512)


@pytest.fixture(scope="module")
def record():
    certificate = hrs.certify([100, 60], 100, hrs.HybridSmoothing(UNIFORM, 0.5), tau=0.01, alpha=0.01, budgets=range(3))
    return certificate_record(certificate, ["a", "b, c"], certificate.needed_samples().tolist())


def test_statement_holds_everything_that_the_guarantee_depends_on(record):
    statement = record["statement"]
    assert (statement["kernel"], statement["beta"], statement["vocab_size"]) == ("uniform", 0.25, 512)
    assert (statement["sigma"], statement["tau"], statement["alpha"]) == (0.5, 0.01, 0.01)
    assert (statement["budgets"], statement["max_budget"], statement["simultaneous"]) == ([0, 1, 2], 2, True)
    assert "SMOOTHED" in statement["guarantee"]
    assert "99 %" in statement["guarantee"]
    assert "insertion" in statement["threat_model"]
    assert statement["package"] == f"hybrid_rs_jax {hrs.__version__}"


@pytest.mark.parametrize(
    "smoothing",
    [
        hrs.HybridSmoothing(UNIFORM, 0.5),
        hrs.HybridSmoothing(UNIFORM, None),
        hrs.HybridSmoothing(None, 2.0),
        hrs.HybridSmoothing(hrs.AbsorbingKernel(0.5, mask_token=3), 0.25),
        hrs.HybridSmoothing(hrs.CategoricalKernel(0.25, (2, 5)), 0.25),
        hrs.HybridSmoothing(hrs.CategoricalKernel((0.25, 0.5), (2, 5)), None),
    ],
)
def test_smoothing_survives_json(smoothing):
    record = json.loads(json.dumps(describe_smoothing(smoothing)))
    assert build_smoothing(record) == smoothing
    assert smoothing_text(record)


@pytest.mark.parametrize(
    ("record", "sentence"),
    [
        ({"kernel": "gaussian", "sigma": 1}, "kernel must be uniform, absorbing, categorical or none, got 'gaussian'"),
        ({"kernel": "uniform", "beta": 0.5, "sigma": 1}, "needs vocab_size"),
        ({"kernel": "none", "sigma": None}, "certifies nothing"),
        ({"kernel": "uniform", "beta": 2, "vocab_size": 5, "sigma": 1}, r"beta must lie in \[0, 1\], got 2"),
        ({"kernel": "uniform", "beta": {}, "vocab_size": 5, "sigma": 1}, "wrong type"),
        ({"kernel": "absorbing", "beta": 0.5, "sigma": -1}, "sigma must be positive"),
    ],
)
def test_bad_noise_is_refused(record, sentence):
    with pytest.raises(BadInputError, match=sentence):
        build_smoothing(record)


def test_json_round_trip_is_exact(record, tmp_path):
    write_certificates(tmp_path / "a.json", record, ".json")
    assert read_certificates(tmp_path / "a.json") == record


def test_csv_and_parquet_hold_every_digit(record, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    write_certificates(tmp_path / "a.csv", record, ".csv")
    write_certificates(tmp_path / "a.parquet", record, ".parquet")
    rows = list(csv.DictReader((tmp_path / "a.csv").read_text().splitlines()))
    table = parquet.read_table(tmp_path / "a.parquet")
    assert json.loads(table.schema.metadata[b"statement"]) == record["statement"]
    for row, other, wanted in zip(rows, table.to_pylist(), record["certificates"], strict=True):
        assert row["id"] == other["id"] == wanted["id"]
        assert int(row["successes"]) == other["successes"] == wanted["successes"]
        assert float(row["p_a"]) == other["p_a"] == wanted["p_a"]
        for d, radius in enumerate(wanted["radius"]):
            assert float(row[f"radius_{d}"]) == other[f"radius_{d}"] == radius


def test_one_sample_per_budget_gets_one_column_per_budget(tmp_path):
    certificate = hrs.certify([[9, 8]], 10, hrs.HybridSmoothing(UNIFORM, None), tau=0.01, alpha=0.02, budgets=(0, 2))
    record = certificate_record(certificate, ["a"], [1, 1])
    assert record["statement"]["risk_per_statement"] == 0.01
    assert "alpha / 2" in record["statement"]["guarantee"]
    write_certificates(tmp_path / "a.csv", record, ".csv")
    header = (tmp_path / "a.csv").read_text().splitlines()[0]
    assert header == "id,successes_0,successes_2,n_0,n_2,p_a_0,p_a_2,budget,radius_0,radius_2"


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({}, "it has no 'statement'"),
        ({"statement": {}, "certificates": []}, "it has no 'budgets'"),
        (
            {"statement": {"budgets": [0], "tau": 0.5, "alpha": 0.1, "kernel": "none", "sigma": 1}, "certificates": []},
            "no kernel, no budgets or no certificates",
        ),
        (
            {
                "statement": {"budgets": [0, 1], "tau": 0.5, "alpha": 0.1, "kernel": "none", "sigma": 1},
                "certificates": [{"id": "a", "successes": 1, "n": 1, "radius": [0.5], "budget": 0}],
            },
            "expected 2 radii",
        ),
        (
            {
                "statement": {"budgets": [0], "tau": 0.5, "alpha": 0.1, "kernel": "none", "sigma": 1},
                "certificates": [{"id": "a", "successes": 1, "n": 1, "radius": [-0.5], "budget": 0}],
            },
            "at least 0 or -1",
        ),
    ],
)
def test_what_is_no_result_is_refused(tmp_path, content, sentence):
    write_json(tmp_path / "a.json", content)
    with pytest.raises(BadInputError, match=sentence):
        read_certificates(tmp_path / "a.json")


def test_confidence_is_never_rounded_up_in_words():
    assert "99 %" in guarantee_text(0.01, 0.5, [0], True)
    assert "99.95 %" in guarantee_text(0.0005, 0.5, [0], True)
    assert "1 - 1e-300" in guarantee_text(1e-300, 0.5, [0], True)


def test_words_name_only_what_is_noisy():
    assert "r_d" not in guarantee_text(0.01, 0.5, range(3), True, pixels=False)
    assert "token" not in guarantee_text(0.01, 0.5, [0], True, tokens=False)
    assert "the text stays as it is" in threat_model(tokens=False)
    assert "the image stays as it is" in threat_model(pixels=False)


def test_deployment_reading_undoes_the_detection_threshold():
    for copies in (1, 7, 1_000, 100_000):
        assert f"runs {copies:,} fresh" in deployment_text(hrs.detection_threshold(copies, 0.01))
    assert np.isfinite(len(deployment_text(5e-324)))
