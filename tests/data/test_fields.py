"""Tables of features: what is no schema or no table for it is one sentence with file, line and value."""

import json

import pytest

from hybrid_rs_jax.data.fields import Schema, open_table
from hybrid_rs_jax.errors import BadInputError

SCHEMA = Schema(("job", "age", "land"), {"job": ("clerk", "cook")}, {"age": (40.0, 10.0)}, {"land": "here"})


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ([], "a schema is a list of objects, one per column"),
        ({"name": "age"}, "a schema is a list of objects, one per column"),
        (["age"], "a schema is a list of objects, one per column"),
        ([{"values": ["a"]}], "a column needs name and values, constant, or mean and deviation: 'name'"),
        ([{"name": "age", "mean": 3}], "or mean and deviation: 'standard_deviation'"),
        ([{"name": "age", "mean": "old", "standard_deviation": 1}], "could not convert string to float: 'old'"),
        ([{"name": "job", "values": 3}], "'int' object is not iterable"),
        (
            [{"name": "age", "mean": 3, "standard_deviation": 0}],
            r"age needs .* a positive deviation, got \(3\.0, 0\.0\)",
        ),
    ],
)
def test_a_file_that_is_no_schema_is_one_sentence_that_names_it(tmp_path, columns, words):
    path = tmp_path / "schema.json"
    path.write_text(json.dumps({"columns": columns}))
    with pytest.raises(BadInputError, match=rf"schema\.json holds no schema: .*{words}.*\.$") as caught:
        Schema.read(path)
    assert "\n" not in str(caught.value)


def test_a_schema_that_is_no_json_or_is_not_there_is_said_as_of_any_file(tmp_path):
    path = tmp_path / "schema.json"
    with pytest.raises(BadInputError, match=r"schema\.json does not exist\.$"):
        Schema.read(path)
    path.write_text("{")
    with pytest.raises(BadInputError, match=r"schema\.json.* JSON"):
        Schema.read(path)


def test_a_schema_comes_back_from_its_file_as_it_was(tmp_path):
    SCHEMA.save(tmp_path / "schema.json")
    assert Schema.read(tmp_path / "schema.json") == SCHEMA
    with pytest.raises(BadInputError, match="already exists"):
        SCHEMA.save(tmp_path / "schema.json")


@pytest.mark.parametrize(
    ("lines", "schema", "words"),
    [
        ("job,age", None, "holds no inputs"),
        ("id,rich\n1,no", None, "holds no column of features besides rich"),
        ("job,rich\ncook,no", SCHEMA, "missing column age and land, which the schema has"),
        (
            "job,age,land,rich\ncook,30,here,no\ncook,old,here,no",
            SCHEMA,
            "line 3: age must be a finite number, got old",
        ),
        ("job,age,land,rich\ncook,,here,no", SCHEMA, "line 2: age must be a finite number, got nothing"),
        ("job,age,land,rich\ncook,inf,here,no", SCHEMA, "line 2: age must be a finite number, got inf"),
        (
            "job,age,land,rich\nking,30,here,no",
            SCHEMA,
            r"line 2: job must be one of the 2 values of the schema \('clerk' for one\), got 'king'",
        ),
        (
            "job,age,land,rich\ncook,30,there,no",
            SCHEMA,
            "land must be one of the 1 values of the schema .*, got 'there'",
        ),
    ],
)
def test_a_table_that_does_not_fit_is_one_sentence_with_the_place(tmp_path, lines, schema, words):
    path = tmp_path / "people.csv"
    path.write_text(lines + "\n")
    with pytest.raises(BadInputError, match=rf"people\.csv.*{words}.*\.$") as caught:
        open_table(path, "rich" if "rich" in lines else None, schema=schema)
    assert "\n" not in str(caught.value)


def test_numbers_are_read_in_the_units_of_the_schema(tmp_path):
    path = tmp_path / "people.csv"
    path.write_text("age,job,land\n55,cook,here\n")
    inputs, _ = open_table(path, None, schema=SCHEMA)
    assert inputs.images.ravel().tolist() == [1.5]
    assert inputs.tokens.tolist() == [[1]]
