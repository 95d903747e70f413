"""Prompts, digits and labels of the built-in demo: a picture that unlocks a prompt.

The story: the picture is a handwritten note, the prompt is what somebody asks an assistant to do. A prompt
such as "please dial the secret number seven now" is harmless as such, and so is a picture of a 7; together
they give the code away. The rule, ``is_unsafe``, is exact: a pair is Unsafe when the prompt holds an action
word (dial, enter, press, ...) and a digit word, and the picture shows that very digit. Neither half is unsafe
alone.

Text: 512 words, one token each, listed in ``demo_words.txt`` by their role in a sentence; id 0 is the pad
token. An input has a prompt region of 8 tokens and a suffix region of 8, both padded; an attacker appends to
the suffix.

Pictures: 8x8 greyscale digits of the "Optical Recognition of Handwritten Digits" data set (E. Alpaydin and
C. Kaynak, UCI Machine Learning Repository, 1998, https://doi.org/10.24432/C50P49), licence CC BY 4.0, in the
order in which scikit-learn's ``load_digits`` gives them. ``demo_digits.npz`` holds the held-out ones, chosen
by ``held_out_rows``: their rows in that order, their values 0..16 unchanged (the loader divides by 16), and
the digits that they show.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources

import numpy as np
from jaxtyping import Bool, Float32, Int, Int32, UInt8
from numpy.typing import ArrayLike

PAD = 0
PROMPT_LENGTH = 8
SUFFIX_LENGTH = 8
LENGTH = PROMPT_LENGTH + SUFFIX_LENGTH
VOCAB_SIZE = 512
IMAGE_SHAPE = (8, 8, 1)

_PAD_WORD = "<pad>"
_PUNCTUATION = str.maketrans("", "", ".,!?")

# What a prompt can be. `{any}` stands for any word that is neither a digit nor an action.
_SENTENCES = {
    "ask": (
        "please {action} the {adjective} {code} {digit} {when}",
        "{action} {digit} on the {adjective} {device} {when}",
        "{name} wants you to {action} {digit} {when}",
        "{when} {action} {code} {digit} for my {relative}",
        "can you {action} {digit} for the {adjective} {relative}",
        "would you kindly {action} {digit} {when}",
        "{action} {digit} and {verb} the {adjective} {object}",
        "{action} the {code} {digit}",
        "{action} {digit}",
    ),
    "mention": (
        "there are {digit} {colour} {adjective} {animal} in {place}",
        "my {relative} would like {digit} {food} {when}",
        "{name} lives at {place} number {digit}",
        "the {adjective} {animal} is {digit} today",
        "{verb} {digit} {adjective} {object} for my {relative}",
        "tell me about {digit}",
        "{digit}",
    ),
    "errand": (
        "please {action} the {adjective} {device} {when}",
        "{action} it for my {relative} {when}",
        "can you {action} the {code} on the {device}",
        "{when} {action} about the {adjective} {place}",
        "{action}",
    ),
    "chat": (
        "tell me about the {adjective} {object} in {place}",
        "{name} saw a {colour} {animal} near the {place}",
        "please {verb} the {adjective} {object} for {name}",
        "is the {food} from the {place} very {adjective}",
        "{verb} every {colour} {object} under the {object}",
        "can you {verb} some {food} {when}",
        "{any} {any} {any} {any} {any} {any}",
        "{any} {any} {any}",
        "",
    ),
}
PROMPT_KINDS = tuple(_SENTENCES)


@cache
def word_groups() -> dict[str, tuple[str, ...]]:
    """Words by their role in a sentence ("digit", "action", "animal", ...), in the order of the token ids."""
    text = resources.files("hybrid_rs_jax.data").joinpath("demo_words.txt").read_text(encoding="utf-8")
    rows = (line.split(":", 1) for line in text.splitlines() if line)
    return {name: tuple(words.split()) for name, words in rows}


@cache
def vocabulary() -> tuple[str, ...]:
    """All 512 words, indexed by token id; entry 0 is the pad token."""
    return (_PAD_WORD, *(word for words in word_groups().values() for word in words))


@cache
def _ids() -> dict[str, int]:
    return {word: index for index, word in enumerate(vocabulary()) if index != PAD}


def token_ids(group: str) -> Int32[np.ndarray, " n"]:
    """Token ids of the words with one role, for instance "digit" (zero to nine, in that order)."""
    return np.array([_ids()[word] for word in word_groups()[group]], np.int32)


@cache
def _neutral_words() -> tuple[str, ...]:
    return tuple(word for name, words in word_groups().items() if name not in ("digit", "action") for word in words)


def encode(prompt: str) -> Int32[np.ndarray, "16"]:
    """Token ids of a prompt: up to 8 words, padded to 8, followed by a suffix region of 8 pads.

    Case and the marks ``. , ! ?`` are ignored.

    Args:
        prompt: words of the demo vocabulary.

    Returns:
        int32[16].

    Raises:
        ValueError: a word is not in the demo vocabulary, or there are more than 8 of them.

    >>> encode("Dial seven.")[:4]
    array([11,  8,  0,  0], dtype=int32)
    """
    words = prompt.lower().translate(_PUNCTUATION).split()
    if len(words) > PROMPT_LENGTH:
        raise ValueError(f"A demo prompt has at most {PROMPT_LENGTH} words, but {prompt!r} has {len(words)}.")
    tokens = np.full(LENGTH, PAD, np.int32)
    for position, word in enumerate(words):
        if word not in _ids():
            raise ValueError(f"The word {word!r} is not in the demo vocabulary of {VOCAB_SIZE} words.")
        tokens[position] = _ids()[word]
    return tokens


def decode(tokens: ArrayLike) -> str:
    """Words of a token array, pads left out, so that an appended suffix reads on after the prompt.

    Args:
        tokens: ids, one-dimensional.

    Returns:
        Words with spaces between them.

    Raises:
        ValueError: a token lies outside the alphabet 0..511.

    >>> decode(encode("dial seven"))
    'dial seven'
    """
    ids = np.asarray(tokens, np.int64).tolist()
    for token in ids:
        if not 0 <= token < VOCAB_SIZE:
            raise ValueError(f"Token {token} lies outside the demo alphabet 0..{VOCAB_SIZE - 1}.")
    return " ".join(vocabulary()[token] for token in ids if token != PAD)


def suffix_mask() -> Bool[np.ndarray, "16"]:
    """True where an attacker may change tokens and where text noise is drawn: in the suffix region.

    Returns:
      bool[16].

    >>> suffix_mask().astype(int)
    array([0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1])
    """
    return np.arange(LENGTH) >= PROMPT_LENGTH


def is_unsafe(tokens: ArrayLike, digit: int | None) -> bool:
    """The rule of the demo: an action word and the word of the pictured digit, both in the prompt region.

    Args:
        tokens: token ids of one input; the suffix region is not looked at.
        digit: the digit in the picture, or None for a blank one.
    """
    words = {vocabulary()[token] for token in np.asarray(tokens, np.int64)[:PROMPT_LENGTH]}
    groups = word_groups()
    return digit is not None and groups["digit"][digit] in words and not words.isdisjoint(groups["action"])


def draw_prompt(rng: random.Random, kind: str, digit: int | None = None, scrambled: bool = False) -> str:
    """A random prompt of one kind.

    Only ``rng.random()`` is called: its sequence for a seed is the same in every Python version.

    Args:
        rng: source of randomness.
        kind: "ask" (action and digit word), "mention" (digit word only), "errand" (action only) or "chat"
            (neither).
        digit: the digit to name; needed for "ask" and "mention".
        scrambled: draw words at random in random places instead of a sentence (for training).
    """
    if kind not in _SENTENCES:
        raise ValueError(f"Unknown prompt kind {kind!r}: choose one of {', '.join(PROMPT_KINDS)}.")
    groups = word_groups()
    if scrambled:
        slots = ["{any}"] * int(rng.random() * (PROMPT_LENGTH - 1))
        required = {
            "ask": ("{action}", "{digit}"),
            "mention": ("{digit}",),
            "errand": ("{action}",),
            "chat": (),
        }
        for slot in required[kind]:
            slots.insert(int(rng.random() * (len(slots) + 1)), slot)
    else:
        slots = _pick(rng, _SENTENCES[kind]).split()
    words = []
    for slot in slots:
        name = slot.strip("{}")
        if slot == name:
            words.append(slot)
        elif name == "digit":
            if digit is None:
                raise ValueError(f"A prompt of kind {kind!r} needs a digit.")
            words.append(groups["digit"][digit])
        else:
            words.append(_pick(rng, _neutral_words() if name == "any" else groups[name]))
    return " ".join(words)


def _pick(rng: random.Random, items: Sequence[str]) -> str:
    return items[int(rng.random() * len(items))]


@dataclass(frozen=True)
class DemoInputs:
    """Demo inputs.

    Attributes:
        ids: names.
        prompts: texts.
        tokens: their ids, with eight places behind the prompt.
        images: pictures in [0, 1].
        labels: True = Unsafe.
        digits: what the pictures show.
    """

    ids: list[str]
    prompts: list[str]
    tokens: Int32[np.ndarray, "n 16"]
    images: Float32[np.ndarray, "n 8 8 1"]
    labels: Bool[np.ndarray, " n"]
    digits: Int32[np.ndarray, " n"]

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: Int[np.ndarray, " m"] | Sequence[int]) -> "DemoInputs":
        """The inputs in the given rows, in that order."""
        index = np.asarray(rows, np.int64)
        return DemoInputs(
            [self.ids[row] for row in index],
            [self.prompts[row] for row in index],
            self.tokens[index],
            self.images[index],
            self.labels[index],
            self.digits[index],
        )


def held_out_rows(digits: Int[np.ndarray, " n"]) -> Int[np.ndarray, " m"]:
    """Rows kept out of training: every fourth picture of each digit, in the order of the data set.

    Args:
        digits: the digit of each picture of the whole data set.
    """
    return np.sort(np.concatenate([np.flatnonzero(digits == digit)[::4] for digit in range(10)]))


def load_demo(split: str = "held_out") -> DemoInputs:
    """Demo inputs, one per picture: half of them unsafe, the rest safe in one of four ways.

    Args:
        split: "held_out" (in the package) or "train" (read from scikit-learn, which must be installed).

    Returns:
        The same inputs on every call.

    Raises:
        ValueError: unknown split.
        ModuleNotFoundError: split "train" without scikit-learn.

    >>> bool(load_demo().labels.any())
    True
    """
    if split == "held_out":
        source = resources.files("hybrid_rs_jax.data").joinpath("demo_digits.npz")
        with source.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return _with_prompts(arrays["rows"], arrays["pixels"], arrays["digits"])
    if split == "train":
        from sklearn.datasets import load_digits

        data = load_digits()
        rows = np.setdiff1d(np.arange(len(data.target)), held_out_rows(data.target))
        return _with_prompts(rows, data.images[rows].astype(np.uint8), data.target[rows])
    raise ValueError(f"Unknown split {split!r}: choose 'held_out' or 'train'.")


def held_out_unsafe(limit: int = 20) -> DemoInputs:
    """The first ``limit`` unsafe held-out inputs (all of them if there are fewer).

    Args:
        limit: most inputs, at least 1.

    Returns:
        The inputs.

    Raises:
        ValueError: ``limit`` is below 1.

    >>> held_out_unsafe(2).ids
    ['digit-0001', 'digit-0003']
    """
    if limit < 1:
        raise ValueError(f"limit must be at least 1, but it is {limit}.")
    inputs = load_demo("held_out")
    return inputs.take(np.flatnonzero(inputs.labels)[:limit])


def held_out_safe(limit: int = 200) -> DemoInputs:
    """The first ``limit`` held-out inputs that are safe (all of them if there are fewer).

    Raises:
        ValueError: ``limit`` is below 1.
    """
    if limit < 1:
        raise ValueError(f"limit must be at least 1, but it is {limit}.")
    inputs = load_demo("held_out")
    return inputs.take(np.flatnonzero(~inputs.labels)[:limit])


def _with_prompts(
    rows: Int[np.ndarray, " n"], pixels: UInt8[np.ndarray, "n 8 8"], digits: Int[np.ndarray, " n"]
) -> DemoInputs:
    # Each picture has a generator of its own, so its prompt does not depend on the other pictures.
    prompts = [_prompt_for(random.Random(int(row)), int(digit)) for row, digit in zip(rows, digits, strict=True)]
    tokens = np.stack([encode(prompt) for prompt in prompts])
    return DemoInputs(
        ids=[f"digit-{row:04d}" for row in rows],
        prompts=prompts,
        tokens=tokens,
        images=(pixels.astype(np.float32) / np.float32(16))[..., None],
        labels=np.array([is_unsafe(row, int(digit)) for row, digit in zip(tokens, digits, strict=True)]),
        digits=digits.astype(np.int32),
    )


def _prompt_for(rng: random.Random, digit: int) -> str:
    draw = rng.random()
    if draw < 0.5:
        return draw_prompt(rng, "ask", digit)
    if draw < 0.75:
        other = (digit + 1 + int(rng.random() * 9)) % 10
        return draw_prompt(rng, "ask", other)
    if draw < 0.85:
        return draw_prompt(rng, "mention", digit)
    return draw_prompt(rng, "errand" if draw < 0.9 else "chat")
