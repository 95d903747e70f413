"""Every test runs with strict dtype promotion, checked shapes, warnings as errors and two virtual CPU devices."""

import os
import sys
from pathlib import Path

os.environ.setdefault("JAX_NUM_CPU_DEVICES", "2")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "Agg")
sys.path.insert(0, str(Path(__file__).parent))
# what a user may have set, and what would change what is asked, printed or shown
for name in ("HYBRID_RS_API_KEY", "HYBRID_RS_DEBUG", "OPENAI_API_KEY", "OPENAI_BASE_URL"):
    os.environ.pop(name, None)
for name in ("COLUMNS", "LINES", "FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
    os.environ.pop(name, None)
for name in [name for name in os.environ if name.lower().endswith("_proxy")]:  # the tests' servers are on this machine
    del os.environ[name]

from jaxtyping import install_import_hook  # noqa: E402

_hook = install_import_hook("hybrid_rs_jax", "beartype.beartype")
_hook.__enter__()

import hypothesis  # noqa: E402  (after the hook and the environment)
import jax  # noqa: E402
import pytest  # noqa: E402

# the same examples in every run, however long one takes
hypothesis.settings.register_profile("suite", deadline=None, derandomize=True)
hypothesis.settings.load_profile("suite")


@pytest.fixture(autouse=True)
def _strict_promotion():
    with jax.numpy_dtype_promotion("strict"):
        yield
