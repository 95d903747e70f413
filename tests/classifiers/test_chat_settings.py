"""What a chat classifier keeps to itself (the key), what it tells (its header) and what it refuses."""

import json
import sys
import traceback

import numpy as np
import pytest

pytest.importorskip("openai")
pytest.importorskip("PIL")

from chat_server import KEY, expected, pairs

from hybrid_rs_jax.classifiers import ChatError, FirstTokenDecision, TextDecision

# The key


@pytest.mark.parametrize(
    "fault",
    [
        {"status": 401, "told": "Incorrect key: {key}"},
        {"status": 400, "told": "I got {key}"},
        {"status": 404, "told": "x" * 180 + " {key}"},
        {"status": 500, "told": "I got {key}"},
        {"reset": True},
        {"change": {"model": KEY, "choices": []}},
        {"change": {"choices": [{"message": {"content": KEY}}]}},
        {"change": {"choices": [{"message": {}, "logprobs": {"content": [{"top_logprobs": [
            {"token": KEY, "logprob": 0}]}]}}]}},
    ],
)  # fmt: skip
@pytest.mark.parametrize("from_environment", [False, True])
def test_the_key_is_in_no_error(server, make, monkeypatch, fault, from_environment):
    if from_environment:
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
    server.faults = [fault] * 2
    classifier = make(attempts=2, **({"api_key": None} if from_environment else {}))
    with pytest.raises(ChatError) as caught:
        classifier(*pairs(1))
    assert server.seen[0][2]["Authorization"] == f"Bearer {KEY}"
    told = "".join(traceback.format_exception(caught.value)) + repr(caught.value) + repr(vars(caught.value))
    assert "sk-a-key" not in told
    error = caught.value
    while error is not None:  # nor hidden in what the client library raised
        assert not hasattr(error, "request")
        assert KEY not in repr(error)
        error = error.__cause__ or error.__context__


def test_the_key_is_neither_in_repr_nor_in_the_header(make):
    classifier = make()
    header = json.dumps(classifier.describe())
    assert KEY not in header + repr(classifier) + str(classifier)


def test_without_a_key_a_local_server_is_asked_all_the_same(server, make, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    tokens, images = pairs(3)
    np.testing.assert_array_equal(make(api_key=None)(tokens, images), expected(tokens, images))


def test_the_header_changes_with_everything_that_decisions_depend_on(make):
    changes = [
        {},
        {"policy": "Other."},
        {"decision": TextDecision()},
        {"decision": FirstTokenDecision(unsafe=("yes",), safe=("no",))},
        {"options": {"seed": 1}},
        {"decode": str},
    ]
    headers = [json.dumps(make(**change).describe()) for change in changes]
    assert len(set(headers)) == len(headers)
    assert headers[0] == json.dumps(make(concurrency=2, timeout=1.0, attempts=1, api_key=None).describe())
    assert json.loads(headers[0]) == make().describe()


# Bad input


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"base_url": "localhost:8000/v1"}, "localhost:8000/v1"),
        ({"base_url": "http://:80"}, "http://:80"),
        ({"base_url": "http://h:99999"}, "http://h:99999"),
        ({"concurrency": 0}, "concurrency must be at least 1, got 0"),
        ({"attempts": 0}, "attempts must be at least 1, got 0"),
        ({"timeout": 0.0}, "timeout .* got 0.0"),
        ({"backoff": -1.0}, "backoff .* got -1.0"),
        ({"longest_wait": float("inf")}, "longest_wait .* got inf"),
        ({"options": {"stream": True}}, "'stream'"),
        ({"options": {"seed": {1}}}, "JSON-able"),
    ],
)
def test_bad_settings_raise_one_sentence_with_the_value(make, changes, words):
    with pytest.raises(ValueError, match=rf"^[^\n]*{words}[^\n]*\.$"):
        make(**changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"base_url": f"http://user:{KEY}@localhost/v1"},
        {"base_url": f"user:{KEY}@localhost/v1"},
        {"base_url": f"http://localhost/v1?key={KEY}"},
        {"api_key": f"{KEY} {KEY}"},
        {"api_key": f"{KEY}\n{KEY}"},
    ],
)
def test_settings_with_a_secret_in_the_wrong_place_are_refused_without_showing_it(make, changes):
    with pytest.raises(ValueError, match=r"^[^\n]*\.$") as caught:
        make(**changes)
    assert KEY not in str(caught.value)


def test_pictures_that_are_no_pictures_are_refused(make):
    tokens, images = pairs(2)
    classifier = make()
    with pytest.raises(ValueError, match=r"1 or 3 channels, got 2\."):
        classifier(tokens, np.zeros((2, 4, 4, 2), np.float32))
    images[1, 0, 0, 0] = np.nan
    with pytest.raises(ValueError, match=r"finite, got nan\."):
        classifier(tokens, images)
    with pytest.raises(ValueError, match="got 2 and 1"):
        classifier(tokens, images[:1])


def test_a_decoder_that_gives_no_text_is_refused(make):
    with pytest.raises(ValueError, match=r"decode must return a str, got list\."):
        make(decode=list)(*pairs(1))


@pytest.mark.parametrize("package", ["openai", "tenacity", "PIL"])
def test_a_missing_package_is_named_with_the_way_to_install_it(make, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ModuleNotFoundError, match=rf"{package}.*pip install 'hybrid-rs-jax\[chat\]'"):
        make()
