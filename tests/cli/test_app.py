"""The command line: its contract, what it refuses, and how it stops."""

import io
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import hybrid_rs_jax as hrs
from hybrid_rs_jax import cli
from hybrid_rs_jax.results import count_files as counts_room

COUNTS = "id,successes,n\na,10000,10000\nb,9990,10000\nc,8000,10000\nd,0,10000\n"
UNIFORM = ["--kernel", "uniform", "--beta", "0.25", "--vocab-size", "32000"]
NOISE = [*UNIFORM, "--sigma", "0.5"]
SMOOTHING = hrs.HybridSmoothing(hrs.UniformKernel(0.25, 32_000), 0.5)


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    """A working folder with a counts file."""
    (tmp_path / "counts.csv").write_text(COUNTS)
    monkeypatch.chdir(tmp_path)


def done(capsys, *argv):
    """Run a command that must succeed, and give what it prints."""
    status = cli.main(list(argv))
    out, err = capsys.readouterr()
    assert (status, err) == (0, "")
    return out


def refused(capsys, *argv):
    """Run a command that must refuse, and give its sentence."""
    before = _contents()
    status = cli.main(list(argv))
    out, err = capsys.readouterr()
    assert (status, out) == (2, "")
    assert err.startswith("hybrid-rs: error: ")
    assert err.endswith(".\n")
    assert err.count("\n") == 1
    assert _contents() == before
    return err


def _contents():
    return {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}


def test_certify_json_is_the_contract(capsys):
    printed = json.loads(done(capsys, "certify", "counts.csv", *NOISE, "--tau", "4.6e-5", "--alpha", "0.01", "--json"))
    certificate = hrs.certify([10_000, 9_990, 8_000, 0], 10_000, SMOOTHING, tau=4.6e-5, alpha=0.01)
    assert list(printed) == ["statement", "certificates"]
    statement, rows = printed["statement"], printed["certificates"]
    assert (statement["tau"], statement["alpha"], statement["sigma"]) == (4.6e-5, 0.01, 0.5)
    assert (statement["kernel"], statement["beta"], statement["vocab_size"]) == ("uniform", 0.25, 32_000)
    assert statement["risk"] == "simultaneous over budgets"
    assert statement["needed_samples"] == certificate.needed_samples().tolist()
    assert [row["id"] for row in rows] == list("abcd")
    assert all(list(row) == ["id", "successes", "n", "p_a", "radius", "budget"] for row in rows)
    assert [row["p_a"] for row in rows] == certificate.p_a.tolist()
    assert [row["radius"] for row in rows] == certificate.radius.tolist()
    assert [row["budget"] for row in rows] == certificate.budget.tolist()
    assert len(rows[0]["radius"]) == 9


def test_certify_reads_json_lines_and_each_kernel(capsys):
    Path("counts.jsonl").write_text('{"id": 7, "successes": 900, "n": 1000}\n')
    for flags, smoothing, budgets in (
        ("--kernel absorbing --beta 0.5 --sigma 0.5", hrs.HybridSmoothing(hrs.AbsorbingKernel(0.5), 0.5), range(9)),
        (
            "--kernel categorical --beta 0.25 --cardinalities 2,5,16 --no-pixel-noise",
            hrs.HybridSmoothing(hrs.CategoricalKernel(0.25, (2, 5, 16)), None),
            range(4),
        ),
        ("--kernel none --sigma 0.5", hrs.HybridSmoothing(None, 0.5), range(1)),
    ):
        printed = json.loads(done(capsys, "certify", "counts.jsonl", *flags.split(), "--tau", "0.1", "--json"))
        certificate = hrs.certify([900], 1000, smoothing, tau=0.1, alpha=0.01, budgets=budgets)
        assert printed["certificates"][0]["id"] == "7"
        assert printed["certificates"][0]["radius"] == certificate.radius[0].tolist()


def test_certify_splits_alpha_where_each_budget_has_its_own_sample(capsys):
    lines = [f"{name},{1000 - 10 * d},1000,{d}" for name in "ab" for d in (0, 1, 3)]
    Path("counts.csv").write_text("\n".join(["id,successes,n,budget", *lines]))
    ordinary = ("certify", "counts.csv", *NOISE, "--draws", "ordinary")
    printed = json.loads(done(capsys, *ordinary, "--alpha", "0.03", "--json"))
    counts = np.array([[1000, 990, 970]] * 2)
    certificate = hrs.certify(counts, 1000, SMOOTHING, tau=4.6e-5, alpha=0.03, budgets=(0, 1, 3))
    assert printed["statement"]["risk"] == "alpha split evenly over budgets"
    assert printed["statement"]["risk_per_statement"] == pytest.approx(0.01)
    assert printed["statement"]["budgets"] == [0, 1, 3]
    assert [row["p_a"] for row in printed["certificates"]] == certificate.p_a.tolist()
    assert [row["radius"] for row in printed["certificates"]] == certificate.radius.tolist()
    assert "one sample per budget" in done(capsys, *ordinary)
    assert "0, 1, 3; leave it out" in refused(capsys, *ordinary, "--max-budget", "4")


def test_certify_tells_what_is_not_certified_and_why(capsys):
    printed = done(capsys, "certify", "counts.csv", *NOISE)
    assert "n = 10,000 is too small for d = 6: it needs at least 23,155 draws." in printed
    assert "1 of 4 inputs abstain: the lower bound p_A on the clean score does not exceed tau = 4.6e-05." in printed
    assert "in all at most alpha + 0.01 = 0.02" in printed
    assert "an input that is not flagged costs all of them" in printed
    assert "SMOOTHED" in printed
    assert "99 %" in printed
    assert "\x1b" not in printed  # plain where nobody watches a terminal


def test_certify_table_floors(capsys):
    printed = done(capsys, "certify", "counts.csv", *NOISE, "--max-budget", "1")
    row = next(line.split() for line in printed.splitlines() if line.startswith("a "))
    certificate = hrs.certify([10_000], 10_000, SMOOTHING, tau=4.6e-5, alpha=0.01, budgets=range(2))
    for cell, exact in zip(row[2:], (*certificate.p_a, 1, *certificate.radius[0]), strict=True):
        assert exact - 1e-3 < float(cell) <= exact


def test_certify_shows_the_first_rows_and_writes_all(capsys):
    rows = [f"x{index},{index},100" for index in range(40)]
    Path("many.csv").write_text("\n".join(["id,successes,n", *rows]))
    for suffix in ("json", "csv"):
        printed = done(capsys, "certify", "many.csv", *NOISE, "--max-budget", "0", "--out", f"all.{suffix}")
        assert "... and 30 more" in printed
        assert f"Wrote all.{suffix}." in printed
        text = Path(f"all.{suffix}").read_text()
        assert "x39" in text
        assert "exists" in refused(capsys, "certify", "many.csv", *NOISE, "--out", f"all.{suffix}")
        done(capsys, "certify", "many.csv", *NOISE, "--max-budget", "1", "--out", f"all.{suffix}", "--force")
        assert Path(f"all.{suffix}").read_text() != text


CERTIFY = ["certify", "counts.csv"]
REFUSED = {
    "no command": ([], "a command is needed: demo, sample, certify"),
    "unknown command": (["guess"], "Unknown command 'guess'"),
    "unknown flag": ([*CERTIFY, *NOISE, "--bogus"], "Unknown option: --bogus"),
    "no counts": (["certify"], "COUNTS is needed"),
    "no value": ([*CERTIFY, *NOISE, "--tau"], "--tau needs a value"),
    "missing file": (["certify", "missing.csv", *NOISE], "missing.csv does not exist"),
    "no run": (["certify", ".", *NOISE], "is not a run folder: it has no run.json"),
    "kernel missing": (CERTIFY, "--kernel is needed"),
    "kernel unknown": (
        [*CERTIFY, "--kernel", "gaussian"],
        "--kernel must be uniform, absorbing, categorical, deletion or none, got gaussian",
    ),
    "kernel nearly known": ([*CERTIFY, "--kernel", "unifrm"], "or none, got unifrm (did you mean uniform?)."),
    "uniform alone": ([*CERTIFY, "--kernel", "uniform"], "--kernel uniform needs --beta and --vocab-size"),
    "absorbing alone": ([*CERTIFY, "--kernel", "absorbing"], "needs --beta"),
    "categorical alone": ([*CERTIFY, "--kernel", "categorical", "--beta", ".2"], "needs --cardinalities"),
    "no sigma": ([*CERTIFY, *UNIFORM], "--sigma is needed (or --no-pixel-noise)"),
    "plan: no sigma": (
        ["plan", "--budget", "1", "--epsilon", "0", *UNIFORM],
        "--sigma is needed (or --no-pixel-noise)",
    ),
    "two kinds of pixel noise": ([*CERTIFY, *NOISE, "--no-pixel-noise"], "--no-pixel-noise contradicts --sigma"),
    "none alone": ([*CERTIFY, "--kernel", "none"], "needs --sigma"),
    "idle flag": ([*CERTIFY, *NOISE, "--cardinalities", "2,3"], "has no use for --cardinalities"),
    "beta without kernel": ([*CERTIFY, "--kernel", "none", "--sigma", "1", "--beta", ".1"], "has no use for --beta"),
    "arity": (
        [*CERTIFY, "--kernel", "categorical", "--beta", ".2", "--cardinalities", "2,1"],
        "must hold integers in 2..2147483647, got 1",
    ),
    "fields": (
        [
            *CERTIFY,
            *["--kernel", "categorical", "--beta", ".2", "--cardinalities", "2,5", "--sigma", "1", "--max-budget", "3"],
        ],
        "at most the number of fields 2, got 3",
    ),
    "counts as out": ([*CERTIFY, *NOISE, "--out", "counts.csv", "--force"], "is the file of the counts"),
    "out exists": ([*CERTIFY, *NOISE, "--out", "counts.csv"], "already exists"),
    "out suffix": ([*CERTIFY, *NOISE, "--out", "a.txt"], "must end in .json, .csv, .parquet or .tex"),
    "out folder": ([*CERTIFY, *NOISE, "--out", "missing/a.csv"], "missing does not exist; create it first"),
    "plan: no epsilon": (["plan", "--budget", "3", *NOISE], "--epsilon is needed"),
    "plan: no budget": (["plan", "--epsilon", "1", *NOISE], "One of --budget, --budgets and --target is needed"),
    "plan: both": (["plan", "--budget", "1", "--budgets", "1", "--epsilon", "1", *NOISE], "and only one"),
    "plan: epsilon": (["plan", "--budget", "1", "--epsilon", "-1", *NOISE], "--epsilon must be at least 0"),
    "plan: two thresholds": (
        ["plan", "--budget", "1", "--epsilon", "1", *NOISE, "--tau", ".5", "--runtime-samples", "5"],
        "give one of them",
    ),
    "plan: half a threshold": (
        ["plan", "--budget", "1", "--epsilon", "1", *NOISE, "--miss-probability", ".5"],
        "needs --runtime-samples",
    ),
    "plan: pixels without noise": (
        ["plan", "--budget", "1", "--epsilon", "1", *UNIFORM, "--no-pixel-noise"],
        "needs --sigma",
    ),
    "plan: tokens without noise": (
        ["plan", "--budget", "1", "--epsilon", "1", "--kernel", "none", "--sigma", "1"],
        "has only the budget 0",
    ),
    "plan: impossible": (
        [
            "plan",
            *[
                "--budget",
                "5",
                "--epsilon",
                "0",
                "--kernel",
                "absorbing",
                "--beta",
                ".5",
                "--tau",
                ".1",
                "--no-pixel-noise",
            ],
        ],
        "certifies d = 4, 5 at epsilon = 0 and tau = 0.1 with this noise; the largest of these budgets that can be "
        "certified is d = 3",
    ),
    "plot: missing": (["plot", "missing"], "missing does not exist"),
    "plot: counts": (["plot", "counts.csv"], "must be a run folder or a JSON file of certify"),
    "demo: samples": (["demo", "--samples", "0"], "--samples must be an integer in 1..10000000, got 0"),
    "demo: limit": (["demo", "--limit", "9999"], "--limit must be at most"),
    "demo: folder": (["demo", "--out", "missing/run"], "missing does not exist"),
    "demo: file": (["demo", "--out", "counts.csv"], "already exists and is a file"),
    "demo: not empty": (["demo", "--out", "."], "already exists and is not empty"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_one_sentence_and_status_2(capsys, case):
    argv, sentence = REFUSED[case]
    assert sentence in refused(capsys, *argv)


@pytest.mark.parametrize(
    ("flag", "values", "legal"),
    [
        ("--beta", ("0", "1", "-0.5", "nan", "x", ""), "must lie in (0, 1)"),
        ("--tau", ("0", "1", "2", "nan", "inf"), "must lie in (0, 1)"),
        ("--alpha", ("0", "1", "-1", "many", "1e-300"), "must lie in [1e-200, 1)"),
        ("--sigma", ("0", "-1", "nan", "inf", "1e300"), "must be positive, in 1e-12..1e+12"),
        ("--vocab-size", ("1", "0", "-5", "2.5", "1e3", "x"), "must be an integer in 2..2147483647"),
        ("--max-budget", ("-1", "1001", "2.5", "x"), "must be an integer in 0..1000"),
    ],
)
def test_numbers_out_of_range_are_named_with_their_range(capsys, flag, values, legal):
    for value in values:
        sentence = refused(capsys, *CERTIFY, *NOISE, flag, value)
        assert f"{flag} {legal}, got {value}" in sentence


def test_a_bad_line_reaches_the_user_with_its_number(capsys):
    Path("counts.csv").write_text("id,successes,n\na,3,2\n")
    assert "counts.csv, line 2: successes must be in 0..2 (n), got 3" in refused(capsys, *CERTIFY, *NOISE)


def test_parquet_without_pyarrow_is_refused_before_any_work(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setattr(counts_room, "read_counts", None)
    sentence = refused(capsys, *CERTIFY, *NOISE, "--out", "a.parquet")
    assert 'pip install "hybrid-rs-jax[parquet]"' in sentence


def test_plan_gives_the_numbers_of_the_library(capsys):
    argv = ["plan", "--budget", "6", "--epsilon", "0.25", *NOISE, "--samples", "10000"]
    rows = json.loads(done(capsys, *argv, "--json"))["budgets"]
    budgets = np.arange(7)
    draws = hrs.required_samples(budgets, 0.25, SMOOTHING, 4.6e-5, 0.01)
    assert [row["required_samples"] for row in rows] == draws.tolist()
    assert [row["p_a"] for row in rows] == hrs.required_probability(budgets, 0.25, SMOOTHING, 4.6e-5).tolist()
    for row in rows:
        failures = row["affordable_failures"]
        radius = [
            hrs.certified_radius(hrs.clopper_pearson(10_000 - k, 10_000, 0.01), row["d"], SMOOTHING, 4.6e-5)
            for k in (failures, failures + 1)
            if 0 <= k <= 10_000
        ]
        if failures >= 0:
            assert radius[0] >= 0.25
        assert radius[-1] < 0.25
    printed = done(capsys, *argv)
    assert "n = 10,000 is too small for d = 6" in printed
    assert "100,111 fresh noisy copies" in printed


def test_plan_takes_the_runtime_budget_instead_of_tau(capsys):
    argv = ["plan", "--budgets", "2,1", "--epsilon", "0.5", *NOISE, "--json"]
    plan = json.loads(done(capsys, *argv, "--runtime-samples", "1000", "--miss-probability", "0.05"))
    assert plan["statement"]["tau"] == hrs.detection_threshold(1000, 0.05)
    assert [row["d"] for row in plan["budgets"]] == [1, 2]


COMMANDS = ["demo", "sample", "certify", "plan", "sweep", "plot", "report", "merge", "doctor", "curate"]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_with_an_example(capsys, command):
    text = done(capsys, command, "--help")
    assert text.startswith(f"Usage: hybrid-rs {command}")
    assert f"  hybrid-rs {command} " in text.split("examples:")[1]
    assert "default: " in text or command == "merge", "merge has nothing to choose"
    assert "None" not in text


@pytest.mark.parametrize("command", [*COMMANDS, "compare", "operate", "pack", "serve", "status"])
def test_each_flag_begins_a_line_and_its_words_stand_under_it(capsys, command):
    text = done(capsys, command, "--help").split("examples:")[0]
    flags = [line for line in text.splitlines()[2:] if line.startswith("  ")]
    assert flags
    for line in flags:
        assert re.match(r"  (--?\w|[A-Z]+\b)|      \S", line), line
        assert len(line) <= 110
        assert line == line.rstrip()


@pytest.mark.parametrize("command", ["sample", "certify", "curve"])
def test_the_commands_about_features_explain_themselves(capsys, command):
    assert f"  hybrid-rs features {command} " in done(capsys, "features", "--help").split("examples:")[1]
    text = done(capsys, "features", command, "--help")
    assert text.startswith(f"Usage: hybrid-rs features {command}")
    assert "default: " in text
    assert "None" not in text


def test_version(capsys):
    assert done(capsys, "--version") == f"hybrid-rs {hrs.__version__}\n"


def test_help_answers_without_importing_what_is_heavy():
    code = (
        "import sys; from hybrid_rs_jax.cli import main; status = main(['--help']);"
        "heavy = {'jax', 'flax', 'scipy', 'matplotlib', 'pyarrow'} & set(sys.modules);"
        "sys.exit(f'imported {heavy}' if heavy else status)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")


def test_as_a_program_it_gives_status_and_sentence():
    argv = [sys.executable, "-m", "hybrid_rs_jax.cli", "certify", "missing.csv", *NOISE]
    result = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr == "hybrid-rs: error: missing.csv does not exist.\n"


def test_output_without_unicode_is_still_output(monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    assert cli.main([*CERTIFY, *NOISE, "--max-budget", "0"]) == 0
    assert b"? not certified" in raw.getvalue()


def test_lazy_names_are_all_there():
    for name in hrs.__all__:
        assert getattr(hrs, name) is not None
        assert name in dir(hrs)
    with pytest.raises(AttributeError, match="no attribute 'nope'"):
        _ = hrs.nope
