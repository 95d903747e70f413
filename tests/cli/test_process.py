"""The edges of the process: streams, signals, the environment, and the last resort."""

import contextlib
import itertools
import os
import signal
import subprocess
import sys
import threading
import types
from pathlib import Path

import numpy as np
import pytest

from hybrid_rs_jax import cli
from hybrid_rs_jax.cli import _process, app
from hybrid_rs_jax.errors import BadInputError, raised_by

NOISE = ["--kernel", "none", "--sigma", "0.5", "--tau", "0.1"]
CERTIFY = ["certify", "counts.csv", *NOISE]


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    """A working folder with a counts file."""
    (tmp_path / "counts.csv").write_text("id,successes,n\na,900,1000\n")
    monkeypatch.chdir(tmp_path)


def raising(error):
    def command():
        raise error

    return command


def program(code, **options):
    """Run Python as a program of its own."""
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    return subprocess.run([sys.executable, "-c", code], text=True, check=False, **streams)


@contextlib.contextmanager
def started(code):
    """A program of its own that does not outlive the test."""
    argv, streams = [sys.executable, "-c", code], {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(argv, text=True, **streams) as process:
        try:
            yield process
        finally:
            process.kill()


# The last resort


def test_a_list_of_faults_is_one_line_with_a_mark_between_them(capsys):
    assert _process.guarded(raising(BadInputError("It cannot go on:\n  a: 1\n  b: 2"))) == 2
    assert capsys.readouterr().err == "hybrid-rs: error: It cannot go on: a: 1; b: 2\n"


def test_an_error_that_nobody_foresaw_is_one_line_that_takes_the_blame(capsys):
    assert _process.guarded(raising(KeyError("n\no"))) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err == (
        "hybrid-rs: this is a fault of hybrid-rs: KeyError: 'n\\no'; run again with --debug for the traceback.\n"
    )


@pytest.mark.parametrize(
    "error", [RuntimeError(), AssertionError("a\nb"), RecursionError("deep"), TypeError("x" * 9999)]
)
def test_whatever_it_says_it_stays_one_line(capsys, error):
    assert _process.guarded(raising(error)) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert type(error).__name__ in err
    assert len(err) < 500


def test_an_error_of_the_users_classifier_is_not_our_fault(capsys):
    def command():
        with raised_by("the classifier my_filter.classify"):
            raise KeyError("wor\nds")

    assert _process.guarded(command) == 2
    assert capsys.readouterr().err == (
        "hybrid-rs: error: the classifier my_filter.classify raised KeyError: 'wor\\nds'; "
        "run again with --debug for the traceback.\n"
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [("JAX_ENABLE_X64", "maybe"), ("JAX_NUMPY_RANK_PROMOTION", "never"), ("JAX_DEFAULT_DEVICE", "abacus")],
)
def test_a_setting_that_jax_refuses_is_named_with_its_value(name, value):
    environment = {**os.environ, name: value}
    code = f"import sys; from hybrid_rs_jax.cli import main; sys.exit(main({CERTIFY}))"
    ended = program(code, env=environment)
    assert ended.returncode == 2
    assert ended.stderr == (
        f"hybrid-rs: error: the environment variable {name} must be legal to JAX, got {value!r}; correct or unset it.\n"
    )


@pytest.mark.parametrize("how", ["flag", "environment"])
def test_the_traceback_is_there_when_it_is_asked_for(capsys, monkeypatch, how):
    monkeypatch.setattr(app, "_run", lambda argv: raising(KeyError(str(argv)))())
    if how == "environment":
        monkeypatch.setenv("HYBRID_RS_DEBUG", "1")
    assert cli.main([*CERTIFY, *(["--debug"] if how == "flag" else [])]) == 1
    err = capsys.readouterr().err
    assert "Traceback (most recent call last)" in err
    assert err.splitlines()[-1].startswith("hybrid-rs: this is a fault of hybrid-rs: KeyError")
    assert str(CERTIFY) in err  # the flag is the process's own, and no command sees it


def test_without_debug_there_is_no_traceback(capsys, monkeypatch):
    monkeypatch.setenv("HYBRID_RS_DEBUG", "0")
    assert cli.main(["certify", "missing.csv", *NOISE]) == 2
    assert capsys.readouterr().err == "hybrid-rs: error: missing.csv does not exist.\n"


@pytest.mark.parametrize("error", [MemoryError("Unable to allocate 9 TiB"), RuntimeError("RESOURCE_EXHAUSTED: 9 TiB")])
def test_too_little_memory_is_said_and_is_no_fault(capsys, error):
    assert _process.guarded(raising(error)) == 2
    assert "not enough memory" in (err := capsys.readouterr().err)
    assert "9 TiB" in err


def test_an_interrupt_is_status_130(capsys):
    assert _process.guarded(raising(KeyboardInterrupt())) == 130
    assert capsys.readouterr().err == "hybrid-rs: interrupted.\n"


# Streams


def test_a_full_disk_under_stdout_is_one_sentence_and_the_file_is_written(capsys, monkeypatch):
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert cli.main([*CERTIFY, "--out", "z.csv"]) == 2
    assert capsys.readouterr().err.endswith(
        "what was printed could not be written to stdout: No space left on device.\n"
    )
    assert "a" in Path("z.csv").read_text()


def test_a_reader_that_goes_away_is_told_nothing_and_the_file_is_written(capsys, monkeypatch):
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        assert cli.main([*CERTIFY, "--out", "z.csv"]) == 141
    assert capsys.readouterr().err == ""
    assert Path("z.csv").exists()


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_stream_that_is_closed_is_a_stream_that_nobody_reads(monkeypatch, stream):
    monkeypatch.setattr(sys, stream, None)
    assert cli.main([*CERTIFY, "--out", "z.csv"]) == 0
    assert Path("z.csv").exists()
    assert cli.main(["certify", "missing.csv", *NOISE]) == 2
    assert getattr(sys, stream) is None


def test_started_without_any_stream_a_program_writes_its_file_and_nothing_into_it():
    code = (
        "import os, sys\nfor handle in (0, 1, 2): os.close(handle)\n"
        "sys.stdin = sys.stdout = sys.stderr = None\n"
        "from hybrid_rs_jax.cli import _process\n"
        "def command():\n"
        "    file = open('out.txt', 'w')\n"
        "    print('lost'); os.write(1, b'lost'); os.write(2, b'lost')\n"
        "    file.write('kept'); file.close()\n"
        "    return 0\n"
        "os._exit(_process.guarded(command))"
    )
    assert program(code).returncode == 0
    assert Path("out.txt").read_text() == "kept"


def test_a_full_disk_under_stderr_keeps_the_status(monkeypatch):
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stderr", full)
        assert cli.main(["certify", "missing.csv", *NOISE]) == 2


def test_as_a_program_a_full_disk_ends_with_2_and_one_sentence():
    code = "import sys; from hybrid_rs_jax.cli import main; sys.exit(main(['--help']))"
    with open("/dev/full", "w") as full:
        result = subprocess.run(
            [sys.executable, "-c", code], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1


# Signals


@pytest.mark.parametrize(("name", "status"), [("SIGTERM", 143), ("SIGHUP", 143), ("SIGINT", 130)])
def test_a_signal_during_a_write_leaves_no_temporary_file(name, status):
    code = (
        "import signal, sys, time, pathlib\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's background jobs ignore it
        "signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"  # and what nohup starts this one
        "from hybrid_rs_jax import _files\n"
        "from hybrid_rs_jax.cli import _process\n"
        "def command():\n"
        "    with _files.atomic_folder(pathlib.Path('run')), _files.atomic_file(pathlib.Path('z.csv')) as path:\n"
        "        path.write_text('half'); print('ready', flush=True)\n"
        "        try: time.sleep(600)\n"
        f"        finally: signal.raise_signal(signal.{name})\n"  # once more, as `timeout` does
        "sys.exit(_process.guarded(command))"
    )
    with started(code) as process:
        assert process.stdout.readline() == "ready\n"
        assert len(os.listdir()) == 3
        process.send_signal(signal.Signals[name])
        said = process.communicate(timeout=600)[1]
    assert process.returncode == status
    assert "Traceback" not in said
    assert os.listdir() == ["counts.csv"]


def test_a_second_ctrl_c_ends_what_does_not_end(capsys, monkeypatch):
    seconds = itertools.count(0, 2)
    monkeypatch.setattr(_process, "time", types.SimpleNamespace(monotonic=lambda: next(seconds)))
    seen = []

    def command():
        for _ in range(2):
            try:
                signal.raise_signal(signal.SIGINT)
            except KeyboardInterrupt:
                seen.append("interrupted")
        return 0

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert _process.guarded(command) == 0
        assert seen == ["interrupted"] * 2
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(("name", "status"), [("SIGTERM", 143), ("SIGHUP", 143), ("SIGINT", 130)])
def test_a_run_that_is_ended_by_a_signal_says_what_it_keeps_and_by_what_it_ended(name, status):
    code = (
        "import signal, sys\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"
        "from hybrid_rs_jax.cli import main\n"
        "import own\n"
        "sys.exit(main('sample --model own:slow --on-host --data d.npz --vocab-size 3 --sigma 1 --out r'.split()))"
    )
    Path("own.py").write_text(
        "import time, numpy\n"
        "def slow(tokens, images):\n"
        "    print('asked', flush=True); time.sleep(0.05)\n"
        "    return numpy.ones(len(tokens), bool)\n"
    )
    np.savez("d.npz", tokens=np.zeros((1, 2), int), images=np.zeros((1, 2, 2, 1), np.float32))
    with started(code) as process:
        while (line := process.stdout.readline()) != "asked\n":
            assert line, "it ended by itself"
        process.send_signal(signal.Signals[name])
        said = process.communicate(timeout=600)[1]
    assert process.returncode == status
    assert "Interrupted: r keeps" in said


def test_handlers_of_others_are_left_alone_and_ours_do_not_stay():
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    seen = []
    try:
        assert _process.guarded(lambda: seen.append(signal.getsignal(signal.SIGTERM)) or 0) == 0
        assert seen[0] is not signal.SIG_DFL
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        _process.guarded(lambda: seen.append(signal.getsignal(signal.SIGTERM)) or 0)
        assert seen[1] is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)


def test_in_a_thread_signals_are_left_alone():
    found = []
    thread = threading.Thread(target=lambda: found.append(_process.guarded(lambda: 7)))
    thread.start()
    thread.join()
    assert found == [7]


# The environment


PLATFORMS = [("cuda", "cuda,cpu"), (" tpu , cuda", "tpu,cuda,cpu"), ("cuda,cpu", "cuda,cpu"), ("", "")]


@pytest.mark.parametrize(("asked", "given"), PLATFORMS)
def test_the_cpu_is_kept_beside_the_platforms_that_are_asked_for(monkeypatch, asked, given):
    monkeypatch.setenv("JAX_PLATFORMS", asked)
    monkeypatch.delitem(sys.modules, "jax")
    monkeypatch.setenv("JAX_TRANSFER_GUARD", "disallow")
    _process._own_environment()
    assert "JAX_TRANSFER_GUARD" not in os.environ
    assert os.environ["JAX_PLATFORMS"] == given


def test_bad_input_is_2_whatever_its_text(capsys):
    assert _process.guarded(raising(BadInputError("a\nb  c."))) == 2
    assert capsys.readouterr().err == "hybrid-rs: error: a b c.\n"


def test_a_value_of_any_length_does_not_bury_the_sentence(capsys):
    assert _process.guarded(raising(BadInputError(f"{'a' * 9_999} is no name, {'b' * 300} is one."))) == 2
    assert capsys.readouterr().err == f"hybrid-rs: error: {'a' * 150}... is no name, {'b' * 300} is one.\n"


def test_exits_of_others_are_passed_on():
    with pytest.raises(SystemExit), contextlib.redirect_stderr(None):
        _process.guarded(raising(SystemExit(3)))
