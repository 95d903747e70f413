"""Train the built-in demo guard from scratch, measure it on held-out pictures and write its weights.

    python experiments/train_demo_guard.py --out demo_guard.npz

Noise is the main augmentation: every training picture gets Gaussian noise with a sigma of its own in [0, 0.5], and
every suffix gets appended words (also such that name the pictured digit) and uniform token replacement, so that the
guard learns to read the prompt alone. Needs optax and scikit-learn: pip install "hybrid-rs-jax[experiments]".
"""

import argparse
import json
import random
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Bool, Float32, Int32, PRNGKeyArray

from hybrid_rs_jax.classifiers.demo_guard import DemoGuard
from hybrid_rs_jax.data import demo
from hybrid_rs_jax.models.demo_guard import DemoGuardConfig, DemoGuardNetwork, load_weights, save_weights

WEIGHTS = Path(__file__).parents[1] / "hybrid_rs_jax" / "models" / "weights" / "demo_guard.npz"
BATCH = 1024
LEARNING_RATE = 3e-3
SIGMA_MAX = 0.5
BETAS = (0.0, 0.1, 0.25, 0.5)
# A missed unsafe copy lowers the certified score, a false alarm on a safe one does not.
UNSAFE_WEIGHT = 2.0
BLANK_SHARE = 0.05
PROMPTS_PER_GROUP = 2000
# Prompt groups: ask for digit 0..9, mention digit 0..9, errand, chat.
ERRAND, CHAT = 20, 21


def prompt_pool(seed: int, size: int = PROMPTS_PER_GROUP) -> Int32[np.ndarray, "22 size 16"]:
    """Encoded prompts of every group; two in five are scrambled, so that every word is met in every place."""
    rng = random.Random(seed)
    groups = [(kind, digit) for kind in ("ask", "mention") for digit in range(10)]
    groups += [("errand", None), ("chat", None)]
    return np.stack(
        [
            np.stack([demo.encode(demo.draw_prompt(rng, kind, digit, rng.random() < 0.4)) for _ in range(size)])
            for kind, digit in groups
        ]
    )


def warp(images: Float32[Array, "b 8 8 1"], key: PRNGKeyArray) -> Float32[Array, "b 8 8 1"]:
    """Shift (up to 1 pixel), rotate, scale and shear each picture a little, and change its contrast."""
    batch, side = images.shape[0], images.shape[1]
    uniform = jax.random.uniform(key, (batch, 7), jnp.float32, -1.0, 1.0)
    angle, shear = 0.2 * uniform[:, 0], 0.15 * uniform[:, 1]
    scale_y, scale_x = 1.0 + 0.12 * uniform[:, 2], 1.0 + 0.12 * uniform[:, 3]
    shift = 1.0 * uniform[:, 4:6]
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    matrix = jnp.stack([cos * scale_y, -sin + shear, sin, cos * scale_x], -1).reshape(batch, 2, 2)
    middle = jnp.float32((side - 1) / 2)
    axis = jnp.arange(side, dtype=jnp.float32)
    grid = jnp.stack(jnp.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2) - middle
    source = jnp.einsum("bij,pj->bpi", matrix, grid) + middle + shift[:, None, :]
    # Bilinear interpolation: a pixel weighs max(0, 1 - distance) along each axis; outside the picture all is 0.
    tent = jax.nn.relu(1.0 - jnp.abs(source[..., None] - axis[None, None, None, :]))
    pixels = jnp.einsum("bpy,bpx,byx->bp", tent[:, :, 0], tent[:, :, 1], images[..., 0])
    return (pixels * (1.0 + 0.15 * uniform[:, 6:])).reshape(batch, side, side, 1)


def draw_suffix(pictured: Int32[Array, " b"], key: PRNGKeyArray) -> Int32[Array, "b 8"]:
    """Suffixes as an attacker might append them, then noise: any words, or action words and the pictured digit's."""
    batch = pictured.shape[0]
    keys = jax.random.split(key, 7)
    shape = (batch, demo.SUFFIX_LENGTH)
    words = jax.random.randint(keys[0], shape, 1, demo.VOCAB_SIZE, jnp.int32)
    digit_1, actions = 1, 11  # first token ids of the digit and the action words in the vocabulary
    triggers = jnp.where(
        jax.random.bernoulli(keys[1], 0.5, shape),
        jax.random.randint(keys[2], shape, actions, actions + 12, jnp.int32),
        jnp.where(
            jax.random.bernoulli(keys[3], 0.5, shape),
            pictured[:, None] + digit_1,
            jax.random.randint(keys[4], shape, digit_1, digit_1 + 10, jnp.int32),
        ),
    )
    recipe = jax.random.randint(keys[5], (batch, 2), 0, demo.SUFFIX_LENGTH + 1, jnp.int32)
    appended = jnp.where(recipe[:, :1] % 2 == 0, words, triggers)
    suffix = jnp.where(jnp.arange(demo.SUFFIX_LENGTH, dtype=jnp.int32)[None] < recipe[:, 1:], appended, demo.PAD)
    beta_key, replace_key, token_key = jax.random.split(keys[6], 3)
    beta = jax.random.choice(beta_key, jnp.array(BETAS, jnp.float32), (batch, 1))
    return replace_tokens(suffix, beta, replace_key, token_key)


def replace_tokens(tokens, beta, replace_key: PRNGKeyArray, token_key: PRNGKeyArray) -> Int32[Array, "b l"]:
    """Uniform replacement by another token of the alphabet, with probability beta at each position."""
    step = jax.random.randint(token_key, tokens.shape, 1, demo.VOCAB_SIZE, jnp.int32)
    replaced = jax.random.uniform(replace_key, tokens.shape, jnp.float32) < beta
    return jnp.where(replaced, (tokens + step) % demo.VOCAB_SIZE, tokens)


def draw_batch(
    images: Float32[Array, "n 8 8 1"], digits: Int32[Array, " n"], pool: Int32[Array, "g p 16"], key: PRNGKeyArray
) -> tuple[Int32[Array, "b 16"], Float32[Array, "b 8 8 1"], Bool[Array, " b"]]:
    """One noisy training batch: tokens, pictures, labels."""
    keys = jax.random.split(key, 9)
    row = jax.random.randint(keys[0], (BATCH,), 0, images.shape[0], jnp.int32)
    pictured = digits[row]
    other = (pictured + jax.random.randint(keys[1], (BATCH,), 1, 10, jnp.int32)) % 10
    kind = jax.random.uniform(keys[2], (BATCH,), jnp.float32)
    group = jnp.select(
        [kind < 0.45, kind < 0.75, kind < 0.85, kind < 0.88, kind < 0.94],
        [pictured, other, pictured + 10, other + 10, jnp.full_like(row, ERRAND)],
        CHAT,
    )
    prompt = pool[group, jax.random.randint(keys[3], (BATCH,), 0, pool.shape[1], jnp.int32)]
    suffix = draw_suffix(pictured, keys[4])
    tokens = jnp.concatenate([prompt[:, : demo.PROMPT_LENGTH], suffix], axis=1)
    blank = jax.random.uniform(keys[5], (BATCH,), jnp.float32) < BLANK_SHARE
    pictures = jnp.where(blank[:, None, None, None], 0.0, warp(images[row], keys[6]))
    # A fifth without noise, two fifths around the sigma of the demo, the rest anywhere.
    share, level = jax.random.uniform(keys[7], (2, BATCH, 1, 1, 1), jnp.float32)
    sigma = jnp.where(share < 0.2, 0.0, jnp.where(share < 0.6, 0.2 + 0.15 * level, SIGMA_MAX * level))
    noisy = pictures + sigma * jax.random.normal(keys[8], pictures.shape, jnp.float32)
    return tokens, noisy, (kind < 0.45) & ~blank


def train(network: DemoGuardNetwork, seed: int, steps: int, chunk: int = 100) -> list[float]:
    """Train in place; returns the mean loss of each chunk of steps."""
    inputs = demo.load_demo("train")
    data = (jnp.asarray(inputs.images), jnp.asarray(inputs.digits), jnp.asarray(prompt_pool(seed)))
    graph, params = nnx.split(network)
    schedule = optax.warmup_cosine_decay_schedule(0.0, LEARNING_RATE, max(steps // 20, 1), max(steps, 2))
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule, weight_decay=1e-3))

    def loss_of(params: nnx.State, key: PRNGKeyArray) -> Float32[Array, ""]:
        tokens, images, labels = draw_batch(*data, key)
        logits = nnx.merge(graph, params)(tokens, images)
        weights = jnp.where(labels, UNSAFE_WEIGHT, 1.0)
        losses = optax.sigmoid_binary_cross_entropy(logits, labels.astype(jnp.float32))
        return (weights * losses).sum() / weights.sum()

    @jax.jit
    def step(params, mean, state, index):
        loss, grads = jax.value_and_grad(loss_of)(params, jax.random.fold_in(jax.random.key(seed), index))
        updates, state = optimizer.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        mean = jax.tree.map(lambda old, new: old + 0.005 * (new - old), mean, params)
        return params, mean, state, loss

    # A Python loop, not lax.scan: XLA uses one thread for what it finds inside a loop on the CPU.
    mean, state, losses, recent = params, optimizer.init(params), [], []
    started = time.perf_counter()
    for index in range(steps):
        params, mean, state, loss = step(params, mean, state, index)
        recent.append(loss)
        if len(recent) == chunk or index + 1 == steps:
            losses.append(float(jnp.stack(recent).mean()))
            recent.clear()
            seconds = time.perf_counter() - started
            print(f"step {index + 1:6d}  loss {losses[-1]:.4f}  {seconds:6.1f} s", flush=True)
    nnx.update(network, mean)
    return losses
