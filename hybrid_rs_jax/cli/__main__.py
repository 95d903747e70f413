"""`python -m hybrid_rs_jax.cli` is `hybrid-rs`."""

import sys

from hybrid_rs_jax.cli.app import main

sys.exit(main())
