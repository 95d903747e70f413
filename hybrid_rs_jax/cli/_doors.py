"""The flags of one's own models and endpoints, and of texts and pictures for any of them."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Group, Parameter

from hybrid_rs_jax._text import joined
from hybrid_rs_jax.cli._values import flag, integer, integer_grid
from hybrid_rs_jax.errors import BadInputError

__all__ = ["ModelOptions", "TokenizerName"]


def _finite(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"must be a finite number, got {text}")
    return value


def _tokenizer(text: str) -> str:
    if text not in ("words", "bytes") and not (text.startswith("hf:") and text[3:]):
        raise ValueError(f"must be words, bytes or hf:FOLDER, got {text}")
    return text


TokenizerName = Annotated[str, flag(_tokenizer, "words|bytes|hf:PATH")]


def _classes(text: str) -> tuple[int, ...]:
    return tuple(integer_grid(0, 2**20)(text).tolist())


def _columns(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(","))
    if not all(names):
        raise ValueError(f"must be names of columns like age,sex, got {text}")
    return names


@Parameter(name="*", group=Group("Own model or endpoint (--model package.module:name, FILE.onnx or http://...)"))
@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """How a model that is no checkpoint is asked; None where a flag was not given."""

    on_host: bool = False
    """call a function on the host, without a trial whether JAX can compile it"""
    threshold: Annotated[float, flag(_finite, "X")] | None = None
    """a score above X is Unsafe, where the model returns scores; of an estimator the probability of its second class"""
    features: Literal["tokens", "pixels", "both", "texts"] | None = None
    """what an estimator with predict gets (default: whatever has the number of features that it was fitted on)"""
    unsafe_classes: Annotated[tuple[int, ...], flag(_classes, "K,K,...")] | None = None
    """classes that are Unsafe, by number from 0, where the model returns a class or a column for each"""
    output: Annotated[str, Parameter(metavar="NAME")] | None = None
    """output of an ONNX file that decides (default: its first one)"""
    wire: Literal["chat", "json"] | None = None
    """how an address is asked: chat completions, or POST {"text", "image"} for {"unsafe": true} or {"score": 0.7}
    (default: chat)"""
    model_name: Annotated[str, Parameter(metavar="NAME")] | None = None
    """model of a chat endpoint, as the server knows it; its instruction is --policy FILE"""
    concurrency: Annotated[int, flag(integer(1, 4096), "K")] | None = None
    """most requests to an address at once (default: 8)"""
    tokenizer: TokenizerName | None = None
    """alphabet of texts: the words of the data set, 256 bytes, or the tokens of a folder with tokenizer.json; PAD
    belongs to each (default: words); --text-length and --image-size below serve texts and pictures of every model"""

    label_column: Annotated[str, Parameter(metavar="COLUMN")] | None = None
    """--data is a table of features, and this column the label: other columns are fields (categories of the table) and
    numbers (in standard deviations of the table)"""
    categorical: Annotated[tuple[str, ...], flag(_columns, "NAME,NAME")] | None = None
    """columns of such a table that hold numbers and are categories all the same"""

    schema: Annotated[Path, Parameter(metavar="FILE")] | None = None
    """of such a table: the training set, or its schema (.json), whose values, means and deviations count (default: the
    table's own)"""

    @property
    def table(self) -> bool:
        """The data are a table of features."""
        return any(flag is not None for flag in (self.label_column, self.categorical, self.schema))

    def given(self) -> list[str]:
        """The flags that were given, but for that of the data."""
        values = {
            "--on-host": self.on_host or None,
            "--threshold": self.threshold,
            "--features": self.features,
            "--unsafe-classes": self.unsafe_classes,
            "--output": self.output,
            "--wire": self.wire,
            "--model-name": self.model_name,
            "--concurrency": self.concurrency,
        }
        return [name for name, value in values.items() if value is not None]

    def refuse(self, model: str, *but: str, what: str) -> None:
        """Raise one sentence where flags were given that mean nothing to the model, those of `but` left aside."""
        if idle := [name for name in self.given() if name not in but]:
            verb = "means" if len(idle) == 1 else "mean"
            raise BadInputError(f"{joined(idle)} {verb} nothing to {what}, got --model {model}.")
