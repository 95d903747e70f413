"""Feature smoothing on Fashion-MNIST, with stand-ins for the data set."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from fashion_files import write_part

sys.path.insert(0, str(Path(__file__).parents[2] / "experiments"))

import features
import targeted_attack
import train_gsb


@pytest.mark.slow
def test_a_small_run_trains_boosters_certifies_cosines_and_decisions_and_is_left_as_it_is(tmp_path, capsys):
    for number, part in enumerate(("train", "t10k")):
        write_part(tmp_path, part, np.arange(60) % 10, np.random.default_rng(number))
    data, boosters = ["--data", str(tmp_path), "--any-contents"], [tmp_path / "gsb0", tmp_path / "gsb1"]
    small = ["--steps", "60", "--pictures", "16", "--epochs", "2"]
    encoder: list[str] = []
    for seed, folder in enumerate(boosters):
        assert train_gsb.main(["--out", str(folder), "--seed", str(seed), *data, *small, *encoder]) == 0
        encoder = ["--encoder", str(folder / "encoder.npz")]
    assert train_gsb.main(["--out", str(folder), "--seed", "1", *data, *small]) == 0
    assert "is finished" in capsys.readouterr().out
    assert not list(folder.glob("*.checkpoint"))
    out = tmp_path / "out"
    flags = ["--out", str(out), *data, "--gsb", *map(str, boosters), "--inputs", "4", "--samples", "60"]
    assert features.main(flags) == 0
    result = json.loads((out / "result.json").read_text())
    names = ("plain", "denoised", "mapper", "denoiser", "both", "foreign-denoiser", "foreign-both")
    assert [(row["encoder"], row["sigma"]) for row in result["rows"]] == 2 * [
        (name, sigma) for sigma in features.SIGMAS for name in names
    ]
    for row in result["rows"]:
        assert row["mean_radius_cosine_half"] >= row["mean_radius_cosine_half_mean_bound"] >= 0
        assert np.all(np.diff(row["cosine_by_law"]) <= 0)
        if row["folder"] == 0 and row["encoder"] in features.DECIDED:
            assert row["mean_radius_feature_smoothing"] >= max(row["mean_radius_direct"], row["mean_radius_cap"])
    for line in result["spread"]:
        radius = line["mean_radius_cosine_half"]
        assert line["folders"] == 2
        assert radius["least"] <= radius["mean"] <= radius["largest"]
    for name in ("features", "boosters"):
        assert (out / f"{name}.png").read_bytes()[:4] == b"\x89PNG"
    attacked = ["--out", str(tmp_path / "attacked"), *data, "--gsb", str(boosters[0]), "--inputs", "2", "--steps", "2"]
    assert targeted_attack.main(attacked) == 0
    rows = json.loads((tmp_path / "attacked" / "result.json").read_text())["rows"]
    assert len(rows) == 3 * (1 + len(targeted_attack.OBJECTIVES) * len(targeted_attack.BUDGETS))
    assert rows[0]["cosine"] == pytest.approx(1, abs=1e-6)
    assert all(-1 <= row["cosine"] <= 1 for row in rows)
    before = (out / "result.json").read_bytes()
    assert features.main(flags) == 0
    assert "is finished" in capsys.readouterr().out
    assert (out / "result.json").read_bytes() == before
    assert features.main([*flags[:-1], "61"]) == 2
    assert features.main(["--out", str(tmp_path / "none"), *data, "--gsb", str(tmp_path)]) == 2
