"""A prompt with its tokens, compiled functions and parameters; one with a picture and, where needed, one without."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float32, Int32

from hybrid_rs_jax.classifiers._vlm_alphabet import Alphabet
from hybrid_rs_jax.classifiers._vlm_forward import Forward, NextToken, Sequence, prefix_cache
from hybrid_rs_jax.classifiers._vlm_labels import AnswerTokens, answer_tokens
from hybrid_rs_jax.classifiers._vlm_prompt import Prompt, PromptTokens, render, tokenise, user_tokens
from hybrid_rs_jax.classifiers._vlm_settings import CheckpointFiles, GuardSettings
from hybrid_rs_jax.models import from_pretrained

__all__ = ["View", "load_network", "make_view"]


@dataclasses.dataclass(eq=False)
class View:
    """What surrounds the certified region.

    Attributes:
      prompt: as text; tokens: as token ids; answer: beginning of the answer, and where the answers part.
      pixels: image processing, None without a picture.
      image_tokens: positions of the picture; set by `with_network`, like the rest.
      apply, parameters: the margin as a pure function, and its parameters.
    """

    files: CheckpointFiles
    settings: GuardSettings
    prompt: Prompt
    tokens: PromptTokens
    answer: AnswerTokens
    pixels: Any
    image_tokens: int = 0
    apply: Any = None
    parameters: Any = None

    def with_network(self, network: Any, alphabet: Alphabet, mesh: Mesh | None) -> View:
        """The same with weights.

        Raises:
          ValueError: if the views of a picture do not fit the network, or the prompt is too long for it.
        """
        if self.pixels is not None:
            self.image_tokens = _picture_length(network, self.pixels)
        if self.files.positions is not None and self.positions > self.files.positions:
            raise ValueError(
                f"The prompt takes up to {self.positions} positions, more than the {self.files.positions} that the "
                "checkpoint was made for; choose a smaller image_size or text_length, or a shorter policy."
            )
        graph, state = nnx.split(network)
        cached = self.settings.template == "policy_first" and bool(self.tokens.before)
        sequence = Sequence(graph, self.tokens, self.answer, self.pixels, cached, self.settings.share_image)
        table = jnp.asarray(alphabet.table)
        if mesh is not None:
            table = jax.device_put(table, NamedSharding(mesh, PartitionSpec()))
        prefix = prefix_cache(sequence, network) if cached else None
        self.parameters = {"network": state, "alphabet": table, "prefix": prefix}
        self.apply = Forward(sequence)
        self._margin, self._next = jax.jit(self.apply), jax.jit(NextToken(sequence))
        return self

    @property
    def positions(self) -> int:
        """Positions of the longest prompt, teacher-forced answer included."""
        parts = (self.tokens.before, self.tokens.between, self.tokens.after, self.answer.beginning)
        return sum(map(len, parts)) + self.image_tokens + self.settings.text_length

    def user_tokens(self, text: str) -> tuple[int, ...]:
        """Token ids of a user's text within this prompt."""
        return user_tokens(self.files.tokenizer, self.prompt, self.tokens, self.files.image_token, text)

    def margin(self, tokens: Int32[Array, "b l"], images: Float32[Array, "b h w 3"]) -> Float32[Array, " b"]:
        """Margins of a batch."""
        return self._margin(self.parameters, tokens, images)

    def generate(
        self, tokens: Int32[Array, "b l"], images: Float32[Array, "b h w 3"], steps: int
    ) -> Int32[np.ndarray, "b steps"]:
        """Greedy answers as token ids."""
        answer = np.zeros((len(tokens), steps), np.int32)
        for step in range(steps):
            found = self._next(self.parameters, tokens, images, jnp.asarray(answer), jnp.int32(step))
            answer[:, step] = np.asarray(found)
        return answer


def make_view(files: CheckpointFiles, settings: GuardSettings, image_size: tuple[int, int], with_image: bool) -> View:
    """Prompt, tokens, labels and image processing, without weights.

    Raises:
      ValueError: if template, labels, pictures or lengths do not fit the checkpoint.
    """
    tokenizer, placeholder = files.tokenizer, files.tokenizer.convert_ids_to_tokens(files.image_token)
    if not isinstance(placeholder, str):
        raise ValueError(
            f"The tokenizer in {files.folder} has no token {files.image_token}, the picture's placeholder."
        )
    prompt = render(tokenizer, files.template, files.policy[1], settings.template, placeholder, with_image)
    tokens = tokenise(tokenizer, prompt, files.image_token)
    answer = answer_tokens(tokenizer, prompt, settings.answer, settings.labels)
    pixels = files.preprocessor.plan(*image_size, uint8=settings.uint8) if with_image else None
    side = files.sizes.vision.image_size
    if pixels is not None and pixels.view_size != (side, side):
        raise ValueError(
            f"The image processing in {files.folder} makes views of {pixels.view_size[0]} x {pixels.view_size[1]} "
            f"pixels, but the vision tower takes {side} x {side}."
        )
    return View(files, settings, prompt, tokens, answer, pixels)


def _picture_length(network: Any, pixels: Any) -> int:
    """Embeddings that a picture gives, found without computing them."""
    height, width = pixels.image_size
    blank = jax.ShapeDtypeStruct((1, height, width, 3), jnp.float32)
    features = jax.eval_shape(
        lambda network, images: network.image_features(pixels.distinct(images), pixels.image_size), network, blank
    )
    return features.shape[1]


def load_network(files: CheckpointFiles, settings: GuardSettings, attention: Any, mesh: Mesh | None) -> Any:
    """The network with its weights."""
    return from_pretrained(files.folder, dtype=jnp.dtype(settings.dtype), attention=attention, mesh=mesh)
