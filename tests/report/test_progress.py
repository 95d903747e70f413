"""Progress says how far, how fast and how long, and before the first batch that it compiles."""

import io
import re
import sys
import threading
import time

import pytest

from hybrid_rs_jax.report import progress
from hybrid_rs_jax.report.progress import Pace, progress_bar


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock():
    return Clock()


def test_before_the_first_report_it_compiles(clock):
    assert str(Pace(10_000, "draws", clock)) == "0 % (0 of 10,000 draws); compiling"


def test_share_rate_and_time_left_count_from_the_first_report_on(clock):
    pace = Pace(10_000, "draws", clock)
    clock.now += 300  # compilation
    pace.advance(1_000)
    assert str(pace) == "10 % (1,000 of 10,000 draws)"
    clock.now += 10
    pace.advance(3_000, "500 draws saved")
    assert pace.per_second == 200
    assert str(pace) == "30 % (3,000 of 10,000 draws); 200 draws/s; about 35 s left; 500 draws saved"


def test_the_time_left_runs_down_while_a_batch_takes_long(clock):
    pace = Pace(100, "draws", clock)
    pace.advance(0)
    clock.now += 10
    pace.advance(10)
    clock.now += 20
    assert pace.seconds_left == 70
    clock.now += 1_000
    assert pace.seconds_left == 0


def test_a_resumed_run_is_not_taken_for_a_fast_one(clock):
    pace = Pace(1_000, "draws", clock)
    pace.advance(900)
    clock.now += 50
    pace.advance(950)
    assert pace.per_second == 1


@pytest.mark.parametrize(
    ("speed", "text"),
    [
        (5_300, "5,300 draws/s; about 94 s left"),
        (300, "300 draws/s; about 28 min left"),
        (2, "2 draws/s; about 69 h left"),
        (0.25, "0.25 draws/s; about 556 h left"),
    ],
)
def test_rates_and_times_have_fitting_units(clock, speed, text):
    pace = Pace(500_000 + int(400 * speed), "draws", clock)
    pace.advance(0)
    clock.now += 400
    pace.advance(int(400 * speed))
    assert text in str(pace)


def test_the_share_is_floored_and_nothing_to_do_is_all_done(clock):
    pace = Pace(1_000, "draws", clock)
    pace.advance(999)
    assert pace.percent == 99
    assert Pace(0, "draws", clock).percent == 100


def test_what_is_done_without_work_counts_for_the_time_left_and_not_for_the_rate(clock):
    pace = Pace(1_000, "draws", clock)
    pace.advance(100, worked=50)
    clock.now += 10
    pace.advance(300, worked=150)
    assert pace.per_second == 10
    assert pace.seconds_left == 35


def test_in_a_log_lines_come_even_while_the_first_batch_compiles(monkeypatch):
    monkeypatch.setattr(progress, "LOG_SECONDS", 0.01)
    monkeypatch.setattr(sys, "stderr", stream := io.StringIO())

    def wait_for(text):
        deadline = time.monotonic() + 600
        while text not in stream.getvalue() and time.monotonic() < deadline:
            time.sleep(0.005)
        assert text in stream.getvalue()

    with progress_bar("sampling", 200, "draws", log=True) as advance:
        wait_for("sampling: 0 % (0 of 200 draws); compiling\n")
        advance(50)
        wait_for("sampling: 25 % (50 of 200 draws)\n")
    assert not [thread for thread in threading.enumerate() if thread.name == "progress"]


def test_in_a_log_a_short_run_says_nothing_and_an_error_ends_the_lines(capsys):
    def fail():
        with progress_bar("sampling", 10, "draws", log=True) as advance:
            advance(3)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    with progress_bar("sampling", 10, "draws") as advance:
        advance(10, "note", worked=3)
    assert capsys.readouterr().err == ""
    assert not [thread for thread in threading.enumerate() if thread.name == "progress"]


def test_on_a_terminal_there_is_a_bar_with_share_and_rate(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr(sys, "stderr", stream := Terminal())
    with progress_bar("sampling", 200, "draws") as advance:
        deadline = time.monotonic() + 600
        while "compiling" not in stream.getvalue() and time.monotonic() < deadline:
            time.sleep(0.01)
        advance(50, "[9] saved")
        while "25 %; [9] saved" not in stream.getvalue() and time.monotonic() < deadline:
            time.sleep(0.01)
    shown = re.sub(r"\x1b\[[^a-zA-Z]*[a-zA-Z]", "", stream.getvalue())
    assert "sampling" in shown
    assert "0 %; compiling" in shown
    assert "25 %; [9] saved" in shown  # notes are no markup
