# nbexport: one command a purpose; `make help` lists them. No target needs root.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
# Passed to the test runner: make test T='-k extents'
T      ?=

.DEFAULT_GOAL := all

# An editor or a virtual environment of the caller must not leak into the project's own.
unexport VIRTUAL_ENV PYTHONHOME PYTHONPATH
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: all
all: site ## set up, run every notebook, build the site (the default)

# The environment is made anew when it lacks what the project file or the lock asks for. The lock
# is a constraint, not a list: a Python that needs one package more than the lock's still installs.
$(READY): pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo 'nbexport needs Python 3.11 or later: make PYTHON=python3.12' >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint requirements.lock --editable '.[notebooks,cluster,dev]'
	@touch $@

.PHONY: setup
setup: $(READY) ## make .venv with everything that development needs

.PHONY: site
site: setup ## run the notebooks and render them to build/site/
	$(BIN)/nbexport site --output build

.PHONY: bench
bench: setup ## compare the NBD server with those that are installed
	$(BIN)/nbexport bench --json build/bench.json

.PHONY: notebooks
notebooks: setup ## run the notebooks with their defaults, into build/notebooks/
	$(BIN)/nbexport site --output build --no-render

.PHONY: interop-dropin
interop-dropin: setup ## run the interop tests with our commands in the place of QEMU's servers
	$(BIN)/python tests/in_place.py $(T)

# Which suites: make suites SUITES=libnbd
SUITES ?=

.PHONY: suites
suites: setup ## run other projects' suites with our commands and with QEMU's, and compare
	$(BIN)/python tests/public_suites.py $(SUITES)

.PHONY: regress
regress: setup ## run the notebooks over releases and targets, compare with the baseline
	$(BIN)/nbexport matrix notebooks/matrix.toml --output build/matrix

.PHONY: test
test: setup ## run every test: units, real peers, notebooks
	$(BIN)/python -bb -m pytest -n 2 $(T)
	$(BIN)/python -m pytest -c tests/notebooks/pytest.ini notebooks
	$(BIN)/python -m pytest -c tests/notebooks/golden.ini tests/notebooks/golden

# It fails when something was stored: what changed is to be looked at.
.PHONY: golden
golden: setup ## store the outputs of the golden notebooks anew
	$(BIN)/python -m pytest -c tests/notebooks/golden.ini --nb-force-regen tests/notebooks/golden

# Seconds for each of the protocol's engines.
FUZZ_SECONDS ?= 60

.PHONY: fuzz
fuzz: setup ## look for bytes that break the NBD engines, FUZZ_SECONDS for each
	for engine in handshake transmission client; do \
	  $(BIN)/python tests/fuzz_nbd.py $$engine $(FUZZ_SECONDS) || exit 1; done

.PHONY: lint
lint: setup ## check style, types, layers, notebooks and generated files
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/nbstripout --keep-id --verify notebooks/*.ipynb
	$(BIN)/python .ci/lock.py --check

.PHONY: format
format: setup ## format the code and strip the notebooks
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix --show-fixes .
	$(BIN)/nbstripout --keep-id notebooks/*.ipynb

# More arguments for it: make lab LAB='--no-browser --port 9000'
LAB ?=

.PHONY: lab
lab: setup ## open JupyterLab on the notebooks
	$(BIN)/jupyter lab --notebook-dir notebooks $(LAB)

.PHONY: lock
lock: setup ## derive requirements.lock and environment.yml from pyproject.toml
	$(BIN)/python .ci/lock.py

.PHONY: clean
clean: ## remove everything that was built, the environment included
	rm -rf build dist $(VENV) .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.PHONY: help
help: ## list the targets
	@awk 'BEGIN { FS = ":.*## " } /^[a-z]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo '  The first run needs Python 3.11 or later with venv, and a network to install packages.'
	@echo '  Real peers are optional (qemu-utils, qemu-system-common, qemu-system-x86, libnbd-bin,'
	@echo '  nbdkit, socat, chromium): a test whose peer is missing says so and is skipped.'
