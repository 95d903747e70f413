"""A vision-language model behind an OpenAI-compatible chat endpoint, as a base classifier."""

from hybrid_rs_jax.classifiers.chat.classifier import ChatClassifier
from hybrid_rs_jax.classifiers.chat.endpoint import ChatError, ChatStatistics
from hybrid_rs_jax.classifiers.chat.reply import Decision, FirstTokenDecision, Reply, TextDecision

__all__ = ["ChatClassifier", "ChatError", "ChatStatistics", "Decision", "FirstTokenDecision", "Reply", "TextDecision"]
