"""`--label-column`: a table of features and an estimator that was fitted on it, up to accuracy with labels."""

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest

import hybrid_rs_jax as hrs
from hybrid_rs_jax.cli import main
from hybrid_rs_jax.data.fields import Schema, open_table
from hybrid_rs_jax.errors import BadInputError
from hybrid_rs_jax.results.count_files import read_counts

pytest.importorskip("pandas")
MODEL = """
import pandas as pd
from sklearn.compose import make_column_transformer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

table = pd.read_csv("people.csv")
features = table.drop(columns="income")
encode = make_column_transformer((OneHotEncoder(), ["work", "zip", "country"]), remainder="passthrough")
tree = make_pipeline(encode, LogisticRegression(max_iter=2000)).fit(features, table["income"])
plain = LogisticRegression(max_iter=2000).fit(features[["age", "hours"]].to_numpy(), table["income"])
"""


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    rng = np.random.default_rng(0)
    lines = ["age,work,zip,hours,country,income"]
    for _ in range(60):
        age, hours, work, place = rng.integers(20, 60), rng.integers(10, 50), rng.integers(3), rng.integers(7, 9)
        rich = age + hours + 5 * work > 75
        lines.append(f"{age},w{work},{place},{hours},here,{'>50K' if rich else '<=50K'}")
    Path("people.csv").write_text("\n".join(lines) + "\n")
    Path("table_model.py").write_text(MODEL)


TABLE = ["--data", "people.csv", "--label-column", "income", "--categorical", "zip"]


def test_columns_become_fields_and_numbers_and_come_back_as_they_were():
    inputs, schema = open_table(Path("people.csv"), "income", ["zip"])
    assert schema.cardinalities == (3, 2)
    assert schema.constants == {"country": "here"}
    numbers = inputs.images.reshape(60, -1)
    np.testing.assert_allclose(numbers.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(numbers.std(axis=0), 1, atol=1e-5)
    rows = list(csv.DictReader(io.StringIO(Path("people.csv").read_text())))
    frame = schema.rows(inputs.tokens, inputs.images, True)
    assert list(frame.columns) == ["age", "work", "zip", "hours", "country"]
    assert frame["work"].tolist() == [row["work"] for row in rows]
    assert frame["zip"].tolist() == [int(row["zip"]) for row in rows]
    np.testing.assert_allclose(frame["age"], [float(row["age"]) for row in rows], atol=1e-4)
    assert inputs.columns["label"][0] in (">50K", "<=50K")


def test_a_pipeline_goes_from_a_table_to_certified_accuracy(capsys):
    run = ["sample", "--model", "table_model:tree", *TABLE, "--sigma", "0.25", "--samples", "200", "--out", "run"]
    assert main(run) == 0
    counts = read_counts(Path("run"))
    assert counts.run.threat == "fields"
    assert counts.run.smoothing.discrete.cardinalities == (3, 2)
    assert counts.run.facts["data"]["columns"][1]["values"] == ("w0", "w1", "w2")
    capsys.readouterr()
    assert main(["certify", "run", "--tau", "0.5", "--epsilon", "0,0.1", "--format", "csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert main(["certify", "run", "--tau", "0.5", "--json"]) == 0
    certificates = json.loads(capsys.readouterr().out)["certificates"]
    for row in rows:
        proven = [c for c in certificates if c["radius"][int(row["d"])] >= float(row["epsilon"])]
        assert int(row["certified"]) == len(proven)
        assert int(row["right"]) == sum(c["columns"]["label"] == ">50K" for c in proven)
    assert int(rows[0]["right"]) > 10


def test_the_counts_are_those_of_a_classifier_written_by_hand():
    import jax
    import table_model

    inputs, schema = open_table(Path("people.csv"), "income", ["zip"])

    def by_hand(tokens, images):
        return table_model.tree.predict(schema.rows(tokens, images, True)) == ">50K"

    run = ["sample", "--model", "table_model:tree", *TABLE, "--sigma", "0.5", "--samples", "60", "--out", "run"]
    assert main([*run, "--limit", "5"]) == 0
    smoothing = hrs.HybridSmoothing(hrs.CategoricalKernel(0.25, (3, 2)), 0.5, step=0.5 / 1024)
    arrays = inputs.tokens[:5], inputs.images[:5]
    own = hrs.sample_counts(hrs.HostClassifier(by_hand), *arrays, smoothing, 60, jax.random.key(0))
    np.testing.assert_array_equal(read_counts(Path("run")).successes, own)


def test_numbers_alone_are_a_table_too():
    Path("numbers.csv").write_text("age,hours,income\n30,20,<=50K\n50,45,>50K\n")
    run = ["sample", "--model", "table_model:plain", "--data", "numbers.csv", "--label-column", "income"]
    assert main([*run, "--sigma", "0.25", "--samples", "40", "--out", "run"]) == 0
    assert read_counts(Path("run")).run.threat == "fields"
    assert read_counts(Path("run")).successes[1] > read_counts(Path("run")).successes[0]


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--data", "people.csv", "--label-column", "wage"], "missing column wage"),
        (["--data", "people.csv"], "; of a table of features --label-column says which one is the label."),
        (["--data", "demo", "--label-column", "income"], "--label-column needs a table as --data"),
        (
            ["--data", "gap.csv", "--label-column", "income"],
            "line 3: age must be a finite number, got nothing",
        ),
        (
            [*TABLE, "--cardinalities", "3,3"],
            "--cardinalities contradicts the table, whose fields have 3 and 2",
        ),
        ([*TABLE, "--image-size", "4x4"], "--image-size means something to texts and pictures only"),
        ([*TABLE[:-1], "a,,b"], "must be names of columns like age,sex, got a,,b"),
    ],
)
def test_bad_tables_are_one_sentence(flags, sentence, capsys):
    Path("gap.csv").write_text("age,income\n3,a\n,b\n")
    assert main(["sample", "--model", "table_model:tree", *flags, "--sigma", "0.25", "--out", "run"]) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1


def test_a_schema_of_the_training_set_gives_codes_and_units_to_other_rows(capsys):
    lines = Path("people.csv").read_text().splitlines()
    Path("few.csv").write_text("\n".join([lines[0], *lines[1:8]]) + "\n")
    _, schema = open_table("people.csv", "income", ["zip"])
    schema.save("schema.json")
    assert Schema.read("schema.json") == schema
    few, again = open_table("few.csv", "income", schema=schema)
    whole, _ = open_table("people.csv", "income", ["zip"])
    assert again == schema
    np.testing.assert_array_equal(few.tokens, whole.tokens[:7])
    np.testing.assert_array_equal(few.images, whole.images[:7])
    flags = ["--data", "few.csv", "--label-column", "income", "--sigma", "0.25", "--samples", "40"]
    for name, more in (("people.csv", ["--categorical", "zip"]), ("schema.json", [])):
        assert (
            main(["sample", "--model", "table_model:tree", *flags, "--schema", name, *more, "--out", f"{name}.d"]) == 0
        )
    counts = [read_counts(Path(f"{name}.d")) for name in ("people.csv", "schema.json")]
    assert counts[0].successes.tolist() == counts[1].successes.tolist()
    assert counts[0].run.smoothing.step == 0.25 / 1024
    Path("new.csv").write_text(lines[0] + "\n30,w9,7,20,here,<=50K\n")
    with pytest.raises(BadInputError, match="line 2: work must be one of the 3 values of the schema"):
        open_table("new.csv", "income", schema=schema)


def test_words_of_a_table_are_fields_and_numbers(capsys):
    assert (
        main(["sample", "--model", "table_model:tree", *TABLE, "--sigma", "0.25", "--samples", "40", "--out", "r"]) == 0
    )
    assert "Numbers were rounded to the grid" in capsys.readouterr().out
    assert main(["certify", "r", "--tau", "0.1"]) == 0
    said = capsys.readouterr().out
    assert "no attack within field budget d" in said
    assert "the numbers move by at most r in l2 norm" in said
    assert "token" not in said
    assert "pixel" not in said
    assert main(["report", "r", "--tau", "0.1"]) == 0
    page = Path("r/certificates.html").read_text().partition('<h2 id="settings-title"')[0]
    assert "field budget" in page
    assert "token budget" not in page


def test_a_tabular_classifier_is_the_door_in_python():
    import table_model

    inputs, schema = open_table("people.csv", "income", ["zip"])
    guard = hrs.TabularClassifier(table_model.tree, schema)
    expected = table_model.tree.predict(schema.rows(inputs.tokens, inputs.images, True)) == ">50K"
    np.testing.assert_array_equal(guard(inputs.tokens, inputs.images), expected)
    assert guard.describe()["columns"] == schema.describe()
    with pytest.raises(ValueError, match="method predict"):
        hrs.TabularClassifier(len, schema)
