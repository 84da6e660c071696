# Two commands do everything on a fresh machine:  make demo   and   make test
PYTHON ?= python3
BIN := .venv/bin
.DEFAULT_GOAL := help
.PHONY: help demo test test-all lint types docs knocks soak benchmark

help: ## show what there is
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

.venv/.installed: pyproject.toml constraints.txt
	@echo "==> making .venv and installing latentrl with its development tools"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev]"
	@touch $@

demo: .venv/.installed ## clone 26 human strokes and compare two gradient estimators -> runs/demo/
	@echo "==> latentrl demo (under 4 minutes on 2 cores)"
	$(BIN)/latentrl demo --out runs/demo --overwrite

# One thread each: tests on all cores would otherwise fight for them.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4

test: .venv/.installed ## the default tests (under 6 minutes on 2 cores)
	@echo "==> pytest"
	$(PYTEST)

test-all: .venv/.installed ## every test, the slow ones too
	@echo "==> pytest, slow tests included"
	$(PYTEST) -m "slow or not slow"

lint: .venv/.installed ## ruff: style and mistakes
	@echo "==> ruff"
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/.installed ## mypy over both packages
	@echo "==> mypy"
	$(BIN)/mypy

.venv/.docs-installed: .venv/.installed
	@echo "==> installing what builds the documentation"
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[docs]"
	@touch $@

docs: .venv/.docs-installed ## the documentation, its cells executed -> docs/_build/html
	@echo "==> sphinx (about a minute)"
	OMP_NUM_THREADS=1 $(BIN)/sphinx-build --quiet --fail-on-warning --keep-going -b html docs docs/_build/html

knocks: .venv/.installed ## processes killed, files damaged, disks full: what is lost (10 minutes) -> docs/reliability.md
	@echo "==> hard knocks"
	OMP_NUM_THREADS=1 $(BIN)/python -m experiments.reliability

soak: .venv/.installed ## a day's work in one process: its memory (20 minutes)
	@echo "==> soak"
	OMP_NUM_THREADS=1 $(BIN)/python -m experiments.soak

# Libraries that we time ourselves against; each in an environment of its own, with torch as the common yardstick.
.peers/%/.installed: constraints.txt
	@echo "==> making .peers/$* for the benchmark"
	$(PYTHON) -m venv .peers/$*
	.peers/$*/bin/python -m pip install --quiet -c constraints.txt torch
	.peers/$*/bin/python -m pip install --quiet $* six # gymnax needs six and does not say so
	@touch $@

# pythae is timed in one process with us.
.peers/pythae/.installed: pyproject.toml constraints.txt
	@echo "==> making .peers/pythae for the benchmark"
	$(PYTHON) -m venv .peers/pythae
	.peers/pythae/bin/python -m pip install --quiet -c constraints.txt -e ".[nuts]" pythae
	@touch $@

PEERS := envpool gymnax imitation d3rlpy pythae
benchmark: .venv/.installed $(PEERS:%=.peers/%/.installed) ## speed, beside raw torch and peers
	@echo "==> benchmarks"
	$(BIN)/python -m experiments.benchmarks.elbo_step
	.peers/pythae/bin/python -m experiments.benchmarks.vae_step --compiled
	$(BIN)/python -m experiments.benchmarks.bc_throughput --peers .peers
	$(BIN)/python -m experiments.benchmarks.per_sample_gradients
	$(BIN)/python -m experiments.benchmarks.rollout_gradient
	$(BIN)/python -m experiments.benchmarks.measured_training
	$(BIN)/python -m experiments.benchmarks.sb3_overhead
	$(BIN)/python -m experiments.benchmarks.machines
	$(BIN)/python -m experiments.benchmarks.env_steps --peers .peers
