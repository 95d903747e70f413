"""Work that Ray's workers open by themselves, for `test_workers`."""

import contextlib
import os
import socket
import time
from pathlib import Path

import numpy as np

import hybrid_rs_jax as hrs
from hybrid_rs_jax.confidence import FixedSample, SequentialTest
from hybrid_rs_jax.data.inputs import ArrayInputs
from hybrid_rs_jax.sampling.design import StreamGroup
from hybrid_rs_jax.sampling.workers import Work

B, L = 24, 5
TOKENS = (np.arange(B * L, dtype=np.int32).reshape(B, L) * 7) % 10
IMAGES = np.linspace(0, 1, B * 4, dtype=np.float32).reshape(B, 2, 2, 1)
INPUTS = ArrayInputs([f"input-{i}" for i in range(B)], TOKENS, IMAGES, np.array([False, True, True, True, True]))
GROUPS = (StreamGroup(SequentialTest(0.6, 0.05, 400)), StreamGroup(FixedSample(50), ((0,), (1, 2))))


def free_port():
    """One below those that systems give to whoever asks for any, so that nobody is given it in the meantime."""
    for port in range(20_000 + os.getpid() % 8_000, 30_000):
        with socket.socket() as trial, contextlib.suppress(OSError):
            trial.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no port is free")


def by_rule(tokens, images):
    """Uses every token and one pixel, and no arithmetic that a batch could change; unsafe in about 3 of 4 draws."""
    return (tokens.sum(axis=1) % 4 != 0) | (images[:, 0, 0, 0] > 1.5)


class Slow:
    """The same, on the host, so slowly that a run can be caught at work; says in a folder who is at it."""

    on_host = True

    def __init__(self, folder):
        self.folder = folder

    def __call__(self, tokens, images):
        Path(self.folder, str(os.getpid())).touch()
        time.sleep(0.2)
        return np.asarray(by_rule(tokens, images))


def open_work(folder=None):
    smoothing = hrs.HybridSmoothing(hrs.UniformKernel(0.4, 10), 0.5)
    classifier = by_rule if folder is None else Slow(folder)
    return Work(classifier, INPUTS, smoothing, GROUPS, seed=7, batch_size=32)
