# Every target makes the virtual environment that it needs on first use.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
OUT ?= experiments/out

.DEFAULT_GOAL := help
.PHONY: help demo test test-all coverage soundness resilience bench lint types doctest notebooks docs wheel train clean

help: ## show the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(BIN)/hybrid-rs: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable ".[demo]"
	@touch $@

$(VENV)/.dev: $(BIN)/hybrid-rs
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	@touch $@

demo: $(BIN)/hybrid-rs ## certify the built-in guard on real images: about a minute
	$(BIN)/hybrid-rs demo

test: $(VENV)/.dev ## the fast tests: some 20 minutes on two cores
	$(BIN)/python -m pytest -n 2

test-all: $(VENV)/.dev ## every test, the exhaustive ones too
	$(BIN)/python -m pytest -n 2 -m "slow or not slow"

coverage: $(VENV)/.dev ## lines that the fast tests run: at least 98 %
	$(BIN)/python -m pytest -n 2 --cov=hybrid_rs_jax

soundness: $(VENV)/.dev ## 20,000 certificates against 200-bit arithmetic
	mkdir -p $(OUT)
	HRS_SOUNDNESS_OUT=$(OUT)/soundness.json $(BIN)/python -m pytest -m slow tests/certificate/test_soundness.py -s

resilience: $(VENV)/.dev ## 50 runs killed at random moments and 10 on full disks, all resumed
	$(BIN)/python -m pytest -m "slow or not slow" tests/sampling/test_kill.py -s

bench: $(VENV)/.dev ## time certifier and engine, count the draws that early stopping saves
	mkdir -p $(OUT)
	$(BIN)/python experiments/bench/certifier.py --out $(OUT)/bench_certifier.json
	$(BIN)/python experiments/bench/engine.py --out $(OUT)/bench_engine.json
	$(BIN)/python experiments/bench/draws.py --out $(OUT)/draws
	$(BIN)/python experiments/bench/serve.py --out $(OUT)/bench_serve.json
	$(BIN)/python experiments/bench/vlm.py --out $(OUT)/bench_vlm.json

lint: $(VENV)/.dev ## ruff: style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev ## mypy
	$(BIN)/mypy

doctest: $(VENV)/.dev ## the examples in the docstrings
	$(BIN)/python -m pytest --doctest-modules hybrid_rs_jax

notebooks: $(VENV)/.dev ## run every notebook from top to bottom
	$(BIN)/python tests/run_notebooks.py notebooks

docs: $(VENV)/.dev ## build the site into site/; a warning is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

wheel: $(VENV)/.dev ## build the wheel into dist/
	$(BIN)/python -m build --wheel --outdir dist .

train: $(VENV)/.dev ## train the demo guard again (refuses to overwrite its weights)
	$(BIN)/python experiments/train_demo_guard.py

clean: ## remove what the targets made
	rm -rf $(VENV) dist build site .pytest_cache .mypy_cache .ruff_cache
