"""Train a tiny LLaVA-OneVision guard on the demo's task and store it as a Hugging Face checkpoint.

    python experiments/train_tiny_guard.py --out experiments/tiny_guard

The task is that of the demo with the text read as a whole: Unsafe when the text holds an action word and the word of
the digit in the picture, wherever they stand. Training sees what certification will show: the user's text without
its pads, words appended and replaced at random, pixels with Gaussian noise at 8 x 8 before they are enlarged.
Printed and stored in training.json: accuracies on held-out pictures and prompts.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import _onevision as onevision
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Bool, Float, Float32, Int32, PRNGKeyArray
from train_demo_guard import prompt_pool, warp

from hybrid_rs_jax.data import demo
from hybrid_rs_jax.errors import BadInputError
from hybrid_rs_jax.models import from_config
from hybrid_rs_jax.models.image_processing import ImagePreprocessor
from hybrid_rs_jax.models.save import save_pretrained

BATCH = 128
LEARNING_RATE = 2e-3
BETAS = (0.0, 0.1, 0.25, 0.5)
SIGMA_MAX = 0.5
BLANK_SHARE = 0.04
#: A missed unsafe copy lowers the certified score, a false alarm on a safe one does not.
UNSAFE_WEIGHT = 2.0
#: Weights of the words of the answer that are always the same, and of naming the digit in training.
ROUTINE_WEIGHT, DIGIT_WEIGHT = 0.05, 0.2
IMAGE_SIZE = demo.IMAGE_SHAPE[:2]


class Batch(NamedTuple):
    """Noisy inputs: text of 16 token ids with pads (0), pictures, whether Unsafe, digit or 10 for a blank picture."""

    text: Int32[Array, "b 16"]
    images: Float32[Array, "b 8 8 3"]
    unsafe: Bool[Array, " b"]
    digits: Int32[Array, " b"]


class TinyGuard:
    """The network with its prompt around it: template, picture, policy, text, answer."""

    def __init__(self, seed: int):
        self.words = onevision.words_of("tiny")
        self.config = onevision.config("tiny", self.words)
        self.files = onevision.checkpoint_files("tiny", self.words)
        self.network = from_config(self.config, seed=seed)
        self.views = ImagePreprocessor.from_config(self.files["preprocessor_config.json"]).plan(*IMAGE_SIZE)
        self.before = self.words.encode("<|im_start|>user")
        self.policy = self.words.encode(onevision.POLICY)
        self.after = self.words.encode("<|im_end|><|im_start|>assistant")
        *self.answer, self.unsafe, self.end = self.words.encode(onevision.ANSWER)
        self.safe = self.words.ids["Safe"]
        self.stop = self.words.ids["<|im_end|>"]
        # ordinary tokens and the pad: what noise draws from
        self.alphabet = jnp.asarray([number for number in range(len(self.words.words) - 1)], jnp.int32)

    def answers(
        self, network: Any, text: Int32[Array, "b 16"], images: Float32[Array, "b 8 8 3"], labels: Int32[Array, " b"]
    ) -> tuple[Float32[Array, "b words vocabulary"], Float[Array, "b positions width"]]:
        """Logits for each word of the answer, its label word given; and the features of the picture."""
        features = network.image_features(self.views.distinct(images), IMAGE_SIZE)
        tail = jnp.asarray([*self.after, *self.answer, 0, self.end], jnp.int32)
        tail = jnp.broadcast_to(tail, (len(text), tail.size)).at[:, -2].set(labels)
        words, lengths = without_pads(text, tail)
        decoder = network.language_model

        def constant(ids: list[int]) -> Array:
            embedded = decoder.embed(jnp.asarray([ids], jnp.int32))
            return jnp.broadcast_to(embedded, (len(text), *embedded.shape[1:]))

        front = jnp.concatenate([constant(self.before), features, constant(self.policy)], axis=1)
        hidden = decoder.hidden(jnp.concatenate([front, decoder.embed(words)], axis=1))
        spoken = len(self.answer) + 3  # the label, the end of the answer, the end of the turn
        places = front.shape[1] + lengths[:, None] - spoken + jnp.arange(spoken, dtype=jnp.int32)
        return decoder.logits(jnp.take_along_axis(hidden, places[..., None], axis=1)), features

    def margin(self, network: Any, text: Int32[Array, "b 16"], images: Float32[Array, "b 8 8 3"]) -> Float[Array, " b"]:
        """Logit of Unsafe minus logit of Safe where the label stands."""
        logits = self.answers(network, text, images, jnp.full(len(text), self.safe, jnp.int32))[0]
        return logits[:, len(self.answer), self.unsafe] - logits[:, len(self.answer), self.safe]

    def loss(self, network: Any, digit_map: Float[Array, "width 11"], batch: Batch) -> Float[Array, ""]:
        """Cross-entropy of the answer, most of all of its label, and a little of the digit."""
        labels = jnp.where(batch.unsafe, self.unsafe, self.safe).astype(jnp.int32)
        logits, features = self.answers(network, batch.text, batch.images, labels)
        routine = jnp.asarray([*self.answer, 0, self.end, self.stop], jnp.int32)
        targets = jnp.broadcast_to(routine, logits.shape[:2]).at[:, len(self.answer)].set(labels)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
        weights = jnp.where(batch.unsafe, UNSAFE_WEIGHT, 1.0)
        label = (weights * losses[:, len(self.answer)]).sum() / weights.sum()
        digit = _digit_loss(features, digit_map, batch)
        return label + ROUTINE_WEIGHT * losses.mean() + DIGIT_WEIGHT * digit

    def digit_loss(self, network: Any, digit_map: Float[Array, "width 11"], batch: Batch) -> Float[Array, ""]:
        """Cross-entropy of the digit alone: a step of tower and projector takes a quarter of one of the whole."""
        features = network.image_features(self.views.distinct(batch.images), IMAGE_SIZE)
        return _digit_loss(features, digit_map, batch)


def _digit_loss(
    features: Float[Array, "b positions width"], digit_map: Float[Array, "width 11"], batch: Batch
) -> Float[Array, ""]:
    logits = features.mean(axis=1) @ digit_map
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch.digits).mean()


def without_pads(
    text: Int32[Array, "b n"], tail: Int32[Array, "b m"]
) -> tuple[Int32[Array, "b total"], Int32[Array, " b"]]:
    """Text and tail with the text's pads moved behind both; and the length without them."""
    whole = jnp.concatenate([text, tail], axis=1)
    pad = jnp.concatenate([text == demo.PAD, jnp.zeros_like(tail, bool)], axis=1)
    order = jnp.argsort(pad, axis=1, stable=True)
    return jnp.take_along_axis(whole, order, axis=1), (~pad).sum(axis=1, dtype=jnp.int32)


def rule(text: Int32[Array, "b 16"], digits: Int32[Array, " b"]) -> Bool[Array, " b"]:
    """Unsafe: an action word and the word of the pictured digit (10: none) stand in the text."""
    action = (text[..., None] == jnp.asarray(demo.token_ids("action"))).any(axis=(1, 2))
    words = jnp.append(jnp.asarray(demo.token_ids("digit")), -1)
    return action & (text == words[digits][:, None]).any(axis=1)


def draw_batch(
    images: Float32[Array, "n 8 8 1"],
    digits: Int32[Array, " n"],
    pool: Int32[Array, "g p 16"],
    alphabet: Int32[Array, " v"],
    key: PRNGKeyArray,
) -> Batch:
    """One noisy training batch."""
    keys = jax.random.split(key, 10)
    row = jax.random.randint(keys[0], (BATCH,), 0, images.shape[0], jnp.int32)
    pictured = digits[row]
    other = (pictured + jax.random.randint(keys[1], (BATCH,), 1, 10, jnp.int32)) % 10
    kind = jax.random.uniform(keys[2], (BATCH,), jnp.float32)
    group = jnp.select([kind < 0.5, kind < 0.82, kind < 0.9, kind < 0.95], [pictured, other, pictured + 10, 20], 21)
    prompt = pool[group, jax.random.randint(keys[3], (BATCH,), 0, pool.shape[1], jnp.int32)]
    text = draw_text(prompt, pictured, alphabet, keys[4])
    blank = jax.random.uniform(keys[5], (BATCH,), jnp.float32) < BLANK_SHARE
    pictures = jnp.where(blank[:, None, None, None], 0.0, warp(images[row], keys[6]))
    # a fifth without noise, two fifths around the sigma of the demo, the rest anywhere
    share, level = jax.random.uniform(keys[7], (2, BATCH, 1, 1, 1), jnp.float32)
    sigma = jnp.where(share < 0.2, 0.0, jnp.where(share < 0.6, 0.2 + 0.15 * level, SIGMA_MAX * level))
    noisy = pictures + sigma * jax.random.normal(keys[8], (*pictures.shape[:3], 3), jnp.float32)
    shown = jnp.where(blank, 10, pictured).astype(jnp.int32)
    return Batch(text, noisy, rule(text, shown), shown)


def draw_text(
    prompt: Int32[Array, "b 16"], pictured: Int32[Array, " b"], alphabet: Int32[Array, " v"], key: PRNGKeyArray
) -> Int32[Array, "b 16"]:
    """Prompts with words appended as an attacker might (any words, or actions and digits), then token noise."""
    keys = jax.random.split(key, 8)
    shape, length = prompt.shape, (prompt != demo.PAD).sum(axis=1, dtype=jnp.int32)[:, None]
    place = jnp.arange(shape[1], dtype=jnp.int32)[None] - length
    triggers = jnp.concatenate([jnp.asarray(demo.token_ids("digit")), jnp.asarray(demo.token_ids("action"))])
    words = jax.random.choice(keys[0], alphabet, shape)
    tempting = jax.random.bernoulli(keys[1], 0.3, (shape[0], 1))
    words = jnp.where(tempting, jax.random.choice(keys[2], triggers, shape), words)
    appended = jax.random.randint(keys[3], (shape[0], 1), -8, 9, jnp.int32)
    text = jnp.where((place >= 0) & (place < appended), words, prompt)
    beta = jax.random.choice(keys[4], jnp.array(BETAS, jnp.float32), (shape[0], 1))
    everywhere = jax.random.bernoulli(keys[5], 0.2, (shape[0], 1))
    replaced = (jax.random.uniform(keys[6], shape, jnp.float32) < beta) & ((place >= 0) | everywhere)
    return jnp.where(replaced, jax.random.choice(keys[7], alphabet, shape), text)


def train(guard: TinyGuard, seed: int, steps: int) -> dict[str, list[float]]:
    """Train in place: the tower alone learns to name digits, then the whole network to answer. Returns mean losses."""
    inputs = demo.load_demo("train")
    data = (jnp.asarray(inputs.images), jnp.asarray(inputs.digits), jnp.asarray(prompt_pool(seed)), guard.alphabet)
    graph, weights = nnx.split(guard.network)
    params = (weights, jnp.zeros((guard.config["text_config"]["hidden_size"], 11), jnp.float32))

    def digit_loss(params: Any, key: PRNGKeyArray) -> Float[Array, ""]:
        return guard.digit_loss(nnx.merge(graph, params[0]), params[1], draw_batch(*data, key))

    def loss(params: Any, key: PRNGKeyArray) -> Float[Array, ""]:
        return guard.loss(nnx.merge(graph, params[0]), params[1], draw_batch(*data, key))

    params, digit_losses = descend(digit_loss, params, jax.random.key(seed), steps, "tower")
    params, losses = descend(loss, params, jax.random.key(seed + 1), steps, "whole")
    nnx.update(guard.network, params[0])
    return {"tower": digit_losses, "whole": losses}


def descend(
    loss_of: Callable[[Any, PRNGKeyArray], Array], params: Any, key: PRNGKeyArray, steps: int, name: str
) -> tuple[Any, list[float]]:
    """A moving average of the parameters along the way down, and the mean loss of each tenth."""
    chunk = max(steps // 10, 1)
    schedule = optax.warmup_cosine_decay_schedule(0.0, LEARNING_RATE, chunk, max(steps, 2))
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule, weight_decay=1e-2))

    @jax.jit
    def step(params: Any, mean: Any, state: optax.OptState, index: int) -> tuple[Any, Any, optax.OptState, Array]:
        loss, grads = jax.value_and_grad(loss_of)(params, jax.random.fold_in(key, index))
        updates, state = optimizer.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        mean = jax.tree.map(lambda old, new: old + 0.01 * (new - old), mean, params)
        return params, mean, state, loss

    # A Python loop, not lax.scan: XLA uses one thread for what it finds inside a loop on the CPU.
    mean, state, losses, recent = params, optimizer.init(params), [], []
    started = time.perf_counter()
    for index in range(steps):
        params, mean, state, loss = step(params, mean, state, index)
        recent.append(loss)
        if len(recent) == chunk or index + 1 == steps:
            losses.append(round(float(jnp.stack(recent).mean()), 5))
            recent.clear()
            seconds = time.perf_counter() - started
            print(f"{name} step {index + 1:6d}  loss {losses[-1]:.4f}  {seconds:6.1f} s", flush=True)
    return mean, losses


def noisy_rates(
    guard: TinyGuard, inputs: demo.DemoInputs, sigma: float, beta: float, draws: int, seed: int
) -> np.ndarray:
    """Share of Unsafe decisions per input over noisy copies; words behind the prompt carry noise."""
    text, images = jnp.asarray(inputs.tokens), jnp.repeat(jnp.asarray(inputs.images), 3, axis=3)
    behind = jnp.arange(demo.LENGTH) >= (text != demo.PAD).sum(axis=1, keepdims=True)
    decide = _decision(guard)

    @jax.jit
    def copy(index: int) -> tuple[Int32[Array, "n 16"], Float32[Array, "n 8 8 3"]]:
        keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), index), 3)
        replaced = (jax.random.uniform(keys[0], text.shape, jnp.float32) < beta) & behind
        words = jnp.where(replaced, jax.random.choice(keys[1], guard.alphabet, text.shape), text)
        return words, images + sigma * jax.random.normal(keys[2], images.shape, jnp.float32)

    return sum(np.asarray(decide(*copy(index)), np.float64) for index in range(draws)) / draws


def evaluate(guard: TinyGuard, draws: int, seed: int) -> dict[str, float]:
    """Every number that is printed and stored beside the weights, on held-out pictures and prompts."""
    inputs = demo.load_demo("held_out")
    labels = np.asarray(rule(jnp.asarray(inputs.tokens), jnp.asarray(inputs.digits)))
    clean = noisy_rates(guard, inputs, 0.0, 0.0, 1, seed)
    rates = {sigma: noisy_rates(guard, inputs, sigma, 0.25, draws, seed) for sigma in (0.25, 0.5)}
    results: dict[str, float] = {"held_out_inputs": len(inputs), "clean_accuracy": float(np.mean(clean == labels))}
    results["clean_unsafe_recall"] = float(np.mean(clean[labels]))
    for sigma, rate in rates.items():
        results[f"noisy_accuracy_sigma_{sigma}_beta_0.25"] = float(np.mean(np.where(labels, rate, 1 - rate)))
        results[f"noisy_unsafe_recall_sigma_{sigma}_beta_0.25"] = float(np.mean(rate[labels]))
    return results | {"draws_per_input": draws}


def _decision(guard: TinyGuard) -> Callable[[Array, Array], Bool[Array, " b"]]:
    graph, weights = nnx.split(guard.network)
    decide = jax.jit(lambda weights, text, images: guard.margin(nnx.merge(graph, weights), text, images) > 0)
    return lambda text, images: decide(weights, text, images)


def main(argv: list[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the checkpoint, a new one")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights, prompts and noise (default 0)")
    parser.add_argument("--steps", type=int, default=2500, help=f"steps of {BATCH} inputs for each half (2500)")
    parser.add_argument("--draws", type=int, default=100, help="noisy copies per input in the evaluation (100)")
    args = parser.parse_args(argv)
    try:
        _check(args)
        _run(args)
    except BadInputError as error:
        print(f"train_tiny_guard: {error}", file=sys.stderr)
        return 2
    return 0


def _check(args: argparse.Namespace) -> None:
    for name, low in (("seed", 0), ("steps", 1), ("draws", 1)):
        if not low <= getattr(args, name) < 2**31:
            raise BadInputError(f"--{name} must lie in {low}..{2**31 - 1}, got {getattr(args, name)}.")
    if (args.out / "config.json").exists():
        raise BadInputError(f"{args.out} holds a checkpoint already; choose another folder.")


def _run(args: argparse.Namespace) -> None:
    started = time.perf_counter()
    guard = TinyGuard(args.seed)
    losses = train(guard, args.seed, args.steps)
    # measure the weights that are written: float16
    nnx.update(guard.network, jax.tree.map(lambda x: x.astype(jnp.float16).astype(x.dtype), nnx.state(guard.network)))
    results = evaluate(guard, args.draws, args.seed)
    record = {
        "training": {"seed": args.seed, "steps": args.steps, "batch": BATCH, "jax": jax.__version__, "losses": losses},
        "results": results,
    }
    files = guard.files | {"policy.txt": onevision.POLICY + "\n\n{text}\n", "training.json": record}
    save_pretrained(guard.network, args.out, guard.config, dtype=jnp.float16, files=files)
    for name, value in results.items():
        print(f"{name:44s} {value if isinstance(value, int) else np.floor(value * 1e4) / 1e4}")
    print(f"Wrote {args.out} after {time.perf_counter() - started:.0f} s.")


if __name__ == "__main__":
    sys.exit(main())
