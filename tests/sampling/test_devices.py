"""Counts do not depend on the batch size, the number of devices or the number of processes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from cluster_work import free_port

SCRIPT = Path(__file__).with_name("draw_counts.py")


def start(*arguments, devices=1):
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": str(devices), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def result(process):
    out, err = process.communicate(timeout=900)
    assert process.returncode == 0, err
    return json.loads(out.splitlines()[-1])


@pytest.fixture(scope="module")
def alone():
    return result(start(500))


def check(found, alone):
    assert found["rule"] == alone["rule"]
    # a network's sums may be rounded differently in another batch: only reported ties may flip
    difference = np.abs(np.array(found["guard"]) - np.array(alone["guard"]))
    assert np.all(difference <= np.array(alone["ties"])), (found["guard"], alone["guard"])


@pytest.mark.parametrize(("batch_size", "devices"), [(64, 1), (4096, 1), (500, 2), (64, 4), (500, 4)])
def test_counts_are_the_same_for_every_batch_size_and_number_of_devices(batch_size, devices, alone):
    found = result(start(batch_size, devices=devices))
    assert found["devices"] == devices
    check(found, alone)


def test_two_processes_count_what_one_counts(alone):
    port = free_port()
    processes = [start(500, rank, 2, port) for rank in range(2)]
    for found in map(result, processes):
        assert found["processes"] == 2
        check(found, alone)
