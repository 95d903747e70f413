"""The commands `features sample`, `certify` and `curve`: a run is kept, resumed, merged and certified."""

import csv
import dataclasses
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hybrid_rs_jax.cli import main
from hybrid_rs_jax.report.feature_tables import print_certificates
from hybrid_rs_jax.results.features import feature_columns, read_feature_run
from hybrid_rs_jax.sampling.ledger import Ledger

DEMO = ["features", "sample", "--encoder", "demo", "--data", "demo", "--limit", "3", "--samples", "300"]
OWN = """
import numpy as np

def encode(tokens, images):
    return images.reshape(len(images), -1)

def scores(tokens, images):
    return images.mean(axis=(1, 2, 3))

def dead(tokens, images):
    return 0 * encode(tokens, images)

number = 0
calls = 0

def breaks(tokens, images):
    global calls
    calls += 1
    if calls > 6:
        raise KeyboardInterrupt
    return np.asarray(images).reshape(len(images), -1)

breaks.on_host = True
breaks.name = "mine"

def whole(tokens, images):
    return np.asarray(images).reshape(len(images), -1)

whole.on_host = True
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("features") / "run"
    assert main([*DEMO, "--out", str(folder)]) == 0
    return folder


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A folder with an encoder of one's own and pictures for it, which is the current one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own_encoder.py").write_text(OWN)
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "inputs.npz", tokens=np.zeros((4, 1), int), images=rng.random((4, 3, 3, 1)))
    return ["features", "sample", "--data", "inputs.npz", "--sigma", "0.1", "--samples", "90", "--batch-size", "30"]


def test_the_demo_is_certified_for_tokens_and_pixels(run, capsys):
    assert main(["features", "certify", str(run), "--json", "--epsilon", "0,0.1"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found["certificates"]) == 3
    for row in found["certificates"]:
        assert row["n"] == 300
        assert row["radius"][0] > row["radius"][1] > 0
        assert row["similarity"][0][0] > row["similarity"][1][0] > 0.5
    statement = found["statement"]
    assert (statement["bins"], statement["reference"], statement["budgets"]) == (1024, "clean", [0, 1])
    assert 0 < statement["total_variation"] == statement["noise"]["total_variation"]
    assert "unit feature of the clean input" in statement["text"]


def test_status_counts_the_inputs_that_are_done(run, capsys):
    assert main(["status", str(run), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["done"], found["begun"], found["draws"]) == (3, 0, 900)


def test_table_csv_and_files_hold_the_same_numbers(run, tmp_path, capsys):
    target = tmp_path / "certificates.csv"
    assert main(["features", "certify", str(run), "--format", "csv", "--out", str(target)]) == 0
    printed = capsys.readouterr().out
    assert printed == target.read_text()
    rows = list(csv.DictReader(io.StringIO(printed)))
    assert main(["features", "certify", str(run)]) == 0
    shown = capsys.readouterr().out
    for row in rows:
        assert f"{np.floor(float(row['radius_0']) * 1000) / 1000:.3f}" in shown
    assert main(["features", "certify", str(run), "--out", str(target)]) == 2
    assert main(["features", "certify", str(run), "--out", str(target), "--force"]) == 0


def test_a_curve_falls_and_the_law_is_never_below_the_mean(run, tmp_path, capsys):
    picture = tmp_path / "curve.png"
    assert main(["features", "curve", str(run), "--out", str(picture), "--json", "--epsilon", "0:0.6:7"]) == 0
    columns = json.loads(capsys.readouterr().out)["columns"]
    assert np.all(np.diff(columns["law"]) <= 0)
    assert np.all(np.array(columns["law"]) >= columns["mean"])
    assert picture.read_bytes()[:4] == b"\x89PNG"
    assert main(["features", "curve", str(run), "--budget", "1", "--out", str(tmp_path / "c.csv")]) == 0
    header, *lines = (tmp_path / "c.csv").read_text().splitlines()
    assert header == "epsilon,law,mean,law_share,mean_share"
    assert max(len(line.partition(",")[0]) for line in lines) <= 7, "distances are short numbers"


def test_what_was_interrupted_goes_on_and_ends_as_if_it_had_not_been(own, capsys):
    assert main([*own, "--encoder", "own_encoder:breaks", "--out", "broken"]) == 130
    assert "under way were lost" in capsys.readouterr().err
    with Ledger.open(Path("broken")) as ledger:
        kept = ledger.counts().draws
    assert 0 < kept < 360
    import own_encoder

    own_encoder.calls = -(10**9)
    assert main([*own, "--encoder", "own_encoder:breaks", "--out", "broken", "--resume"]) == 0
    assert f"{360 - kept} of them count" in capsys.readouterr().out
    assert main([*own, "--encoder", "own_encoder:whole", "--out", "whole"]) == 0
    parts = [read_feature_run(Path(name)).law.counts for name in ("broken", "whole")]
    assert np.array_equal(*parts)


def test_a_run_for_a_target_stops_at_looks_of_its_header_and_goes_on_where_it_was_interrupted(own, capsys):
    import own_encoder

    own_encoder.calls = 0
    begun = [*own[:-4], "--samples", "400", "--batch-size", "40", "--encoder", "own_encoder:breaks"]
    command = [*begun, "--target", "cosine=0.5,eps=0.119", "--alpha", "0.02"]
    assert main([*command, "--out", "broken"]) == 130
    with Ledger.open(Path("broken")) as ledger:
        kept = ledger.counts().draws
    assert kept > 0
    own_encoder.calls = -(10**9)
    assert main([*command, "--out", "broken", "--resume"]) == 0
    assert main([*command, "--out", "whole"]) == 0
    found, mended = (read_feature_run(Path(name)) for name in ("whole", "broken"))
    assert np.array_equal(mended.law.counts, found.law.counts)
    assert found.target.describe() == {"similarity": 0.5, "epsilon": 0.119, "d": 0, "alpha": 0.02}
    assert found.law.plan.sizes == (100, 200, 400)
    assert found.law.n.min() == 200
    assert set(found.law.n.tolist()) <= {200, 400}
    capsys.readouterr()
    assert main(["features", "certify", "whole", "--epsilon", "0.119", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["statement"]["alpha"] == 0.02
    assert record["statement"]["plan"]["sizes"] == [100, 200, 400]
    assert record["statement"]["features"]["target"] == found.target.describe()
    assert "one of the looks 100, 200, 400, fixed before the draws" in record["statement"]["text"]
    for row in record["certificates"]:
        assert row["n"] == 400 or row["similarity"][0][0] >= 0.5
    assert main([*begun, "--target", "cosine=0.6,eps=0.119", "--out", "whole", "--resume"]) == 2
    assert "cannot be continued" in capsys.readouterr().err


def test_shards_are_merged_into_the_run_that_one_machine_would_have_made(own):
    command = [*own, "--encoder", "own_encoder:encode"]
    assert main([*command, "--out", "all"]) == 0
    for part in ("0/2", "1/2"):
        assert main([*command, "--shard", part, "--out", f"part{part[0]}"]) == 0
    assert main(["merge", "part0", "part1", "--out", "merged"]) == 0
    both = [read_feature_run(Path(name)) for name in ("all", "merged")]
    assert both[0].ids == both[1].ids
    assert np.array_equal(both[0].law.counts, both[1].law.counts)


def test_pairs_subtract_the_noise_of_both_copies(own, capsys):
    assert main([*own, "--encoder", "own_encoder:encode", "--reference", "pairs", "--out", "pairs"]) == 0
    found = read_feature_run(Path("pairs"))
    assert found.total_variation == 2 * found.run.total_variation > 0
    capsys.readouterr()
    assert main(["features", "certify", "pairs"]) == 0
    assert "the smoothed feature of the clean input" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--encoder", "own_encoder:scores"], "one vector"),
        (["--encoder", "own_encoder:dead"], "no direction"),
        (["--encoder", "own_encoder:nothing"], "--encoder own_encoder:nothing: own_encoder has no nothing."),
        (
            ["--encoder", "nowhere"],
            "--encoder must be demo, package.module:name of an encoder or a checkpoint's folder",
        ),
        (["--encoder", "own_encoder:number"], "must be an encoder, called with (tokens, images), got 0."),
        (["--encoder", "own_encoder:encode", "--bins", "1"], "--bins must be an integer in 2..65536, got 1."),
        (["--encoder", "own_encoder:encode", "--target", "eps=1"], "--target must look like cosine=0.5,eps=0.25"),
        (
            ["--encoder", "own_encoder:encode", "--target", "cosine=0.5,eps=9"],
            "90 draws certify a cosine of 0.5 at eps",
        ),
        (["--encoder", "own_encoder:encode", "--alpha", "0.1"], "--alpha belongs to --target here"),
        (["--encoder", "own_encoder:encode", "--reference", "noisy"], "--reference must be clean or pairs, got noisy."),
        (["--encoder", "."], "holds no config.json"),
    ],
)
def test_an_encoder_that_cannot_be_used_ends_with_one_sentence(own, capsys, flags, message):
    assert main([*own, *flags, "--out", "run"]) == 2
    error = capsys.readouterr().err
    assert message in error.replace("\n", " ")
    assert "Traceback" not in error


def test_texts_and_pictures_are_drawn_from_as_they_lie_in_a_table(own):
    Image.fromarray(np.full((3, 3), 99, np.uint8)).save("a.png")
    Path("memes.csv").write_text("id,text,image\nmine,dial seven,a.png\n")
    command = [*own, "--data", "memes.csv", "--encoder", "own_encoder:encode", "--out", "run"]
    assert main([*command[:2], *command[4:]]) == 0
    assert read_feature_run(Path("run")).ids == ("mine",)


def test_runs_of_another_kind_are_told_apart(run, own, capsys):
    assert main(["certify", str(run)]) == 2
    assert "`hybrid-rs features certify` reads it" in capsys.readouterr().err
    sampled = ["sample", "--model", "demo", "--data", "demo", "--limit", "1", "--samples", "50", "--out", "votes"]
    assert main(sampled) == 0
    assert main(["features", "certify", "votes"]) == 2
    assert "is no run of `hybrid-rs features sample`" in capsys.readouterr().err
    assert main(["features", "certify", "nowhere"]) == 2
    assert "holds no run" in capsys.readouterr().err


def test_a_run_is_not_extended_after_a_look_at_it(run, capsys):
    more = [*DEMO[:-1], "400"]
    assert main([*more, "--out", str(run), "--resume"]) == 2
    assert "cannot be continued" in capsys.readouterr().err


def test_latex_tables_hold_the_promise_and_every_input(run, capsys):
    assert main(["features", "certify", str(run), "--format", "latex", "--epsilon", "0.1"]) == 0
    certified = capsys.readouterr().out
    assert certified.count(r" \\") == 1 + 3
    assert "unit feature of the clean input" in certified
    assert main(["features", "curve", str(run), "--format", "latex", "--epsilon", "0,0.1"]) == 0
    assert capsys.readouterr().out.count("3/3 & 3/3") == 1 + 1


@pytest.mark.parametrize(
    ("command", "flags", "message"),
    [
        ("certify", ["--json", "--format", "csv"], "--json contradicts --format csv; leave one of them out."),
        ("curve", ["--json", "--format", "latex"], "--json contradicts --format latex; leave one of them out."),
        ("curve", ["--encoder", "demo"], "--encoder and --data belong to --copies."),
        ("curve", ["--data", "demo"], "--encoder and --data belong to --copies."),
        ("curve", ["--copies", "1"], "--copies needs --encoder and --data of the run: the means are drawn anew."),
        (
            ["curve", "--copies", "1", "--encoder", "demo", "--data", "demo"],
            ["--out", "curve.csv"],
            "--copies prints a table; --out belongs to the curve.",
        ),
        (
            ["curve", "--copies", "1", "--encoder", "own_encoder:encode"],
            ["--data", "demo"],
            "--encoder is not that of the run, whose header names {'layer': 'joint_up",
        ),
        (["curve", "--copies", "1", "--encoder", "demo"], ["--data", "inputs.npz"], "--data is not that of the run"),
    ],
)
def test_flags_that_do_not_go_with_a_run_are_refused_in_one_sentence(run, own, capsys, command, flags, message):
    first, *more = [command] if isinstance(command, str) else command
    assert main(["features", first, str(run), *more, *flags]) == 2
    assert message in capsys.readouterr().err.replace("\n", " ")
    assert not Path("curve.csv").exists()


def test_few_copies_are_measured_and_shown_alike_in_every_format(own, capsys):
    command = [*own[:-4], "--samples", "40", "--encoder", "own_encoder:encode", "--out", "run"]
    assert main(command) == 0
    capsys.readouterr()
    measure = [
        "features",
        "curve",
        "run",
        "--copies",
        "1,64",
        "--encoder",
        "own_encoder:encode",
        "--data",
        "inputs.npz",
    ]
    printed = {}
    for name in ("json", "csv", "table", "latex"):
        assert main([*measure, "--format", name]) == 0
        printed[name] = capsys.readouterr().out
    found = json.loads(printed["json"])
    assert found["certified"] is False
    few, many = found["rows"]
    assert (few["copies"], many["copies"]) == (1, 64)
    assert few["mean"] < many["mean"] < 1
    assert few["least"] < many["least"] < many["mean"]
    assert [float(row["mean"]) for row in csv.DictReader(io.StringIO(printed["csv"]))] == [few["mean"], many["mean"]]
    for row in (few, many):
        shown = f"{np.floor(row['mean'] * 1000) / 1000:.3f}"
        assert shown in printed["table"]
        assert shown in printed["latex"]
    for text in (printed["table"], printed["latex"]):
        assert "over 4 clean inputs: measured, not certified" in " ".join(text.split())


def test_files_of_json_hold_what_is_printed(run, tmp_path, capsys):
    for number, command in enumerate((["certify", str(run)], ["curve", str(run), "--alpha", "0.05"])):
        target = tmp_path / f"{number}.json"
        assert main(["features", *command, "--json", "--out", str(target)]) == 0
        assert json.loads(capsys.readouterr().out) == json.loads(target.read_text())
    assert main(["features", "curve", str(run), "--alpha", "0.05", "--format", "csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    columns = json.loads(target.read_text())["columns"]
    assert [float(row["law"]) for row in rows] == columns["law"]
    assert main(["features", "curve", str(run), "--json"]) == 0
    stricter = json.loads(capsys.readouterr().out)["columns"]["law"]
    assert all(loose >= strict for loose, strict in zip(columns["law"], stricter, strict=True))
    assert columns["law"] != stricter


def test_more_rows_than_a_terminal_holds_and_inputs_without_certificate_are_told(run, capsys):
    source = dataclasses.replace(
        read_feature_run(run), skipped=(("torn", "its picture is cut off"),), unfinished=("late", "later")
    )
    certificate = source.certify(0.01, (0,))
    columns = feature_columns(source.ids, certificate, [0.1], 0.5)
    rows = list(zip(*(x if isinstance(x, tuple) else x.tolist() for x in columns.values()), strict=True))
    print_certificates(source, certificate, columns, 5 * rows, 0.5)
    said = capsys.readouterr().out
    assert "... and 5 more (--format csv shows all)." in said
    assert "Skipped torn: its picture is cut off" in said
    assert "2 inputs unfinished; features sample --resume continues." in said


def test_a_run_whose_inputs_cannot_be_used_is_one_sentence_and_leaves_nothing(own, capsys):
    np.savez("bright.npz", tokens=np.zeros((2, 1), int), images=np.full((2, 3, 3, 1), 1e30, np.float32))
    own[own.index("--data") + 1] = "bright.npz"
    assert (
        main([*own, "--step", "0.01", "--pixel-range", "0,1", "--encoder", "own_encoder:encode", "--out", "run"]) == 2
    )
    assert "None of the 2 inputs can be used; the first one: " in capsys.readouterr().err
    assert not Path("run").exists()


def test_what_is_finished_is_not_drawn_again_and_the_noise_of_deletion_knows_its_pad(own, capsys):
    command = [*own[:-4], "--samples", "20", "--encoder", "own_encoder:encode", "--kernel", "deletion"]
    assert main([*command, "--p-delete", "0.5", "--out", "run"]) == 0
    before = read_feature_run(Path("run"))
    assert before.run.smoothing.discrete.pad_token == 0
    capsys.readouterr()
    assert main([*command, "--p-delete", "0.5", "--out", "run", "--resume"]) == 0
    assert "classified 0 noisy copies" in capsys.readouterr().out
    assert np.array_equal(read_feature_run(Path("run")).law.counts, before.law.counts)


def test_a_mapper_without_pixel_noise_is_refused(own, capsys):
    noise = ["--no-pixel-noise", "--kernel", "uniform", "--vocab-size", "4", "--beta", "0.9"]
    flags = [*own[:4], *noise, "--encoder", "own_encoder:encode", "--mapper", "m", "--out", "run"]
    assert main(flags) == 2
    assert "--denoiser and --mapper need pixel noise: give --sigma." in capsys.readouterr().err


@pytest.mark.slow
def test_few_copies_are_measured_with_the_noise_and_the_encoder_of_the_run(run, own, capsys):
    command = ["features", "curve", str(run), "--copies", "1,64"]
    assert main([*command, "--encoder", "demo", "--data", "demo", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    few, many = found["rows"]
    assert found["certified"] is False
    assert (few["copies"], many["copies"]) == (1, 64)
    for row in (few, many):
        assert 0.5 < row["least"] <= row["mean"] < 1
        assert row["seconds"] > 0
    for flags, message in (
        ([], "--copies needs --encoder and --data"),
        (["--encoder", "own_encoder:encode", "--data", "demo"], "--encoder is not that of the run"),
    ):
        assert main([*command, *flags]) == 2
        assert message in capsys.readouterr().err.replace("\n", " ")


def test_a_refused_run_leaves_nothing_and_the_mended_command_starts_anew(own, capsys):
    assert main([*own, "--encoder", "own_encoder:dead", "--out", "run"]) == 2
    assert not Path("run").exists()
    assert main([*own, "--encoder", "own_encoder:encode", "--out", "run"]) == 0


def test_a_mapper_takes_part_in_a_run_and_stands_in_its_header(own, capsys):
    from flax import nnx

    from hybrid_rs_jax.models.booster import Mapper, MapperConfig, MapperNetwork, save_mapper

    for features in (9, 8):
        config = MapperConfig(features=features, heads=1, scale=1.0)
        save_mapper(Mapper(MapperNetwork(config, nnx.Rngs(0)), config), f"{features}.safetensors")
    command = [*own, "--encoder", "own_encoder:encode", "--mapper"]
    assert main([*command, "9.safetensors", "--out", "mapped"]) == 0
    assert main([*own, "--encoder", "own_encoder:encode", "--out", "plain"]) == 0
    mapped, plain = (read_feature_run(Path(name)) for name in ("mapped", "plain"))
    assert mapped.run.facts["classifier"]["mapper"]["network"]["features"] == 9
    assert not np.array_equal(mapped.law.counts, plain.law.counts)
    capsys.readouterr()
    for flags, message in (
        ([*command, "8.safetensors", "--out", "other"], "takes features [b, 8]"),
        ([*command, "nowhere.safetensors", "--out", "other"], "is no whole mapper"),
        (
            [*own[:-6], "--kernel", "none", "--encoder", "own_encoder:encode", "--mapper", "x", "--out", "other"],
            "--sigma",
        ),
    ):
        assert main(flags) == 2
        assert message in capsys.readouterr().err.replace("\n", " ")
        assert not Path("other").exists()
