# Two commands do everything on a fresh machine:  make demo   and   make test
PYTHON ?= python3
BIN := .venv/bin
.DEFAULT_GOAL := help
.PHONY: help demo test test-all test-lowest lint types docs dist release-check knocks soak benchmark

help: ## show what there is
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 16

.venv/.installed: pyproject.toml constraints.txt
	@echo "==> making .venv and installing latentrl with its development tools"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev]"
	@touch $@

demo: .venv/.installed ## clone 26 human strokes and compare two gradient estimators -> runs/demo/
	@echo "==> latentrl demo (under 4 minutes on 2 cores)"
	$(BIN)/latentrl demo --out runs/demo --overwrite

# One thread each: tests on all cores would otherwise fight for them. By files: what a file's tests share is made once.
SHARED := --numprocesses auto --maxprocesses 4 --dist loadfile
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(SHARED)

test: .venv/.installed ## the default tests (under 6 minutes on 2 cores)
	@echo "==> pytest"
	$(PYTEST)

test-all: .venv/.installed ## every test, the slow ones too
	@echo "==> pytest, slow tests included"
	$(PYTEST) -m "slow or not slow"

.venv-lowest/.installed: pyproject.toml constraints-lowest.txt
	@echo "==> making .venv-lowest with the oldest versions that pyproject.toml allows"
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/python -m pip install --quiet -c constraints-lowest.txt -e . pytest pytest-xdist beartype hypothesis
	@touch $@

# What leans on other libraries: command line, files, readers, stable-baselines3, Gymnasium, scipy, zuko.
LOWEST := $(addprefix tests/, test_config.py test_model.py test_flows.py test_cli.py test_commands.py metrics \
	data/test_demonstrations.py data/test_npz.py sb3/test_policy.py sb3/test_pretrained.py sb3/test_vec_env.py \
	sb3/test_on_policy.py sb3/test_sac_policy.py envs/test_single.py envs/test_vector.py)
test-lowest: .venv-lowest/.installed ## some tests with the oldest versions that pyproject.toml allows (under 5 minutes)
	@echo "==> pytest, oldest versions"
	OMP_NUM_THREADS=1 .venv-lowest/bin/python -m pytest $(SHARED) $(LOWEST)

lint: .venv/.installed ## ruff: style and mistakes
	@echo "==> ruff"
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/.installed ## mypy over both packages
	@echo "==> mypy"
	$(BIN)/mypy

dist: .venv/.installed ## wheel and source archive -> dist/
	@echo "==> build"
	rm -rf dist
	$(BIN)/python -m build --quiet --outdir dist .

release-check: dist ## what is in them, and the wheel at work in an empty environment (2 to 3 minutes)
	@echo "==> release check"
	OMP_NUM_THREADS=1 $(BIN)/python .ci/release_check.py dist

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

soak: .venv/.installed ## a day's work in one process: its memory (46 minutes on 2 cores)
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
