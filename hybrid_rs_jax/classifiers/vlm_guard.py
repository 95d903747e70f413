"""A vision-language checkpoint as a base classifier: policy, picture and text in, Unsafe or Safe out."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Float32, Int32

from hybrid_rs_jax.classifiers._vlm_alphabet import PAD, Alphabet
from hybrid_rs_jax.classifiers._vlm_digests import checkpoint_digest, text_digest
from hybrid_rs_jax.classifiers._vlm_labels import ANSWER, LABELS, first_label
from hybrid_rs_jax.classifiers._vlm_settings import CheckpointFiles, GuardSettings, dtype_name, open_checkpoint
from hybrid_rs_jax.classifiers._vlm_view import View, load_network, make_view
from hybrid_rs_jax.data.inputs import Input
from hybrid_rs_jax.data.pictures import fit

__all__ = ["VlmGuard"]

#: A text or None for no text, and an image or None for no image; never both None.
Pair = tuple[str | None, np.ndarray | None]
# Changes of margins between batches of 1, 3, 7, 16 and 64 on a CPU, for random networks of 2 layers of width 32 and of
# 8 layers of width 256, whose margins span 0.2 and 8: at most 2.5e-5 in float32 and 0.29 in bfloat16. Not measured on a
# GPU, nor on trained weights.
_TIES = {"float32": 1e-3, "bfloat16": 1.0}


class VlmGuard:
    """Says of each (text, picture) pair whether it violates a policy: a LLaVA checkpoint, asked once per noisy copy.

    What is certified is an array of `text_length` symbols, the user's text and then PADs, and a picture of
    `image_size`. Symbols are 0 for PAD and 1..V-1 for the tokens of the noise alphabet. All else (chat template,
    policy, beginning of the answer, resizing and normalising) is constant and part of the base classifier. PADs are
    dropped before the network is asked, so that a text without noise looks as it does in a prompt of its own length;
    an attacker who appends at most `d` tokens changes at most `d` symbols, an insertion in the middle moves many.

    With the threat "suffix" only positions behind the clean text carry noise, so the smoothed classifier is defined by
    the length of that text: its guarantee is for a filter that knows where the trusted text ends and puts what was
    appended behind it. With "l0" all positions carry noise and nothing needs to be known.

    Build one with `from_pretrained`.

    Attributes:
      text_length: positions of the certified text region.
      image_size: height and width of the certified pictures.
      vocab_size: size V of the noise alphabet, PAD included.
      on_host: True where answers are generated, in a loop that is Python.
      tie_tolerance: the largest change of a margin by rounding that is expected (measured, not proved); None where
        answers are generated.
    """

    def __init__(self, files: CheckpointFiles, settings: GuardSettings, attention: Any, mesh: Mesh | None):
        side = files.sizes.vision.image_size
        self.settings, self._files, self._mesh = settings, files, mesh
        self.image_size = settings.image_size or (side, side)
        self.text_length, self.vocab_size = settings.text_length, len(files.alphabet)
        self.on_host = settings.decision == "generate"
        self.tie_tolerance = None if self.on_host else _TIES[settings.dtype]
        self._network: Any = None
        view = make_view(files, settings, self.image_size, with_image=True)
        self._network = load_network(files, settings, attention, mesh)
        self._view = view.with_network(self._network, files.alphabet, mesh)

    @classmethod
    def from_pretrained(
        cls,
        source: str | os.PathLike[str],
        *,
        policy: str | os.PathLike[str] = "combination",
        template: str = "checkpoint",
        decision: str = "logit_mass",
        threat: str = "suffix",
        text_length: int = 64,
        image_size: tuple[int, int] | None = None,
        alphabet: Sequence[int] | None = None,
        labels: tuple[str, str] = LABELS,
        answer: str = ANSWER,
        dtype: Any = "float32",
        attention: Literal["auto", "xla", "cudnn"] = "auto",
        uint8: bool = False,
        share_image: bool = False,
        generated_tokens: int = 16,
        mesh: Mesh | None = None,
    ) -> VlmGuard:
        """A guard from a LLaVA-OneVision or LLaVA-1.5 checkpoint.

        Args:
          source: a folder or a hub id with config.json, safetensors, tokenizer and image processing.
          policy: "combination", "text_only" or "image_only" (text of the package), or the path of a text file;
            `{text}` marks the place of the user's text in it.
          template: "checkpoint" keeps the order of the chat template. "policy_first" puts the policy before the
            picture: its keys and values are computed once and kept among the parameters.
          decision: "logit_mass" compares the masses of the answers' next tokens, one forward pass per copy.
            "generate" decodes greedily and looks for the first label; neither label counts as Safe. For comparison.
          threat: positions that carry noise: "suffix" the PADs behind the text, "l0" the whole region.
          text_length: positions of the certified text region, at least 1.
          image_size: height and width of the certified pictures; None for the size of the vision tower's tiles.
          alphabet: ids of the tokens that noise draws from and attackers may use; None for all tokens of the tokenizer
            that are not special. PAD is added.
          labels: words for unsafe and safe; spellings of one label are separated by "|".
          answer: beginning of an answer with `{label}` in it, as the checkpoint was trained to write it.
          dtype: of weights and computation, float32 or bfloat16.
          attention: "xla", "cudnn", or "auto".
          uint8: round noisy pixels to 8 bits and clip them before they are resized, as the checkpoint's own image
            processing does.
          share_image: encode the picture once for a batch whose rows all hold the same one: for noise on tokens
            alone. Both ways are compiled.
          generated_tokens: most tokens that "generate" decodes.
          mesh: devices for the weights, from `models.make_mesh`; None for the default device.

        Raises:
          ValueError: one sentence, for what is missing, unknown or out of range.
        """
        settings = GuardSettings(
            policy=os.fspath(policy),
            template=template,
            decision=decision,
            threat=threat,
            text_length=text_length,
            image_size=image_size,
            labels=labels,
            answer=answer,
            dtype=dtype_name(dtype),
            uint8=uint8,
            share_image=share_image,
            generated_tokens=generated_tokens,
        )
        return cls(open_checkpoint(source, settings.policy, alphabet), settings, attention, mesh)

    @property
    def alphabet(self) -> Alphabet:
        """What the symbols stand for."""
        return self._files.alphabet

    @property
    def tokenizer(self) -> Any:
        """The checkpoint's tokenizer."""
        return self._files.tokenizer

    @property
    def view(self) -> View:
        """The prompt around the certified region, its tokens and where the answers part."""
        return self._view

    def encode(self, text: str, image: Float[np.ndarray, "h w 3"]) -> Input:
        """One input as it is certified.

        Args:
          text: the user's text.
          image: pixels in [0, 1]; a picture of another size is stretched to `image_size`.

        Returns:
          Symbols of the text and then PADs; the picture; which positions carry noise.

        Raises:
          ValueError: if the text is longer than the region, or holds a token outside of the alphabet.
        """
        tokens = self.symbols(text)
        pixels = np.asarray(image, np.float32)
        if pixels.shape[:2] != self.image_size:
            pixels = fit(pixels, *self.image_size)
        eligible = tokens == PAD if self.settings.threat == "suffix" else np.ones(self.text_length, bool)
        return Input(tokens, pixels, eligible)

    def symbols(self, text: str) -> Int32[np.ndarray, " length"]:
        """Symbols of a text and then PADs; see `encode`."""
        found = self.alphabet.symbols(self._view.user_tokens(text), self.tokenizer)
        if len(found) > self.text_length:
            raise ValueError(f"Its text takes {len(found)} tokens, more than the {self.text_length} of the region.")
        return np.concatenate([found, np.full(self.text_length - len(found), PAD, np.int32)])

    def decode(self, tokens: Int32[np.ndarray, " length"]) -> str:
        """The text that the network is shown for symbols."""
        return self.tokenizer.decode(self.alphabet.tokens(np.asarray(tokens)))

    def __call__(self, tokens: Any, images: Any) -> Bool[Array | np.ndarray, " b"]:
        """Decide for each pair: True = Unsafe.

        Args:
          tokens: symbols, integers [b, text_length] in 0..vocab_size-1.
          images: floats [b, height, width, 3]; clean pixels lie in [0, 1], noisy ones need not.

        Raises:
          ValueError: if shapes do not fit, or a symbol is out of range (seen only outside of `jax.jit`).
        """
        self._check(tokens, images)
        return self._decisions(self._view, tokens, images)

    def margin(self, tokens: Any, images: Any) -> Float32[Array, " b"]:
        """`logsumexp(logits for Unsafe) - logsumexp(logits for Safe)`, above 0 for Unsafe; arguments as for a call."""
        self._check(tokens, images)
        return self._view.margin(jnp.asarray(tokens, jnp.int32), jnp.asarray(images, jnp.float32))

    def generate(self, tokens: Any, images: Any) -> list[str]:
        """Answers by greedy decoding, `generated_tokens` at most; for comparison, one forward pass per token."""
        self._check(tokens, images)
        return self._answers(self._view, tokens, images)

    def decide(self, pairs: Sequence[Pair]) -> Bool[np.ndarray, " pairs"]:
        """Decide for texts and pictures as they are, without noise; for the interaction-only filter.

        A missing text is an empty one. A missing picture is left out of the prompt, placeholder and all.

        Raises:
          ValueError: as `encode`.
        """
        unsafe = np.zeros(len(pairs), bool)
        for shown in (True, False):
            rows = [number for number, (_, image) in enumerate(pairs) if (image is not None) == shown]
            if rows:
                unsafe[rows] = self._decide([pairs[number] for number in rows], shown)
        return unsafe

    def functional(self) -> tuple[Callable[..., Array], Any]:
        """The margin as a pure function `apply(parameters, tokens, images)`, and its parameters."""
        return self._view.apply, self._view.parameters

    def describe(self) -> dict[str, Any]:
        """Everything that decisions depend on, with digests; the weights are read once for theirs."""
        return self._description

    def _decide(self, pairs: Sequence[Pair], shown: bool) -> np.ndarray:
        """Pairs with, or without, a picture, padded to a power of two, so that few programs are compiled."""
        blank = np.full((*self.image_size, 3), 0.5, np.float32)
        inputs = [self.encode(text or "", blank if image is None else image) for text, image in pairs]
        inputs += [inputs[-1]] * ((1 << (len(inputs) - 1).bit_length()) - len(inputs))
        tokens = jnp.asarray(np.stack([one.tokens for one in inputs]))
        images = jnp.asarray(np.stack([one.image for one in inputs]))
        view = self._view if shown else self._text_view
        return np.asarray(self._decisions(view, tokens, images))[: len(pairs)]

    def _decisions(self, view: View, tokens: Any, images: Any) -> Any:
        if not self.on_host:
            return view.margin(jnp.asarray(tokens, jnp.int32), jnp.asarray(images, jnp.float32)) > 0
        answers = self._answers(view, tokens, images)
        return np.array([first_label(text, self.settings.labels) is True for text in answers])

    def _answers(self, view: View, tokens: Any, images: Any) -> list[str]:
        """Generated answers, up to the token that ends one."""
        steps, end = self.settings.generated_tokens, self.tokenizer.eos_token_id
        ids = view.generate(jnp.asarray(tokens, jnp.int32), jnp.asarray(images, jnp.float32), steps).tolist()
        rows = [row[: row.index(end)] if end in row else row for row in ids]
        return [self.tokenizer.decode(row, skip_special_tokens=True) for row in rows]

    @cached_property
    def _text_view(self) -> View:
        """The prompt without a picture."""
        view = make_view(self._files, self.settings, self.image_size, with_image=False)
        return view.with_network(self._network, self.alphabet, self._mesh)

    @cached_property
    def _description(self) -> dict[str, Any]:
        settings, (policy, text) = self.settings, self._files.policy
        prompt = self._view.prompt
        return {
            "name": "hybrid_rs_jax.classifiers.VlmGuard",
            "checkpoint": self._files.folder.name,
            "checkpoint_sha256": checkpoint_digest(self._files.folder),
            "policy": policy,
            "policy_sha256": text_digest(text),
            "template": settings.template,
            "prompt_sha256": text_digest(prompt.before, prompt.image, prompt.between, prompt.after),
            "decision": settings.decision,
            "labels": list(settings.labels),
            "answer": settings.answer,
            "threat": settings.threat,
            "text_length": self.text_length,
            "alphabet_size": self.vocab_size,
            "alphabet_sha256": self.alphabet.digest,
            "image_size": list(self.image_size),
            "pixels": "8 bits, clipped" if settings.uint8 else "float, not clipped",
            "dtype": settings.dtype,
            **({"generated_tokens": settings.generated_tokens} if self.on_host else {}),
        }

    def _check(self, tokens: Any, images: Any) -> None:
        if np.ndim(tokens) != 2 or np.shape(tokens)[1] != self.text_length:
            raise ValueError(f"tokens must have shape [batch, {self.text_length}], got {list(np.shape(tokens))}.")
        wanted = [np.shape(tokens)[0], *self.image_size, 3]
        if list(np.shape(images)) != wanted:
            raise ValueError(f"images must have shape {wanted}, got {list(np.shape(images))}.")
        if not jnp.issubdtype(jnp.result_type(tokens), jnp.integer):
            raise ValueError(f"tokens must be integers, got {jnp.result_type(tokens)}.")
        if not isinstance(tokens, jax.core.Tracer):
            values = np.asarray(tokens)
            outside = values[(values < 0) | (values >= self.vocab_size)]
            if outside.size:
                raise ValueError(f"tokens must lie in the noise alphabet 0..{self.vocab_size - 1}, got {outside[0]}.")
