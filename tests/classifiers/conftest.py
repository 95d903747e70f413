"""A chat server on loopback for each test that asks for one, and classifiers that ask it."""

import pytest


@pytest.fixture
def server():
    pytest.importorskip("openai")
    pytest.importorskip("PIL")
    from chat_server import ChatServer

    server = ChatServer()
    yield server
    server.close()


@pytest.fixture
def make(server):
    """Builds classifiers that ask the server, with tiny waits."""
    from chat_server import KEY, MODEL, POLICY, decode

    from hybrid_rs_jax.classifiers import ChatClassifier

    made = []

    def build(**changes):
        settings = {"decode": decode, "policy": POLICY, "api_key": KEY, "backoff": 0.01, "concurrency": 4} | changes
        made.append(ChatClassifier(settings.pop("base_url", server.url), MODEL, **settings))
        return made[-1]

    yield build
    for classifier in made:
        classifier.close()
