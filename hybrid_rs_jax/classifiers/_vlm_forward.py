"""The compiled part of the guard: from noisy symbols and pixels to the margin between two answers."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Float32, Int32

from hybrid_rs_jax.classifiers._vlm_alphabet import PAD
from hybrid_rs_jax.classifiers._vlm_labels import AnswerTokens
from hybrid_rs_jax.classifiers._vlm_prompt import PromptTokens

__all__ = ["Forward", "NextToken", "Sequence", "prefix_cache"]


@dataclasses.dataclass(frozen=True)
class Sequence:
    """What is the same for all copies: everything but the user's text and the pixels.

    Attributes:
      graph: structure of the network, without its weights.
      prompt: tokens around picture and text.
      answer: the teacher-forced beginning, and where the answers part.
      pixels: image processing for the certified resolution; None for prompts without a picture.
      cached: whether the keys and values of `prompt.before` are among the parameters.
      share_image: whether a batch whose rows all hold the same picture encodes it once.
    """

    graph: Any
    prompt: PromptTokens
    answer: AnswerTokens
    pixels: Any
    cached: bool
    share_image: bool


class Forward:
    """`apply(parameters, tokens, images) -> margin`; compared by identity, so that one guard compiles once.

    The margin is `logsumexp(logits of the tokens that Unsafe begins with) - logsumexp(those of Safe)` at the position
    where the two answers part. PADs are dropped: the text moves together and what follows it moves up, so that a text
    looks to the network as it does in a prompt without a region of fixed length; what stands behind the last token is
    hidden from it by causality.
    """

    def __init__(self, sequence: Sequence):
        self.sequence = sequence

    def __call__(
        self, parameters: Any, tokens: Int32[Array, "batch length"], images: Float32[Array, "batch height width 3"]
    ) -> Float32[Array, " batch"]:
        """Margins of a batch; above 0 for Unsafe."""
        answer = self.sequence.answer
        tail = jnp.asarray([[*self.sequence.prompt.after, *answer.beginning]], jnp.int32)
        words, lengths = shown_words(parameters["alphabet"], tokens, tail)
        hidden = last_hidden(self.sequence, parameters, words, lengths, images)
        decoder = nnx.merge(self.sequence.graph, parameters["network"]).language_model
        logits = label_logits(decoder, hidden, (*answer.unsafe, *answer.safe))
        unsafe, safe = logits[:, : len(answer.unsafe)], logits[:, len(answer.unsafe) :]
        return jax.nn.logsumexp(unsafe, axis=1) - jax.nn.logsumexp(safe, axis=1)


class NextToken:
    """The likeliest next token after `step` generated ones: greedy decoding, one token per call."""

    def __init__(self, sequence: Sequence):
        self.sequence = sequence

    def __call__(
        self,
        parameters: Any,
        tokens: Int32[Array, "batch length"],
        images: Float32[Array, "batch height width 3"],
        generated: Int32[Array, "batch steps"],
        step: Int32[Array, ""],
    ) -> Int32[Array, " batch"]:
        """Token ids; columns of `generated` from `step` on have no influence."""
        after = jnp.asarray(self.sequence.prompt.after, jnp.int32)
        tail = jnp.concatenate([jnp.broadcast_to(after, (len(tokens), after.size)), generated], axis=1)
        words, lengths = shown_words(parameters["alphabet"], tokens, tail)
        lengths = lengths - generated.shape[1] + step
        hidden = last_hidden(self.sequence, parameters, words, lengths, images)
        decoder = nnx.merge(self.sequence.graph, parameters["network"]).language_model
        return jnp.argmax(decoder.logits(hidden), axis=1).astype(jnp.int32)


def shown_words(
    table: Int32[Array, " symbols"], tokens: Int32[Array, "batch length"], tail: Int32[Array, "rows tail"]
) -> tuple[Int32[Array, "batch total"], Int32[Array, " batch"]]:
    """Token ids that the network is shown: the text without PADs, then the tail; and the number of them per row."""
    pad = tokens == PAD
    order = jnp.argsort(pad, axis=1, stable=True)
    text = jnp.take_along_axis(table[tokens], order, axis=1)
    count = tokens.shape[1] - jnp.sum(pad, axis=1, dtype=jnp.int32)
    behind = jnp.arange(tokens.shape[1] + tail.shape[1], dtype=jnp.int32) - count[:, None]
    tail = jnp.broadcast_to(tail, (len(tokens), tail.shape[1]))
    moved = jnp.take_along_axis(tail, jnp.clip(behind, 0, tail.shape[1] - 1), axis=1)
    words = jnp.where(behind < 0, jnp.pad(text, ((0, 0), (0, tail.shape[1]))), moved)
    return words, count + tail.shape[1]


def last_hidden(
    sequence: Sequence,
    parameters: Any,
    words: Int32[Array, "batch total"],
    lengths: Int32[Array, " batch"],
    images: Float32[Array, "batch height width 3"],
) -> Float[Array, "batch hidden"]:
    """Hidden state of each copy's last token."""

    def each(images: Array) -> Array:
        network = nnx.merge(sequence.graph, parameters["network"])
        return _after_own_picture(network, sequence, parameters["prefix"], words, lengths, images)

    def once(images: Array) -> Array:
        network = nnx.merge(sequence.graph, parameters["network"])
        decoder = network.language_model
        picture = _with_picture(network, sequence, images[:1], 1)
        prefix = decoder.extend(picture, parameters["prefix"])
        return decoder.last_hidden(decoder.embed(words), lengths, prefix)

    if sequence.pixels is None or not sequence.share_image:
        return each(images)
    return jax.lax.cond(jnp.all(images == images[:1]), once, each, images)


def label_logits(
    decoder: Any, hidden: Float[Array, "batch hidden"], rows: tuple[int, ...]
) -> Float32[Array, "batch n"]:
    """Logits of a few tokens: so many rows of the output layer, and no more."""
    index = jnp.asarray(rows, jnp.int32)
    if decoder.config.tied:
        weight = decoder.embed_tokens.embedding[...][index]
    else:
        weight = decoder.lm_head.kernel[...][:, index].T
    hidden = hidden.astype(decoder.dtype)
    return jnp.einsum("bd,nd->bn", hidden, weight.astype(decoder.dtype), preferred_element_type=jnp.float32)


def prefix_cache(sequence: Sequence, network: Any) -> Any:
    """Keys and values of the tokens before the picture."""
    decoder = network.language_model
    before = jnp.asarray([sequence.prompt.before], jnp.int32)
    return jax.jit(lambda decoder: decoder.extend(decoder.embed(before)))(decoder)


def _after_own_picture(
    network: Any, sequence: Sequence, prefix: Any, words: Array, lengths: Array, images: Array
) -> Float[Array, "batch hidden"]:
    """Every copy with its own picture."""
    decoder = network.language_model
    front = _with_picture(network, sequence, images, len(words))
    embeddings = jnp.concatenate([front, decoder.embed(words)], axis=1)
    return decoder.last_hidden(embeddings, lengths + front.shape[1], prefix)


def _with_picture(network: Any, sequence: Sequence, images: Array, rows: int) -> Float[Array, "rows length hidden"]:
    """Embeddings of what stands before the user's text and is not in the cache."""
    decoder, prompt = network.language_model, sequence.prompt

    def constant(ids: tuple[int, ...]) -> Array:
        embedded = decoder.embed(jnp.asarray([ids], jnp.int32).reshape(1, len(ids)))
        return jnp.broadcast_to(embedded, (rows, *embedded.shape[1:]))

    parts = [] if sequence.cached else [constant(prompt.before)]
    if sequence.pixels is not None:
        features = network.image_features(sequence.pixels.distinct(images), sequence.pixels.image_size)
        parts.append(features.astype(decoder.dtype))
    return jnp.concatenate([*parts, constant(prompt.between)], axis=1)
