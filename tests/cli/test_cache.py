"""The folder that JAX keeps its compilations in: of the user, unless a switch or the environment says no."""

import importlib.metadata
import os
import sys
import warnings
from pathlib import Path

import pytest

from hybrid_rs_jax.cli._cache import SWITCH, VARIABLE, use_cache

FOLDER = Path("hybrid_rs_jax") / f"jax-{importlib.metadata.version('jaxlib')}"
SETTING = "JAX_COMPILATION_CACHE_DIR"


@pytest.fixture(autouse=True)
def _fresh(tmp_path, monkeypatch):
    """A process that has not loaded JAX, whose caches lie in the test's folder."""
    monkeypatch.delitem(sys.modules, "jax")
    for name in (SETTING, VARIABLE, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"):
        monkeypatch.setenv(name, "")  # is taken back after the test, whatever it is set to
        monkeypatch.delenv(name)
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "4096")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with warnings.catch_warnings():
        yield


def test_compilations_are_kept_by_version_and_what_the_user_set_stays(tmp_path):
    assert use_cache(["certify", "a.csv"]) == ["certify", "a.csv"]
    assert os.environ[SETTING] == str(tmp_path / FOLDER)
    assert (tmp_path / FOLDER).is_dir()
    assert os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] == "0"
    assert os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] == "4096"
    warnings.warn("Error writing persistent compilation cache entry", stacklevel=1)  # no news for the user


def test_without_a_folder_of_caches_it_lies_in_the_home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("HOME", str(tmp_path))
    use_cache([])
    assert os.environ[SETTING] == str(tmp_path / ".cache" / FOLDER)


@pytest.mark.parametrize("case", ["switch", "variable", "jax"])
def test_nothing_is_kept_where_somebody_says_no_or_jax_runs_already(monkeypatch, tmp_path, case):
    if case == "variable":
        monkeypatch.setenv(VARIABLE, "1")
    if case == "jax":
        monkeypatch.setitem(sys.modules, "jax", object())
    assert use_cache([SWITCH, "plan"] if case == "switch" else ["plan"]) == ["plan"]
    assert SETTING not in os.environ
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("case", ["relative", "file", "closed"])
def test_a_folder_that_cannot_be_used_costs_the_cache_and_nothing_else(monkeypatch, tmp_path, case):
    if case == "relative":
        monkeypatch.setenv("XDG_CACHE_HOME", "caches")
        monkeypatch.chdir(tmp_path)
    elif case == "file":
        (tmp_path / "hybrid_rs_jax").write_text("")
    else:
        monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert use_cache(["plan"]) == ["plan"]
    assert SETTING not in os.environ
    assert not (tmp_path / "caches").exists()
