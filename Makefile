# Everything a newcomer needs, from Python (3.11 or later) and make alone.
#   make tables    the article's two tables, with this machine's figures next to them
#   make test      the tests            make lint       ruff and mypy
#   make lab       JupyterLab           make bench      all tables, with other servers
#   make fidelity  the table in docs/FIDELITY.md
#   make soak      restarts, kills, any bytes, posts: does anything grow?
#   make notebooks executed copies      make slides     slides of them, in build/slides
#   make exercises the students' copies make claims     README's figures against the recorded rows
#   make tyres     does it work here? five minutes, installation included
#   make site      course and reference as a site, in build/site
#   make clean     caches away (distclean: .venv too)
# Another interpreter: make PYTHON=python3.13 tables. Without PYTHON an existing .venv is kept, and a new one
# is made with the newest of python3.14 to python3.11 on PATH that has venv: servers need less memory
# from 3.12 on.

VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
usable = $(shell $(1) -c 'import venv, ensurepip' 2>/dev/null && echo $(1))
newest = $(firstword $(foreach one,3.14 3.13 3.12 3.11,$(call usable,python$(one))) python3)
ifeq ($(origin PYTHON),undefined)
PYTHON := $(or $(and $(wildcard $(BIN)/pip),$(call usable,$(BIN)/python)),$(newest))
endif
# How much load: smoke (seconds), demo (minutes), full (200,000 requests a cell, as in the article).
MPMKIT_SCALE ?= demo
export MPMKIT_SCALE

# Another interpreter than the one that made .venv: it is made anew.
version = $(shell $(1) -c 'import sys; print(sys.version.replace(" ", "-"))' 2>/dev/null)
ifneq ($(wildcard $(STAMP)),)
ifneq ($(call version,$(PYTHON)),$(call version,$(BIN)/python))
$(shell rm -f $(STAMP))
endif
endif

.PHONY: venv tables test lint lab bench fidelity advise-check soak claims notebooks slides exercises otter site lock tyres clean distclean
.DEFAULT_GOAL := tables

venv: $(STAMP)

# The stamp is written last, so an interrupted installation is taken up again by the next make.
$(STAMP): pyproject.toml
	@command -v $(PYTHON) >/dev/null || { \
	  echo "mpmkit: no $(PYTHON) on PATH; install Python 3.11 or later, or: make PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "mpmkit: $$($(PYTHON) --version) is too old, 3.11 or later is needed; try: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
	  echo "mpmkit: $(PYTHON) lacks its venv module; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@test -x $(BIN)/pip && test "$(call version,$(PYTHON))" = "$(call version,$(BIN)/python)" || { \
	  echo "making $(VENV) with $$($(PYTHON) --version) ($(PYTHON))"; $(PYTHON) -m venv --clear $(VENV); }
	@echo "installing mpmkit and its tools into $(VENV) (once; a minute or two)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

tables: $(STAMP)
	@$(BIN)/mpmkit qps --kind both

# Tests choose their own sizes; a scale in the environment must not change what they check. Most of
# them wait rather than work, so two processes more than there are CPUs; make test JOBS=0 for one after
# the other in one process.
JOBS ?= $(shell expr $$(nproc) + 2)
test: $(STAMP)
	@env -u MPMKIT_SCALE $(BIN)/python -m pytest -n $(JOBS)

# Kick the tyres: is the figure of the README what the rows say, do the messages of the error log come out of
# real servers of each MPM, what are the article's tables here (roughly).
tyres: $(STAMP)
	@$(BIN)/python -m docs._tools.claims
	@$(BIN)/python -m pytest -q tests/test_errors.py tests/test_effects.py
	@MPMKIT_SCALE=smoke $(BIN)/mpmkit qps --kind both --out $$(mktemp -d)/tyres.csv

# From a fresh .venv (make distclean venv lock): the versions that were tested.
lock: $(STAMP)
	@{ sed -n '/^#/p' requirements.lock; $(BIN)/python -m pip freeze --exclude-editable; } > $(VENV)/lock
	@mv $(VENV)/lock requirements.lock

lint: $(STAMP)
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/python -m docs._tools.idioms

lab: $(STAMP)
	@$(BIN)/jupyter lab --ServerApp.root_dir=. --LabApp.default_url=/lab/tree/notebooks/00-start-here.ipynb

bench: $(STAMP)
	@$(BIN)/mpmkit bench $(BENCH_ARGS)

# Compared with the real httpd, case by case; writes the tables in docs/FIDELITY.md. About ten minutes.
# FIDELITY_ARGS="http --all": one area, every case, and the page is left alone.
fidelity: $(STAMP)
	@$(BIN)/mpmkit fidelity $(FIDELITY_ARGS)

# What `mpmkit advise` predicts, against the real httpd; writes the table in docs/ADVISE.md. Ten minutes.
advise-check: $(STAMP)
	@$(BIN)/python -m benchmarks.advise --write

# Some minutes; SOAK_ARGS="--hours 2", or other numbers: "--restarts 1000 --posts 200000 --kept 10000000".
soak: $(STAMP)
	@$(BIN)/python -m benchmarks.soak $(SOAK_ARGS)

# The figures of README and PERFORMANCE.md, against data/recorded; LIVE=1 measures them anew (two hours).
claims: $(STAMP)
	@$(BIN)/python -m docs._tools.claims

notebooks: $(STAMP)
	@$(BIN)/python -m docs._tools.render notebooks notebooks/rendered

# The scripts of the slides are fetched once, with npm; then they show without a network.
slides: $(STAMP)
	@$(BIN)/python -m docs._tools.slides notebooks/rendered build/slides

# MPMKIT_REPOSITORY=https://github.com/OWNER/mpmkit gives launch buttons and links to the source.
site: $(STAMP)
	@$(BIN)/python -m docs._tools.site

exercises: $(STAMP)
	@$(BIN)/python -m docs._tools.exercises

# The same for otter-grader, in build/otter.
otter: $(STAMP)
	@$(BIN)/python -m docs._tools.otter

clean:
	@rm -rf build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	@find mpmkit tests benchmarks docs notebooks -name __pycache__ -prune -exec rm -rf {} +

distclean: clean
	@rm -rf $(VENV)
