"""The compiled part of a guard: from noisy symbols and pixels to the margin between two answers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Float, Float32, Int32

from hybrid_rs_jax.classifiers.vlm.prompt import PAD, Alphabet, PromptLayout
from hybrid_rs_jax.classifiers.vlm.settings import GuardSettings
from hybrid_rs_jax.models import ImagePlan

__all__ = ["CompiledPrompt", "Forward", "compile_prompt"]


@dataclasses.dataclass(frozen=True, eq=False)
class Forward:
    """`forward(parameters, tokens, images) -> margin`; compared by identity, so that one guard compiles once.

    The margin is `logsumexp(logits of the tokens that Unsafe begins with) - logsumexp(those of Safe)` at the position
    where the two answers part. PADs are dropped: the text moves together and what follows it moves up, so that a text
    looks to the network as it does in a prompt without a region of fixed length; what stands behind the last token is
    hidden from it by causality.

    Attributes:
      graph: structure of the network, without its weights.
      layout: what is the same for all copies: everything but the user's text and the pixels.
      cached: whether the keys and values of `layout.before` are among the parameters.
      share_image: whether a batch whose rows all hold the same picture encodes it once.
    """

    graph: Any
    layout: PromptLayout
    cached: bool
    share_image: bool

    def __call__(
        self, parameters: Any, tokens: Int32[Array, "batch length"], images: Float32[Array, "batch height width 3"]
    ) -> Float32[Array, " batch"]:
        """Margins of a batch; above 0 for Unsafe."""
        return self.of_pictures(parameters, tokens[:, None], images)[:, 0]

    def of_pictures(
        self,
        parameters: Any,
        tokens: Int32[Array, "pictures texts length"],
        images: Float32[Array, "pictures height width 3"],
    ) -> Float32[Array, "pictures texts"]:
        """Margins of several texts with each picture; keys and values of what stands before them are computed once."""
        words, lengths = self._shown(parameters, tokens)
        decoder = nnx.merge(self.graph, parameters["network"]).language_model
        return self._margins(parameters, decoder.embed(words), lengths, images).reshape(tokens.shape[:2])

    def of_embeddings(
        self,
        parameters: Any,
        symbols: Float[Array, "batch length wide"],
        images: Float32[Array, "batch height width 3"],
    ) -> Float32[Array, " batch"]:
        """Margins of a batch as a smooth function of rows of `CompiledPrompt.table`: `forward` at `table[tokens]`."""
        decoder = nnx.merge(self.graph, parameters["network"]).language_model
        tail = self._tail()
        order, lengths = shown_places(symbols[..., -1] > 0, tail.shape[1])
        behind = jnp.broadcast_to(decoder.embed(tail), (len(symbols), tail.shape[1], symbols.shape[2] - 1))
        whole = jnp.concatenate([symbols[..., :-1].astype(behind.dtype), behind], axis=1)
        return self._margins(parameters, jnp.take_along_axis(whole, order[..., None], axis=1), lengths, images)

    def tower(
        self, parameters: Any, tokens: Int32[Array, "batch length"], images: Float32[Array, "batch height width 3"]
    ) -> Float32[Array, "batch features"]:
        """The tower's features of all views of each picture side by side, as the projector reads them.

        Tokens are not looked at.
        """
        assert self.layout.pixels is not None
        network = nnx.merge(self.graph, parameters["network"])
        views = self.layout.pixels.distinct(images)
        features = network.tower_features(views.reshape(-1, *views.shape[2:]))
        return features.reshape(len(images), -1).astype(jnp.float32)

    def of_tower(
        self,
        parameters: Any,
        tokens: Int32[Array, "pictures texts length"],
        features: Float32[Array, "pictures features"],
    ) -> Float32[Array, "pictures texts"]:
        """Margins of several texts with each picture, given the tower's features in the place of its pixels."""
        assert self.layout.pixels is not None
        network = nnx.merge(self.graph, parameters["network"])
        decoder, pictures = network.language_model, len(tokens)
        words, lengths = self._shown(parameters, tokens)
        size = jax.eval_shape(self.layout.pixels.distinct, self._blank(pictures)).shape[:2]
        width = network.config.vision.hidden_size * len(network.config.vision.feature_layers)
        grid = features.reshape(*size, -1, width).astype(network.dtype)
        shown = network.from_tower(grid, self.layout.pixels.image_size)
        cache = decoder.extend(self._around(network, shown, pictures), parameters["prefix"])
        hidden = decoder.last_hidden(decoder.embed(words), lengths, cache)
        return self._compared(decoder, hidden).reshape(tokens.shape[:2])

    def _shown(self, parameters: Any, tokens: Int32[Array, "pictures texts length"]) -> tuple[Array, Array]:
        """The network's words of every text of every picture, a row each, and how many of them count."""
        pictures, texts, length = tokens.shape
        return shown_words(parameters["alphabet"], tokens.reshape(pictures * texts, length), self._tail())

    def _blank(self, pictures: int) -> jax.ShapeDtypeStruct:
        assert self.layout.pixels is not None
        return jax.ShapeDtypeStruct((pictures, *self.layout.pixels.image_size, 3), jnp.float32)

    def next_token(
        self,
        parameters: Any,
        tokens: Int32[Array, "batch length"],
        images: Float32[Array, "batch height width 3"],
        generated: Int32[Array, "batch steps"],
        step: Int32[Array, ""],
    ) -> tuple[Int32[Array, " batch"], Bool[Array, " batch"]]:
        """The likeliest token after `step` generated ones, and whether all logits were numbers.

        Columns of `generated` from `step` on have no influence.
        """
        after = jnp.asarray(self.layout.after, jnp.int32)
        tail = jnp.concatenate([jnp.broadcast_to(after, (len(tokens), after.size)), generated], axis=1)
        words, lengths = shown_words(parameters["alphabet"], tokens, tail)
        decoder = nnx.merge(self.graph, parameters["network"]).language_model
        spoken = decoder.embed(words)
        logits = decoder.logits(self._last_hidden(parameters, spoken, lengths - generated.shape[1] + step, images))
        return jnp.argmax(logits, axis=1).astype(jnp.int32), jnp.isfinite(logits).all(axis=1)

    def _tail(self) -> Int32[Array, "1 tail"]:
        """Tokens behind the user's text, up to where the answers part."""
        return jnp.asarray([[*self.layout.after, *self.layout.beginning]], jnp.int32)

    def _margins(
        self, parameters: Any, spoken: Float[Array, "rows total hidden"], lengths: Array, images: Array
    ) -> Float32[Array, " rows"]:
        """Margins of embedded texts with their tails."""
        decoder = nnx.merge(self.graph, parameters["network"]).language_model
        return self._compared(decoder, self._last_hidden(parameters, spoken, lengths, images))

    def _compared(self, decoder: Any, hidden: Float[Array, "rows hidden"]) -> Float32[Array, " rows"]:
        """Margins at the hidden states where the two answers part."""
        layout = self.layout
        logits = _label_logits(decoder, hidden, (*layout.unsafe, *layout.safe))
        unsafe, safe = logits[:, : len(layout.unsafe)], logits[:, len(layout.unsafe) :]
        return jax.nn.logsumexp(unsafe, axis=1) - jax.nn.logsumexp(safe, axis=1)

    def _last_hidden(
        self,
        parameters: Any,
        spoken: Float[Array, "rows total hidden"],
        lengths: Int32[Array, " rows"],
        images: Float32[Array, "pictures height width 3"],
    ) -> Float[Array, "rows hidden"]:
        """Hidden state of each copy's last token; rows that share a picture follow each other."""
        network = nnx.merge(self.graph, parameters["network"])
        decoder, rows = network.language_model, len(spoken)

        def in_one_text(images: Array) -> Array:
            front = self._front(network, images, rows)
            embeddings = jnp.concatenate([front, spoken], axis=1)
            return decoder.last_hidden(embeddings, lengths + front.shape[1], parameters["prefix"])

        def behind_pictures(images: Array) -> Array:
            cache = decoder.extend(self._front(network, images, len(images)), parameters["prefix"])
            return decoder.last_hidden(spoken, lengths, cache)

        each = in_one_text if len(images) == rows else behind_pictures
        if self.layout.pixels is None or not self.share_image:
            return each(images)
        return jax.lax.cond(jnp.all(images == images[:1]), lambda images: behind_pictures(images[:1]), each, images)

    def _front(self, network: Any, images: Array, rows: int) -> Float[Array, "rows length hidden"]:
        """Embeddings of what stands before the user's text and is not in the cache of the prompt."""
        pixels = self.layout.pixels
        shown = None if pixels is None else _picture(network, pixels, images)
        return self._around(network, shown, rows)

    def _around(
        self, network: Any, shown: Float[Array, "rows tokens hidden"] | None, rows: int
    ) -> Float[Array, "rows length hidden"]:
        """The same, given the embeddings that stand for the pictures."""
        decoder, layout = network.language_model, self.layout

        def constant(ids: tuple[int, ...]) -> Array:
            embedded = decoder.embed(jnp.asarray([ids], jnp.int32).reshape(1, len(ids)))
            return jnp.broadcast_to(embedded, (rows, *embedded.shape[1:]))

        parts = [] if self.cached else [constant(layout.before)]
        if shown is not None:
            parts.append(shown.astype(decoder.dtype))
        return jnp.concatenate([*parts, constant(layout.between)], axis=1)

    def hidden(
        self, parameters: Any, tokens: Int32[Array, "batch length"], images: Float32[Array, "batch height width 3"]
    ) -> Float32[Array, "batch hidden"]:
        """The state that margins are read from, for each pair of a batch."""
        network = nnx.merge(self.graph, parameters["network"])
        tail = jnp.asarray([[*self.layout.after, *self.layout.beginning]], jnp.int32)
        words, lengths = shown_words(parameters["alphabet"], tokens, tail)
        front = self._front(network, images, len(tokens))
        whole = jnp.concatenate([front, network.language_model.embed(words)], axis=1)
        states = network.language_model.last_hidden(whole, lengths + front.shape[1], parameters["prefix"])
        return states.astype(jnp.float32)


@dataclasses.dataclass(frozen=True, eq=False)
class CompiledPrompt:
    """A prompt with the network behind it.

    Attributes:
      layout: the prompt.
      image_tokens: positions that the picture takes in it.
      positions: of the longest prompt, the beginning of the answer included.
      forward: the margin as a pure function of parameters, symbols and pixels.
      parameters: weights, alphabet, and the keys and values of what stands before the picture where they are kept.
    """

    layout: PromptLayout
    image_tokens: int
    positions: int
    forward: Forward
    parameters: dict[str, Any]
    _margin: Callable[..., Any]
    _next: Callable[..., Any]

    def margin(self, tokens: Int32[Array, "b l"], images: Float32[Array, "b height width 3"]) -> Float32[Array, " b"]:
        """Margins of a batch."""
        return self._margin(self.parameters, tokens, images)

    def table(self) -> Float[Array, "symbols wide"]:
        """Embeddings of the symbols, and behind each 1 for PAD and 0 for all others; PAD's embedding is 0."""
        decoder = nnx.merge(self.forward.graph, self.parameters["network"]).language_model
        rows = decoder.embed(self.parameters["alphabet"][None])[0]
        pad = (jnp.arange(len(rows)) == PAD)[:, None]
        return jnp.concatenate([jnp.where(pad, jnp.zeros_like(rows), rows), pad.astype(rows.dtype)], axis=1)

    def generate(
        self, tokens: Int32[Array, "b l"], images: Float32[Array, "b height width 3"], steps: int
    ) -> Int32[np.ndarray, "b steps"]:
        """Greedy answers as token ids.

        Raises:
          ValueError: if a logit is no finite number.
        """
        answer = np.zeros((len(tokens), steps), np.int32)
        for step in range(steps):
            found, finite = self._next(self.parameters, tokens, images, jnp.asarray(answer), jnp.int32(step))
            if not np.asarray(finite).all():
                raise ValueError("The checkpoint gives a logit that is no finite number: its weights cannot be used.")
            answer[:, step] = np.asarray(found)
        return answer


def compile_prompt(
    network: Any, layout: PromptLayout, alphabet: Alphabet, settings: GuardSettings, mesh: Mesh | None
) -> CompiledPrompt:
    """A prompt with the network behind it.

    Raises:
      ValueError: if the views of a picture do not fit the network, or the prompt is too long for it.
    """
    image_tokens = 0 if layout.pixels is None else _picture_length(network, layout.pixels)
    parts = (layout.before, layout.between, layout.after, layout.beginning)
    positions = sum(map(len, parts)) + image_tokens + settings.text_length
    most = network.config.text.positions
    if most is not None and positions > most:
        raise ValueError(
            f"The prompt takes up to {positions} positions, more than the {most} that the checkpoint was made for; "
            "choose a smaller image_size or text_length, or a shorter policy."
        )
    # static, and part of the graph: prompts with and without a picture share the weights only
    if layout.pixels is None:
        network.place(None, None)
    else:
        network.place(len(layout.before), layout.pixels.view_size)
    graph, state = nnx.split(network)
    cached = settings.template == "policy_first" and bool(layout.before)
    forward = Forward(graph, layout, cached, settings.share_image)
    table = jnp.asarray(alphabet.table)
    if mesh is not None:
        table = jax.device_put(table, NamedSharding(mesh, PartitionSpec()))
    prefix = _prefix_cache(layout.before, network) if cached else None
    parameters = {"network": state, "alphabet": table, "prefix": prefix}
    return CompiledPrompt(
        layout, image_tokens, positions, forward, parameters, jax.jit(forward), jax.jit(forward.next_token)
    )


def shown_words(
    table: Int32[Array, " symbols"], tokens: Int32[Array, "batch length"], tail: Int32[Array, "rows tail"]
) -> tuple[Int32[Array, "batch total"], Int32[Array, " batch"]]:
    """Token ids that the network is shown: the text without PADs, then the tail; and the number of them per row."""
    places, lengths = shown_places(tokens == PAD, tail.shape[1])
    tail = jnp.broadcast_to(tail, (len(tokens), tail.shape[1]))
    return jnp.take_along_axis(jnp.concatenate([table[tokens], tail], axis=1), places, axis=1), lengths


def shown_places(
    pad: Bool[Array, "batch length"], tail: int
) -> tuple[Int32[Array, "batch total"], Int32[Array, " batch"]]:
    """Where in the text with its tail behind it each position that the network is shown comes from, and their number.

    What is no pad moves up, the tail follows it; behind that stands the tail's last position again and again.
    """
    order = jnp.pad(jnp.argsort(pad, axis=1, stable=True).astype(jnp.int32), ((0, 0), (0, tail)))
    length = pad.shape[1]
    count = length - jnp.sum(pad, axis=1, dtype=jnp.int32)
    behind = jnp.arange(length + tail, dtype=jnp.int32) - count[:, None]
    return jnp.where(behind < 0, order, length + jnp.clip(behind, 0, tail - 1)), count + tail


def _label_logits(
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


def _prefix_cache(ids: tuple[int, ...], network: Any) -> Any:
    """Keys and values of the tokens before the picture."""
    before = jnp.asarray([ids], jnp.int32)
    return jax.jit(lambda decoder: decoder.extend(decoder.embed(before)))(network.language_model)


def _picture_length(network: Any, pixels: Any) -> int:
    """Embeddings that a picture gives, found without computing them."""
    height, width = pixels.image_size
    blank = jax.ShapeDtypeStruct((1, height, width, 3), jnp.float32)
    features = jax.eval_shape(lambda network, images: _picture(network, pixels, images), network, blank)
    return features.shape[1]


def _picture(network: Any, pixels: ImagePlan, images: Array) -> Float[Array, "pictures length hidden"]:
    """Embeddings of pictures, with their tiles or, where the plan leaves these out, of the whole picture alone."""
    views = pixels.distinct(images)
    return network.base_features(views) if pixels.alone else network.image_features(views, pixels.image_size)
