# Needs Python and make. The first run fetches or builds everything else.
SHELL := /bin/bash
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
WORK := $(or $(MODELSERVE_REHEARSAL),.rehearsal)
PIP := $(PY) -m pip install --quiet --disable-pip-version-check --compile
# Otherwise every start of the program would compile it again, in shells that set this.
unexport PYTHONDONTWRITEBYTECODE

# The tests of one file stay together, because they share what is slow to make, such as a control plane. Tests wait as
# well as compute: four workers suit two cores, of which on a rehearsal one has tests without a control plane for most of
# its time. Where all have a control plane, as in a soak, four API servers would keep the memory busier than the cores.
PYTEST := $(PY) -m pytest -q --dist loadscope --no-loadscope-reorder -n
# Workers import every file that they are given, so name only the files that have such tests.
REHEARSED = tests/rehearsal $(shell grep -rl --include='test_*.py' --exclude-dir=rehearsal mark.rehearsal tests)

.PHONY: help up down lint check test soak bench policy security

# `make soak`: the seed of its random choices, and its length.
SEED := $(or $(SEED),$(shell date +%s))
SECONDS ?= 600

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1	\2/p' $(MAKEFILE_LIST)

up: $(VENV)/runtime ## start the rehearsal and serve the local stack on it
	@$(PY) -m local up
	@set -e; source $(WORK)/env.sh; \
	pulumi stack select --create local; \
	pulumi up -s local --yes; \
	$(PY) -m ops verify local

down: ## remove the local stack and the rehearsal
	@if [ ! -e $(VENV)/runtime ]; then echo "nothing to remove: make up has not run here"; exit 0; fi; \
	outcome=0; \
	if [ -e $(WORK)/env.sh ] && $(PY) -m local status >/dev/null; then \
	  source $(WORK)/env.sh; \
	  if pulumi stack select local 2>/dev/null; then \
	    { pulumi destroy -s local --yes && pulumi stack rm -s local --yes --preserve-config; } || outcome=$$?; \
	  fi; \
	fi; \
	if [ $$outcome != 0 ]; then echo "not removed in order; what is left ends with the control plane" >&2; fi; \
	$(PY) -m local down; \
	exit $$outcome

lint: $(VENV)/development ## check style and types
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy

check: lint ## lint, and run the tests that need only Python
	@$(PYTEST) 4 --ignore tests/rehearsal -m "not rehearsal and not soak"

test: check ## check, and run the tests that need a rehearsal; they start their own
	@$(PY) -m local build
	@$(PYTEST) 4 -m "rehearsal and not soak" $(REHEARSED)

soak: $(VENV)/development ## run the long tests: make soak SEED=7 SECONDS=600
	@$(PY) -m local build
	@echo "to repeat this run: make soak SEED=$(SEED) SECONDS=$(SECONDS)"
	@$(PYTEST) 3 -m soak --seed $(SEED) --budget $(SECONDS)

security: $(VENV)/development $(VENV)-security/checkov ## hold checkov's findings against docs/security.md
	@$(PY) -m tests.findings $(VENV)-security/bin/checkov

bench: $(VENV)/development ## measure what the program costs, as ratios within one run
	@$(PY) -m bench

policy: .venv-policy/ready ## install what `pulumi preview --policy-pack policy` runs in

# An environment of its own: pulumi-policy wants another protobuf than the program.
.venv-policy/ready: policy/requirements.txt
	@echo "installing the policy pack's packages into .venv-policy"
	@rm -rf .venv-policy
	@$(PYTHON) -m venv .venv-policy
	@.venv-policy/bin/python -m pip install --quiet --disable-pip-version-check --compile -r policy/requirements.txt
	@touch $@

$(VENV)/runtime: requirements.txt
	@command -v $(PYTHON) >/dev/null || \
	  { echo "$(PYTHON) is not installed: install Python 3.10 or newer, or set PYTHON=…" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "$$($(PYTHON) --version) is too old: install 3.10 or newer, or set PYTHON=…" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || \
	  { echo "$(PYTHON) has no venv with pip: install its venv package (on Debian python3-venv)" >&2; exit 1; }
	@echo "installing Python packages into $(VENV)"
	@rm -rf $(VENV)
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) -r requirements.txt
	@touch $@

# Apart: checkov brings a hundred packages along, some of them older than ours.
$(VENV)-security/checkov: requirements-security.txt $(VENV)/runtime
	@echo "installing checkov into $(VENV)-security"
	@rm -rf $(VENV)-security
	@$(PYTHON) -m venv $(VENV)-security
	@$(VENV)-security/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-security.txt
	@touch $@

$(VENV)/development: requirements-dev.txt $(VENV)/runtime
	@echo "installing development tools into $(VENV)"
	@$(PIP) -r requirements-dev.txt
	@touch $@
