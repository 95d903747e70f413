"""A vision-language checkpoint as a base classifier: policy, picture and text in, Unsafe or Safe out."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Float32, Int32

from hybrid_rs_jax._jax import applied
from hybrid_rs_jax._text import as_text
from hybrid_rs_jax.classifiers._votes import votes_from_margins
from hybrid_rs_jax.classifiers.vlm._arrays import check_pairs, float_pixels
from hybrid_rs_jax.classifiers.vlm._ties import tie_tolerance
from hybrid_rs_jax.classifiers.vlm.checkpoint import Checkpoint
from hybrid_rs_jax.classifiers.vlm.forward import CompiledPrompt, compile_prompt
from hybrid_rs_jax.classifiers.vlm.prompt import PAD, PromptLayout, text_digest
from hybrid_rs_jax.classifiers.vlm.settings import GuardSettings, first_label
from hybrid_rs_jax.data.inputs import Input
from hybrid_rs_jax.data.pictures import fit
from hybrid_rs_jax.kernels.grid import check_pictures
from hybrid_rs_jax.models import ImagePreprocessor, from_pretrained
from hybrid_rs_jax.models._vision_language import VisionLanguageModel

__all__ = ["VlmGuard"]

#: A text (or its symbols) or None for no text, and an image or None for no image; never both None.
Pair = tuple[str | np.ndarray | None, np.ndarray | None]


class VlmGuard:
    """Says of each (text, picture) pair whether it violates a policy: a checkpoint, asked once per noisy copy.

    What is certified is an array of `text_length` symbols, the user's text and then PADs, and a picture of
    `image_size`. Symbols are 0 for PAD and 1..V-1 for the tokens of the noise alphabet. All else (chat template,
    policy, beginning of the answer, resizing and normalising) is constant and part of the base classifier. PADs are
    dropped before the network is asked, so that a text without noise looks as it does in a prompt of its own length;
    an attacker who appends at most `d` tokens changes at most `d` symbols, an insertion in the middle moves many.

    With the threat "suffix" the positions of the trusted text carry no noise and must stay as they are, so the smoothed
    classifier is defined by the length of that text: its guarantee is for a filter that knows where the trusted text
    ends, and gives it to `encode` apart from what was appended. With "l0" all positions carry noise and nothing needs
    to be known.

    Build one with `from_pretrained`.

    Attributes:
      settings: what was chosen.
      alphabet: what the symbols stand for.
      prompt: the prompt around the certified text, compiled.
      text_length: positions of the certified text region.
      image_size: height and width of the certified pictures.
      vocab_size: size V of the noise alphabet, PAD included.
      on_host: True where answers are generated, in a loop that is Python.
      mesh: devices that the weights are spread over; None for the default device.
    """

    def __init__(
        self, checkpoint: Checkpoint, settings: GuardSettings, layout: PromptLayout, network: Any, mesh: Mesh | None
    ):
        side = checkpoint.sizes.vision.image_size
        self.settings, self.alphabet, self.mesh = settings, checkpoint.alphabet, mesh
        self.image_size = settings.image_size or (side, side)
        self.text_length, self.vocab_size = settings.text_length, len(checkpoint.alphabet)
        self.on_host = settings.decision == "generate"
        self.prompt = compile_prompt(network, layout, checkpoint.alphabet, settings, mesh)
        self._checkpoint, self._network = checkpoint, network

    @classmethod
    def from_pretrained(
        cls,
        source: str | os.PathLike[str],
        settings: GuardSettings | None = None,
        *,
        mesh: Mesh | None = None,
        **choices: Any,
    ) -> VlmGuard:
        """A guard from a checkpoint of a LLaVA network (also in its original layout), of Qwen2.5-VL or of Gemma 3.

        Args:
          source: a folder or a hub id with config.json, safetensors, tokenizer and image processing.
          settings: what is chosen; by default `GuardSettings()`.
          mesh: devices for the weights, from `models.make_mesh`; None for the default device.
          **choices: fields of `GuardSettings` that differ from `settings`.

        Raises:
          ValueError: one sentence, for what is missing, unknown or out of range.
        """
        settings = dataclasses.replace(settings or GuardSettings(), **choices)
        checkpoint = Checkpoint.open(source, settings)
        layout = checkpoint.layout(settings)
        dtype = jnp.dtype(settings.dtype)
        attention: Any = settings.attention
        network = from_pretrained(checkpoint.folder, dtype=dtype, attention=attention, mesh=mesh)
        return cls(checkpoint, settings, layout, network, mesh)

    @cached_property
    def tie_tolerance(self) -> float | None:
        """The largest change of a margin by rounding that is expected; None where answers are generated.

        Measured, not proved: on a CPU beforehand, elsewhere with this guard on its device when it is first asked for.
        """
        sizes = self.settings.dtype, self.vocab_size, self.text_length
        return None if self.on_host else tie_tolerance(self.prompt, *sizes)

    @property
    def tokenizer(self) -> Any:
        """The checkpoint's tokenizer."""
        return self._checkpoint.tokens.tokenizer

    @property
    def preprocessor(self) -> ImagePreprocessor:
        """The checkpoint's image processing."""
        return self._checkpoint.preprocessor

    @property
    def sizes(self) -> Any:
        """Sizes of the network, from config.json."""
        return self._checkpoint.sizes

    def encode(self, trusted: str, image: Float[np.ndarray, "h w c"], appended: str = "") -> Input:
        """One input as it is certified.

        The two texts are tokenised apart: what is appended changes no token of the trusted text, and with the threat
        "suffix" all of it carries noise.

        Args:
          trusted: the user's text, or under the threat "suffix" the part that an attacker cannot touch.
          image: pixels in [0, 1], float [h, w, 3]; a picture of another size is stretched to `image_size`.
          appended: what stands behind it and may be an attacker's; a text to be certified has none.

        Returns:
          Symbols of both texts and then PADs; the picture; which positions carry noise. The others must stay as they
          are for the guarantee to hold.

        Raises:
          ValueError: if the texts are longer than the region or hold a token outside of the alphabet, or the picture
            is none.
        """
        check_pictures(np.asarray(image))
        if self.text_length == 0 and (trusted or appended):
            raise ValueError("Its text must be empty: the guard judges pictures alone.")
        kept = self._symbols(self._text_ids(trusted, "The trusted text"))
        added = self._symbols(self._appended_ids(appended))
        tokens = self._padded(np.concatenate([kept, added]))
        eligible = np.ones(self.text_length, bool)
        if self.settings.threat == "suffix":
            eligible[: len(kept)] = False
        return Input(tokens, self._fitted(float_pixels(image)), eligible)

    def must_stay(self, given: Input) -> Bool[np.ndarray, " length"]:
        """Positions of the text that an attacker must leave as they are for the guarantee of this input to hold.

        They differ from input to input under the threat "suffix", and are none under "l0".
        """
        return ~given.eligible

    def symbols(self, text: str) -> Int32[np.ndarray, " length"]:
        """Symbols of a text and then PADs; see `encode`."""
        return self._padded(self._symbols(self._text_ids(text, "The text")))

    def decode(self, tokens: Int32[np.ndarray, " length"]) -> str:
        """The text that the network is shown for symbols."""
        return self.tokenizer.decode(self.alphabet.tokens(np.asarray(tokens)))

    def __call__(self, tokens: Any, images: Any) -> Bool[Array | np.ndarray, " b"]:
        """Decide for each pair: True = Unsafe.

        Args:
          tokens: symbols, integers [b, text_length] in 0..vocab_size-1.
          images: floats [b, height, width, 3]; clean pixels lie in [0, 1], noisy ones need not.

        Raises:
          ValueError: if shapes do not fit, or (seen only outside of `jax.jit`) a symbol is out of range or a margin is
            no finite number.
        """
        self._check(tokens, images)
        return self._decisions(self.prompt, tokens, images)

    def margin(self, tokens: Any, images: Any) -> Float32[Array, " b"]:
        """`logsumexp(logits for Unsafe) - logsumexp(logits for Safe)`, above 0 for Unsafe; arguments as for a call.

        Raises:
          ValueError: as a call does; also where answers are generated, which have no margin.
        """
        self._check(tokens, images)
        if self.on_host:
            raise ValueError("decision must be logit_mass for a margin, got generate.")
        return self.prompt.margin(jnp.asarray(tokens, jnp.int32), jnp.asarray(images, jnp.float32))

    def generate(self, tokens: Any, images: Any) -> list[str]:
        """Answers by greedy decoding, `generated_tokens` at most; for comparison, one forward pass per token."""
        self._check(tokens, images)
        return self._answers(self.prompt, tokens, images)

    def decide(self, pairs: Sequence[Pair]) -> Bool[np.ndarray, " pairs"]:
        """Decide for texts and pictures as they are, without noise; for the interaction-only filter.

        A missing text is an empty one; symbols may stand in place of a text. A missing picture is left out of the
        prompt, placeholder and all. Pixels need not lie in [0, 1].

        Raises:
          ValueError: as `encode`.
        """
        unsafe = np.zeros(len(pairs), bool)
        for shown in (True, False):
            rows = [number for number, (_, image) in enumerate(pairs) if (image is not None) == shown]
            if rows:
                unsafe[rows] = self._decide([pairs[number] for number in rows], shown)
        return unsafe

    def decide_unfitted(self, tokens: Any, images: Any) -> Bool[np.ndarray, " b"]:
        """Decide for pictures of one size as they are, not fitted to the certified one; no certificate is for these.

        The checkpoint's own image processing cuts, pads or rounds them by their shape, as where it is deployed,
        whatever `views` is. A size is compiled whenever it is asked for, and its pictures are decided one by one, since
        they may be large.

        Args:
          tokens: symbols, integers [b, text_length] in 0..vocab_size-1.
          images: floats [b, height, width, 3] of any height and width.

        Raises:
          ValueError: as a call does; also if pictures of this size make too long a prompt, or none.
        """
        height, width = np.shape(images)[1:3]
        settings = dataclasses.replace(self.settings, image_size=(height, width), views="checkpoint")
        layout = self._checkpoint.layout(settings)
        self._check(tokens, images, (height, width))
        prompt = compile_prompt(self._network, layout, self.alphabet, settings, self.mesh)
        return np.array(
            [bool(self._decisions(prompt, *pair)[0]) for pair in zip(tokens[:, None], images[:, None], strict=True)]
        )

    def functional(self) -> tuple[Callable[..., Array], Any]:
        """The margin as a pure function `apply(parameters, tokens, images)`, and its parameters; one object per guard.

        Raises:
          ValueError: where answers are generated.
        """
        if self.on_host:
            raise ValueError("decision must be logit_mass for a function of the margin, got generate.")
        return self.prompt.forward, self.prompt.parameters

    def tower(self) -> tuple[Callable[..., Array], Any]:
        """The vision tower's features as a pure function `apply(parameters, tokens, images)`, and its parameters.

        A feature is what the projector reads, of all views of a picture side by side; tokens are not looked at.

        Raises:
          ValueError: if the network is no LLaVA network, answers are generated, or no picture is shown, or not all of
            its views.
        """
        if self.settings.views != "checkpoint":
            raise ValueError(f"views must be checkpoint for a tower that is smoothed, got {self.settings.views}.")
        if self.on_host or self.prompt.layout.pixels is None or not isinstance(self._network, VisionLanguageModel):
            raise ValueError(
                "Only a LLaVA network that decides by logits and is shown a picture has a tower to be smoothed, got a "
                f"{type(self._network).__name__} with decision {self.settings.decision}."
            )
        return self.prompt.forward.tower, self.prompt.parameters

    def margin_of_tower(self, tokens: Any, features: Any) -> Float32[Array, "b texts"]:
        """Margins of several texts with each picture, given the tower's features in the place of its pixels.

        Args:
          tokens: symbols, integers [b, texts, text_length] in 0..vocab_size-1.
          features: floats [b, features], as `tower` gives them.

        Raises:
          ValueError: as `tower`, or if shapes do not fit.
        """
        apply, parameters = self.tower()
        tokens, features = jnp.asarray(tokens, jnp.int32), jnp.asarray(features, jnp.float32)
        count, length = len(features), self.text_length
        pictures = jax.ShapeDtypeStruct((count, *self.image_size, 3), jnp.float32)
        wanted = jax.eval_shape(apply, parameters, jnp.zeros((count, length), jnp.int32), pictures).shape
        fits = tokens.ndim == 3 and (tokens.shape[0], tokens.shape[2]) == (count, length)
        if features.shape != wanted or not fits:
            raise ValueError(
                f"tokens and features must have shapes [{count}, texts, {length}] and {list(wanted)}, got "
                f"{list(tokens.shape)} and {list(features.shape)}."
            )
        return applied(self.prompt.forward.of_tower, parameters, tokens, features)

    def embedded(self) -> tuple[Callable[..., Array], Any, Float[Array, "symbols width"]]:
        """`(margin, parameters, table)` for `hybrid_rs_jax.attacks`: gradients reach the text through its embeddings.

        A row of `table` is the embedding of a symbol, and behind it 1 for PAD and 0 for all others: PADs are dropped,
        so that a text's length shows in no embedding, and what stands at a PAD has no gradient.

        Raises:
          ValueError: where answers are generated.
        """
        _, parameters = self.functional()
        return self.prompt.forward.of_embeddings, parameters, self.prompt.table()

    @property
    def shared_picture(self) -> Callable[[], Callable[..., Array]] | None:
        """Gives `functional` for several texts with each picture; None where answers are generated."""
        return None if self.on_host else lambda: self.prompt.forward.of_pictures

    def describe(self) -> dict[str, object]:
        """Everything that decisions depend on, with digests; the weights are read once for theirs."""
        return self._description

    @cached_property
    def text_prompt(self) -> CompiledPrompt:
        """The prompt without a picture."""
        layout = self._checkpoint.layout(self.settings, with_image=False)
        return compile_prompt(self._network, layout, self.alphabet, self.settings, self.mesh)

    def _decide(self, pairs: Sequence[Pair], shown: bool) -> np.ndarray:
        """Pairs with, or without, a picture, padded to a power of two, so that few programs are compiled."""
        blank = np.full((*self.image_size, 3), 0.5, np.float32)
        tokens = [text if isinstance(text, np.ndarray) else self.symbols(text or "") for text, _ in pairs]
        images = [blank if image is None else self._fitted(float_pixels(image)) for _, image in pairs]
        more = (1 << (len(pairs) - 1).bit_length()) - len(pairs)
        symbols, pixels = (np.stack(part + part[-1:] * more) for part in (tokens, images))
        self._check(symbols, pixels)
        prompt = self.prompt if shown else self.text_prompt
        return np.asarray(self._decisions(prompt, symbols, pixels))[: len(pairs)]

    def _decisions(self, prompt: CompiledPrompt, tokens: Any, images: Any) -> Any:
        if not self.on_host:
            margin = prompt.margin(jnp.asarray(tokens, jnp.int32), jnp.asarray(images, jnp.float32))
            return margin > 0 if isinstance(margin, jax.core.Tracer) else votes_from_margins(margin)
        answers = self._answers(prompt, tokens, images)
        return np.array([first_label(text, self.settings.spellings) is True for text in answers])

    def _answers(self, prompt: CompiledPrompt, tokens: Any, images: Any) -> list[str]:
        """Generated answers, up to the token that ends one."""
        steps, end = self.settings.generated_tokens, self.tokenizer.eos_token_id
        ids = prompt.generate(jnp.asarray(tokens, jnp.int32), jnp.asarray(images, jnp.float32), steps).tolist()
        rows = [row[: row.index(end)] if end in row else row for row in ids]
        return [self.tokenizer.decode(row, skip_special_tokens=True) for row in rows]

    def _text_ids(self, text: str, what: str) -> tuple[int, ...]:
        return self.prompt.layout.user_ids(as_text(text, what))

    def _appended_ids(self, text: str) -> tuple[int, ...]:
        return self._checkpoint.tokens.behind(as_text(text, "The appended text")) if text else ()

    def _symbols(self, ids: Sequence[int]) -> Int32[np.ndarray, " n"]:
        return self.alphabet.symbols(ids, self._checkpoint.tokens)

    def _padded(self, symbols: Int32[np.ndarray, " n"]) -> Int32[np.ndarray, " length"]:
        if len(symbols) > self.text_length:
            raise ValueError(f"Its text takes {len(symbols)} tokens, more than the {self.text_length} of the region.")
        return np.concatenate([symbols, np.full(self.text_length - len(symbols), PAD, np.int32)])

    def _fitted(self, pixels: Float32[np.ndarray, "h w 3"]) -> Float32[np.ndarray, "height width 3"]:
        return pixels if pixels.shape[:2] == self.image_size else fit(pixels, *self.image_size)

    @cached_property
    def _description(self) -> dict[str, object]:
        settings, policy = self.settings, self._checkpoint.policy
        return {
            "name": "hybrid_rs_jax.classifiers.VlmGuard",
            "checkpoint": self._checkpoint.folder.name,
            "checkpoint_sha256": self._checkpoint.digest(),
            "policy": policy.name,
            "policy_sha256": text_digest(policy.text),
            "template": settings.template,
            "prompt_sha256": text_digest(*self.prompt.layout.text),
            "decision": settings.decision,
            "labels": list(settings.labels),
            "answer": settings.answer,
            "threat": settings.threat,
            "text_length": self.text_length,
            "alphabet_size": self.vocab_size,
            "alphabet_sha256": self.alphabet.digest,
            "image_size": list(self.image_size),
            "pixels": "float, not clipped",
            "dtype": settings.dtype,
            **({"views": settings.views} if settings.views != "checkpoint" else {}),
            **({"profile": settings.profile} if settings.profile != "generic" else {}),
            **({"template_options": dict(settings.template_options)} if settings.template_options else {}),
            **({"generated_tokens": settings.generated_tokens} if self.on_host else {}),
        }

    def _check(self, tokens: Any, images: Any, size: tuple[int, int] | None = None) -> None:
        check_pairs(tokens, images, self.text_length, self.vocab_size, size or self.image_size)
