"""Run by test_devices.py in processes of its own: print counts of a batch-invariant classifier and of the demo guard.

    python draw_counts.py BATCH_SIZE [PROCESS PROCESSES PORT]

The environment variable JAX_NUM_CPU_DEVICES says how many virtual devices there are.
"""

import json
import sys

import jax

batch_size = int(sys.argv[1])
if len(sys.argv) > 2:
    process, processes, port = map(int, sys.argv[2:])
    jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=processes, process_id=process)

import numpy as np  # noqa: E402

import hybrid_rs_jax as hrs  # noqa: E402
from hybrid_rs_jax.classifiers import DemoGuard  # noqa: E402
from hybrid_rs_jax.confidence import FixedSample  # noqa: E402
from hybrid_rs_jax.data import demo  # noqa: E402

N = 997
SMOOTHING = hrs.HybridSmoothing(hrs.UniformKernel(0.25, demo.VOCAB_SIZE), 0.25)


def by_rule(tokens, images):
    """Compares integers and single pixels: no arithmetic that a batch could change."""
    return ((tokens.sum(axis=1) % 5) < 3) & (images[:, 3, 3, 0] > images[:, 4, 4, 0])


inputs = demo.held_out_unsafe(5)
arguments = (inputs.tokens, inputs.images, SMOOTHING)
options = {"eligible": demo.suffix_mask(), "batch_size": batch_size}
key = jax.random.key(3)
found = {
    "devices": jax.local_device_count(),
    "processes": jax.process_count(),
    "rule": hrs.sample_counts(by_rule, *arguments, N, key, **options).tolist(),
    "guard": hrs.sample_counts(DemoGuard.load(), *arguments, N, key, **options).tolist(),
}
if jax.process_count() == 1:
    found["ties"] = hrs.sample(DemoGuard.load(), *arguments, FixedSample(N), key, **options).ties.tolist()
assert np.all(np.array(found["rule"]) < N)
print(json.dumps(found))
