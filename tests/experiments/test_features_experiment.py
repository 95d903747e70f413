"""Feature smoothing on Fashion-MNIST, with stand-ins for the data set."""

import gzip
import json
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "experiments"))

import features


def write_part(folder, part, count, seed):
    """Pictures whose class is the place of a bright bar, in the format of the data set."""
    random = np.random.default_rng(seed)
    labels = np.arange(count).astype(np.uint8) % 10
    images = random.integers(0, 60, (count, 28, 28)).astype(np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[2 * label + 4 : 2 * label + 6] = 255
    sizes = b"".join(int(size).to_bytes(4, "big") for size in (count, 28, 28))
    (folder / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(b"\0\0\x08\x03" + sizes + images.tobytes()))
    header = b"\0\0\x08\x01" + sizes[:4]
    (folder / f"{part}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(header + labels.tobytes()))


@pytest.mark.slow
def test_a_small_run_certifies_cosines_and_decisions_and_is_left_as_it_is(tmp_path, capsys):
    for number, part in enumerate(("train", "t10k")):
        write_part(tmp_path, part, 60, number)
    out = tmp_path / "out"
    flags = ["--out", str(out), "--data", str(tmp_path), "--any-contents"]
    flags += ["--inputs", "4", "--samples", "60", "--steps", "60"]
    assert features.main(flags) == 0
    result = json.loads((out / "result.json").read_text())
    assert [(row["encoder"], row["sigma"]) for row in result["rows"]] == [
        (name, sigma) for sigma in features.SIGMAS for name in ("plain", "denoised")
    ]
    for row in result["rows"]:
        assert row["mean_radius_cosine_half"] >= row["mean_radius_cosine_half_mean_bound"] >= 0
        assert row["mean_radius_feature_smoothing"] >= max(row["mean_radius_direct"], row["mean_radius_cap"])
        assert np.all(np.diff(row["cosine_by_law"]) <= 0)
    assert (out / "features.png").read_bytes()[:4] == b"\x89PNG"
    before = (out / "result.json").read_bytes()
    assert features.main(flags) == 0
    assert "is finished" in capsys.readouterr().out
    assert (out / "result.json").read_bytes() == before
    assert features.main([*flags[:-1], "61"]) == 2
