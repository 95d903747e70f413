"""The chat classifier over real HTTP: decisions equal the server's rule, faults are survived or told."""

import email.utils
import socket
import threading
import time
from concurrent.futures import CancelledError

import numpy as np
import pytest

pytest.importorskip("openai")
pytest.importorskip("PIL")

from chat_server import KEY, MODEL, POLICY, SERVED, expected, pairs

from hybrid_rs_jax.classifiers import (
    BaseClassifier,
    ChatError,
    ChatStatistics,
    FirstTokenDecision,
    TextDecision,
)
from hybrid_rs_jax.classifiers._asking import Threads


def test_it_is_a_base_classifier_on_the_host(make):
    classifier = make()
    assert isinstance(classifier, BaseClassifier)
    assert classifier.on_host
    assert classifier.max_in_flight == 2


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("mode", ["logprobs", "text"])
def test_decisions_equal_the_rule_on_decoded_text_and_rounded_pixels(server, make, mode, channels):
    server.answer = mode
    classifier = make(decision=TextDecision() if mode == "text" else FirstTokenDecision())
    tokens, images = pairs(60, channels)
    decisions = classifier(tokens, images)
    assert decisions.dtype == np.bool_
    np.testing.assert_array_equal(decisions, expected(tokens, images))
    assert 10 < decisions.sum() < 40
    assert classifier.statistics == ChatStatistics(60, 0, 0, 7 * 60, 60)
    assert classifier.served_model == SERVED


def test_a_request_is_deterministic_short_and_holds_the_policy(server, make):
    make(options={"seed": 3, "max_tokens": None, "max_completion_tokens": 1})(*pairs(1))
    ((_, path, headers, body),) = server.seen
    assert path == "/v1/chat/completions"
    assert headers["Authorization"] == f"Bearer {KEY}"
    assert body["messages"][0] == {"role": "system", "content": POLICY}
    fields = {name: value for name, value in body.items() if name != "messages"}
    assert fields == {
        "model": MODEL,
        "temperature": 0,
        "logprobs": True,
        "top_logprobs": 20,
        "seed": 3,
        "max_completion_tokens": 1,
    }


def test_an_empty_batch_asks_nothing(server, make):
    assert make()(*pairs(0)).shape == (0,)
    assert not server.seen


def test_requests_reach_the_limit_of_concurrency_and_never_exceed_it(server, make):
    server.meet = threading.Barrier(3)  # each answer waits for two others
    classifier = make(concurrency=3)
    batches = [pairs(15, seed=seed) for seed in range(2)]
    found = [None, None]

    def work(index):
        found[index] = classifier(*batches[index])

    threads = [threading.Thread(target=work, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert server.most == 3
    for index in range(2):
        np.testing.assert_array_equal(found[index], expected(*batches[index]))


# Faults that pass


PASSING = {
    "too many requests": {"status": 429, "headers": {"Retry-After": "0"}},
    "out of order": {"status": 500},
    "overloaded": {"status": 503},
    "server time-out": {"status": 408},
    "hang": {"hang": True},
    "connection reset": {"reset": True},
    "cut connection": {"cut": True},
    "truncated JSON": {"truncated": True},
    "no choices": {"change": {"choices": []}},
    "no model": {"change": {"model": None}},
}


@pytest.mark.parametrize("fault", PASSING.values(), ids=PASSING.keys())
def test_a_passing_fault_is_survived(server, make, fault):
    server.faults = [None, fault, fault]
    tokens, images = pairs(5)
    hangs = "hang" in fault
    classifier = make(timeout=0.5, attempts=30) if hangs else make(timeout=600.0)
    np.testing.assert_array_equal(classifier(tokens, images), expected(tokens, images))
    assert classifier.statistics.requests == 5 + classifier.statistics.retries
    if hangs:  # so short a time-out may hit a good answer, too
        assert classifier.statistics.retries >= 2
    else:
        assert classifier.statistics.requests == 7 == len(server.seen)


def test_all_kinds_of_faults_at_once_change_no_decision(server, make):
    server.faults = [*PASSING.values()] * 2
    tokens, images = pairs(40)
    classifier = make(timeout=0.5, attempts=30)
    np.testing.assert_array_equal(classifier(tokens, images), expected(tokens, images))
    assert classifier.statistics.retries >= 2 * len(PASSING)
    assert classifier.statistics.requests == 40 + classifier.statistics.retries


def test_retry_after_is_obeyed(server, make):
    server.faults = [{"status": 429, "headers": {"Retry-After": "0.25"}}]
    make()(*pairs(1))
    first, second = (seen[0] for seen in server.seen)
    assert second - first >= 0.25


def test_waits_double(server, make):
    server.faults = [{"status": 500}] * 4
    make(backoff=0.02)(*pairs(1))
    waits = np.diff([seen[0] for seen in server.seen])
    np.testing.assert_array_less(0.01 * 2.0 ** np.arange(4), waits)  # jitter takes at most half


@pytest.mark.parametrize("date", ["Mon, 01 Jan 99999999999 00:00:00 GMT", "soon", "inf", "nan", "-5", "1e999", ""])
def test_a_wish_to_wait_that_makes_no_sense_is_ignored(server, make, date):
    server.faults = [{"status": 429, "headers": {"Retry-After": date}}]
    make()(*pairs(1))
    assert len(server.seen) == 2


# Faults that end the run


def failure(classifier, number=1):
    with pytest.raises(ChatError) as caught:
        classifier(*pairs(number))
    return str(caught.value)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
def test_a_permanent_error_fails_at_once_with_address_and_status(server, make, status):
    server.faults = [{"status": status, "told": "no such thing"}]
    message = failure(make())
    assert len(server.seen) == 1
    assert server.url in message
    assert f"status {status}" in message
    assert "can be resumed" in message
    assert ("no such thing" in message) == (status not in (401, 403))


def test_an_empty_account_is_not_asked_again(server, make):
    server.faults = [{"status": 429, "code": "insufficient_quota"}]
    assert "status 429" in failure(make())
    assert len(server.seen) == 1


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ({"status": 500, "told": "boiler burst"}, "status 500, 'boiler burst'"),
        ({"hang": True}, "time-out"),
        ({"reset": True}, "connection failed"),
        ({"truncated": True}, "no chat completion"),
    ],
)
def test_attempts_are_limited_and_the_last_fault_is_told(server, make, fault, words):
    server.faults = [fault] * 3
    classifier = make(attempts=3, timeout=0.5 if "hang" in fault else 600.0)
    message = failure(classifier)
    assert "failed 3 times in a row" in message
    assert words in message
    assert "can be resumed" in message
    assert classifier.statistics.requests == 3


def test_nobody_at_the_address_is_told(make):
    with socket.socket() as taken:  # and nobody listens, nor can
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        classifier = make(base_url=url, attempts=2)
        message = failure(classifier)
    assert url in message
    assert "connection failed, nobody listens at this address" in message
    assert classifier.statistics.requests == 2  # it may be about to start


def test_tls_on_a_plain_port_is_named_and_not_tried_again(server, make):
    classifier = make(base_url=server.url.replace("http://", "https://"))
    message = failure(classifier)
    assert "there is no TLS at this address" in message
    assert "perhaps it is http and not https. The counts" in message
    assert classifier.statistics.requests == 1


@pytest.mark.parametrize("reached", [False, True])
def test_an_unknown_host_is_named_and_tried_again_only_if_it_was_known_before(server, make, monkeypatch, reached):
    classifier, lookup = make(attempts=3, concurrency=1), socket.getaddrinfo
    server.faults = [None, {"reset": True}]

    def unknown(*arguments, **options):
        if reached and len(server.seen) < 2:
            return lookup(*arguments, **options)
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    message = failure(classifier, number=2)
    assert "the host's name is not known (Name or service not known)" in message
    assert classifier.statistics.requests == (4 if reached else 1)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_no_vote_but_told_with_its_goal(server, make, status):
    server.answer = "text"
    server.faults = [{"status": status, "headers": {"Location": f"{server.url}/elsewhere?key={KEY}"}}]
    classifier = make(decision=TextDecision())
    message = failure(classifier)
    assert f"status {status}, it redirects to '{server.url}/elsewhere?key=[API key]'" in message
    assert "give the address behind it as base_url" in message
    assert classifier.statistics.requests == 1
    server.faults = [{"status": status}]
    assert f"status {status}, it redirects." in failure(classifier)


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"null", b"[]", b"3", b"[" * 200_000, b'{"model": "m"}', b"\xff\xfe\x00", b"<html>no</html>"),
        b'{"model": "m", "model": "m", "choices": [{"message": {}}]}',
        b'{"model": "m", "choices": [{"message": {"content": ["Unsafe"]}}]}',
    ],
)
def test_an_answer_that_is_none_is_told_after_all_attempts(server, make, body):
    server.answer, server.faults = "text", [{"body": body}] * 3
    message = failure(make(attempts=3, decision=TextDecision()))
    assert "failed 3 times in a row, at last with an answer that is no chat completion" in message
    assert len(message) < 700
    assert len(server.seen) == 3


def test_an_answer_in_a_broken_encoding_is_told(server, make):
    server.faults = [{"body": b"no gzip", "headers": {"Content-Encoding": "gzip"}}] * 2
    assert "failed 2 times in a row" in failure(make(attempts=2))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_log_probability_that_is_none_ends_the_run_wherever_it_stands(server, make, value, place):
    server.tokens = [("Unsafe", -0.01), ("Safe", -5.0), ("The", -6.0)]
    server.tokens[place] = (server.tokens[place][0], value)
    assert f"gave {value} as the log-probability of a first token" in failure(make())


def test_a_token_that_never_comes_may_have_minus_infinity(server, make):
    server.tokens = [("Unsafe", -0.01), ("Safe", float("-inf"))]
    assert make()(*pairs(1)).all()


@pytest.mark.parametrize("wish", ["3600", "a date"])
def test_a_pause_longer_than_allowed_ends_the_run(server, make, wish):
    if wish != "3600":
        wish = email.utils.formatdate(time.time() + 3600, usegmt=True)
    server.faults = [{"status": 429, "headers": {"Retry-After": wish}}]
    message = failure(make())
    pause = int(message.split("a pause of ")[1].split(" s")[0])
    assert 3000 <= pause <= 3600
    assert len(server.seen) == 1


@pytest.mark.parametrize("missing", [None, {}, {"content": [{}]}])
def test_an_endpoint_without_logprobs_is_told(server, make, missing):
    choice = {"index": 0, "message": {"role": "assistant", "content": "Safe"}, "logprobs": missing}
    server.faults = [{"change": {"choices": [choice]}}]
    assert "TextDecision" in failure(make())


def test_another_model_in_the_middle_of_a_run_is_an_error(server, make):
    classifier = make(concurrency=1)
    server.faults = [None, {"change": {"model": "guard-2025-02-02"}}]
    message = failure(classifier, number=10)
    assert "'guard-2025-02-02'" in message
    assert f"'{SERVED}'" in message
    assert len(server.seen) == 2


def test_a_resumed_run_can_ask_for_the_model_that_it_had(server, make):
    make(served_model=SERVED)(*pairs(1))
    assert "'older'" in failure(make(served_model="older"))


def test_a_failure_gives_up_the_rest_of_the_batch(server, make):
    server.faults = [{"status": 400}]
    failure(make(concurrency=1), number=50)
    assert len(server.seen) == 1


def test_after_a_failure_the_classifier_can_be_called_again(server, make):
    classifier, (tokens, images) = make(concurrency=2), pairs(20)
    server.faults = [None, {"status": 400}]
    with pytest.raises(ChatError):
        classifier(tokens, images)
    np.testing.assert_array_equal(classifier(tokens, images), expected(tokens, images))


@pytest.mark.parametrize("method", ["cancel", "close"])
def test_closing_ends_a_batch_that_waits(server, make, method):
    server.faults = [{"status": 500}] * 100
    classifier, caught = make(backoff=30.0, longest_wait=60.0), []

    def work():
        try:
            classifier(*pairs(10))
        except BaseException as error:
            caught.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    while not server.seen and thread.is_alive():
        time.sleep(0.001)
    getattr(classifier, method)()
    thread.join(600)
    assert not thread.is_alive()
    assert [type(error).__name__ for error in caught] == ["CancelledError"]


def test_closing_while_a_batch_is_handed_over_gives_it_up():
    threads = Threads(1, "test")

    class ClosedInBetween(np.ndarray):
        def __iter__(self):
            yield self[0]
            threads.close()
            yield self[1]

    tokens = np.zeros((2, 1), np.int32).view(ClosedInBetween)
    with pytest.raises(CancelledError):
        threads.votes(lambda pair, image, given_up: given_up.wait(600), tokens, np.zeros((2, 1, 1, 1)))


def test_closing_gives_up_a_batch_that_begins_meanwhile():
    """Between giving up what is under way and ending the threads there is a moment for another batch."""
    threads, asked, caught = Threads(1, "test"), [], []
    cancel, pair = threads.cancel, (np.zeros((1, 1), np.int32), np.zeros((1, 1, 1, 1)))

    def cancel_and_begin():
        cancel()
        with pytest.raises(CancelledError) as error:
            threads.votes(lambda *_: asked.append(True) or True, *pair)
        caught.append(error)

    threads.cancel = cancel_and_begin
    threads.close()
    assert caught
    assert not asked


# Answers that say neither


def test_an_unclear_first_token_ends_the_run_and_is_shown(server, make):
    server.tokens = [("Perhaps", -0.1), ("**", -3.0)]
    classifier = make()
    message = failure(classifier)
    assert "Perhaps" in message
    assert "unclear='safe'" in message


def test_an_unclear_answer_can_count_as_safe_and_is_counted(server, make):
    server.tokens = [("Perhaps", -0.1)]
    classifier = make(decision=FirstTokenDecision(unclear="safe"))
    assert not classifier(*pairs(4)).any()
    assert classifier.statistics.unparsable == 4


def test_an_unclear_text_counts_as_safe_and_is_counted(server, make):
    server.answer, server.text = "text", "I cannot help with that."
    classifier = make(decision=TextDecision())
    assert not classifier(*pairs(4)).any()
    assert classifier.statistics.unparsable == 4
    assert "I cannot help" in failure(make(decision=TextDecision(unclear="error")))
