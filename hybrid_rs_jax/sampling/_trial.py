"""Whether a plain callable may be traced once and be what it was: a trial before each run.

`jax.jit` freezes everything that a Python function does besides JAX: NumPy random numbers, counters and globals would
give the same votes on every batch. So a callable without parameters of its own is traced anew in each session, and
called as it is on noisy copies beside its traced program. Whatever speaks against tracing sends it to the host: what
draws from a generator of the process, what is traced to another program the second time, what decides otherwise.

Nor may a decision hang on the other copies of its batch, or on its place among them: then votes are not independent,
no bound holds, and on the host neither. So copies that were decided are asked about again in other company.
"""

from __future__ import annotations

import dataclasses
import random
import re
import sys
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import jax
import jax.extend.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from hybrid_rs_jax.classifiers.base import BaseClassifier
from hybrid_rs_jax.features.base import Encoder

__all__ = ["COMPANY", "TRIAL_COPIES", "Program", "check_host_company", "traced"]

#: Copies per batch of a trial; there are two batches.
TRIAL_COPIES = 64
#: Traces that must read the same.
_TRACES = 3
#: Copies in other company that may be decided otherwise: one margin near zero may fall to the other side by rounding.
_ROUNDED = 1
_KEPT = 64
#: Copies that a classifier on the host is asked about again in other company, and how many of them rounding may change.
COMPANY, _ROUNDED_HOST = 32, 2
#: So often both batches are asked about before one that looks at its company is refused.
_ASKED_AGAIN = 8

Batch = tuple[Array, Array]


@dataclasses.dataclass(frozen=True)
class Program:
    """A classifier as a pure function: `apply(parameters, tokens, images)`.

    Classifiers whose traces read the same share one `apply`, so that the engine compiles once, and what a trace has
    captured is an argument: another value of a global never meets an old program.
    """

    apply: Callable[..., Any]
    parameters: Any


def traced(
    classifier: BaseClassifier | Encoder,
    like: tuple[Any, Any],
    batches: list[Batch],
    agree: Callable[[np.ndarray, np.ndarray], bool] = np.array_equal,
) -> Program | str:
    """The classifier as a program for batches shaped like `like`, or the reason why it must stay on the host.

    Args:
      classifier: a callable of tokens and images that gives decisions.
      like: shapes and dtypes of the batches of the run.
      batches: noisy copies to try it on.
      agree: whether what it gave when called is what its program gives; features agree up to rounding.

    Raises:
      ValueError: if what it says about a copy depends on the batch around it.
    """
    before = _generators()
    try:
        closed, *others = [_trace(classifier, like) for _ in range(_TRACES)]
    except Exception as error:  # what the user's function raises on tracers is no error of theirs
        return f"JAX cannot trace it ({type(error).__name__})"
    if len(closed.out_avals) != 1:
        return "traced it returns several arrays"
    if not _depends_on_input(closed):
        return "its traced output does not depend on its input"
    if _generators()[: len(before)] != before:
        return "it draws random numbers outside of JAX"
    if not all(_reads_the_same(closed, other) for other in others):
        return "traced again it is another program"
    try:
        asked = [np.asarray(classifier(*batch)) for batch in batches]
    except Exception as error:
        return f"called with JAX arrays it raises {type(error).__name__}"
    try:
        program = _program(_trace(classifier, batches[0]))  # one trace for all batches, as in the run
    except Exception as error:
        return f"JAX cannot trace it again ({type(error).__name__})"
    compiled = jax.jit(program.apply)
    for batch, decisions in zip(batches, asked, strict=True):
        again = np.asarray(compiled(program.parameters, *batch))
        if again.shape != decisions.shape or not agree(again, decisions):
            return "called on the same noisy copies it decides otherwise than its traced program"
    _check_company(lambda *batch: np.asarray(compiled(program.parameters, *batch)), batches, asked, agree)
    return _program(closed)


def _check_company(
    decide: Callable[..., np.ndarray],
    batches: list[Batch],
    asked: list[np.ndarray],
    agree: Callable[[np.ndarray, np.ndarray], bool],
) -> None:
    """Raise a ValueError if copies of all batches, put together by what was said about them, get other answers."""
    said = np.concatenate(asked)
    size = len(asked[0])
    order = np.argsort(said.reshape(len(said), -1)[:, 0], kind="stable")[::-1][:size]
    mixed = (np.concatenate([np.asarray(part) for part in parts])[order] for parts in zip(*batches, strict=True))
    again = decide(*mixed)
    apart = int((again != said[order]).reshape(size, -1).any(axis=1).sum())
    if apart > _ROUNDED and not agree(again, said[order]):
        raise ValueError(_company_sentence(apart, size))


def check_host_company(
    decide: Callable[[np.ndarray, np.ndarray], np.ndarray], tokens: np.ndarray, images: np.ndarray, said: np.ndarray
) -> None:
    """Raise a ValueError if a callable on the host decides about copies by the rest of their batch.

    Copies that got one answer are asked about without the others. A classifier that draws its answers is legal: only
    one that says the same on each of two batches, every time, and otherwise on one than on the other is refused. What
    costs one batch of `COMPANY` copies, unless there is a difference.

    Args:
      decide: the classifier's answers on a batch, integers or bools.
      tokens, images: a batch that was decided, of more than `COMPANY` copies.
      said: its answers, of two kinds at least.
    """
    order = np.argsort(said, kind="stable")[::-1][:COMPANY]
    some = tokens[order], images[order]
    first = decide(*some)
    if (apart := int((first != said[order]).sum())) <= _ROUNDED_HOST:
        return
    for _ in range(_ASKED_AGAIN):
        if np.any(decide(tokens, images) != said) or np.any(decide(*some) != first):
            return  # its answers are drawn
    raise ValueError(_company_sentence(apart, COMPANY))


def _company_sentence(apart: int, size: int) -> str:
    return (
        f"The answer on a noisy copy must depend on that copy alone, but {apart} of {size} copies got another one "
        "beside other copies: look for statistics of the batch, or for a random key that is the same in each call."
    )


def _generators() -> list[object]:
    """States of the generators that belong to the process; last, where it is loaded, PyTorch's."""
    torch = sys.modules.get("torch")
    legacy = np.random.get_state(legacy=False)  # noqa: NPY002 to watch the old generator
    states = [random.getstate(), repr(legacy["state"]), legacy["has_gauss"], legacy["gauss"]]
    return states if torch is None else [*states, torch.random.get_rng_state().tolist()]


def _reads_the_same(one: Any, other: Any) -> bool:
    """Whether two traces say the same, addresses aside, and have captured the same values."""
    texts = [re.sub(r"\bat 0x[0-9a-f]+", "", str(closed.jaxpr)) for closed in (one, other)]
    return texts[0] == texts[1] and all(a is b or _equal(a, b) for a, b in zip(one.consts, other.consts, strict=True))


def _equal(one: Any, other: Any) -> bool:
    if any(isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jax.dtypes.prng_key) for value in (one, other)):
        one, other = jax.random.key_data(one), jax.random.key_data(other)
    return np.shape(one) == np.shape(other) and np.asarray(one).tobytes() == np.asarray(other).tobytes()


def _trace(classifier: BaseClassifier | Encoder, like: tuple[Any, Any]) -> Any:
    """A fresh trace: JAX keeps those of a function that it has seen, with the globals that it read then."""
    return jax.make_jaxpr(lambda tokens, images: classifier(tokens, images))(*like)


def _depends_on_input(closed: Any) -> bool:
    """Whether anything leads from the arguments to the result."""
    reached = set(closed.jaxpr.invars)
    for equation in closed.jaxpr.eqns:
        if any(_is_variable(name) and name in reached for name in equation.invars):
            reached.update(equation.outvars)
    return any(_is_variable(name) and name in reached for name in closed.jaxpr.outvars)


def _is_variable(name: Any) -> bool:
    return not isinstance(name, jax.extend.core.Literal)


_programs: OrderedDict[str, Callable[..., Any]] = OrderedDict()


def _program(closed: Any) -> Program:
    """The trace as a function of its constants; traces that read the same give the same function.

    The kept function holds its trace, and so everything that the text names by an address.
    """
    text = f"{closed.jaxpr} {closed.in_avals} {[np.shape(value) for value in closed.consts]}"
    apply = _programs.pop(text, None)
    if apply is None:
        apply = _applier(closed.jaxpr)
    _programs[text] = apply
    while len(_programs) > _KEPT:
        _programs.popitem(last=False)
    return Program(apply, list(closed.consts))


def _applier(jaxpr: Any) -> Callable[..., Any]:
    def apply(constants: list[Any], tokens: Array, images: Array) -> Any:
        closed = jax.extend.core.ClosedJaxpr(jaxpr, constants)
        results = jax.extend.core.jaxpr_as_fun(closed)(tokens, images)
        return results[0]

    return apply
