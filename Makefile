# Everything runs in .venv, which make builds on first use: Python 3.11 or newer and its venv module are enough.

PYTHON ?= python3
WORKERS ?= 2
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help figures test stress lint benchmark clean anew

help: ## say this
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' Makefile
	@echo 'PYTHON=... chooses the Python, WORKERS=... the number of test processes, ARGS="..." is passed on.'

figures: .venv/.run ## draw every figure into figures/ (ARGS="--quick --out DIR": small ones, elsewhere)
	.venv/bin/python scripts/make_figures.py $(ARGS)

test: .venv/.test ## run the tests (ARGS="-k name": some of them)
	.venv/bin/python -m pytest -q -n $(WORKERS) -m "not stress" $(ARGS)

stress: .venv/.test ## compare 500 random diagrams with proofs
	.venv/bin/python -m pytest -q -n $(WORKERS) -m stress tests/test_stress.py $(ARGS)

lint: .venv/.dev ## check style, types and the layers of imports
	.venv/bin/python -m ruff check .
	.venv/bin/python -m ruff format --check .
	.venv/bin/python -m pyright
	.venv/bin/lint-imports

benchmark: .venv/.test ## time the package
	.venv/bin/python -m tests.benchmarks $(ARGS)

clean: ## remove the environment, caches and build products; figures stay
	rm -rf .venv .cache .benchmarks .import_linter_cache .pytest_cache .ruff_cache build dist *.egg-info
	find . -name .git -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

# Each stamp builds on the one before, so the three installations never run side by side. .venv/.incomplete is there
# while one of them runs: an environment in which it was left behind, or whose Python is gone, is built anew.

usable = test ! -e .venv/.incomplete && .venv/bin/python -c 'import os, sysconfig; os.stat(sysconfig.get_path("purelib"))' 2>/dev/null

.venv/.run: pyproject.toml $(shell $(usable) || echo anew)
	@$(usable) || { $(check_python) && rm -rf .venv && mkdir .venv && touch .venv/.incomplete && "$(PYTHON)" -m venv .venv; }
	@$(call install,.)

.venv/.test: .venv/.run
	@$(call install,.[test])

.venv/.dev: .venv/.test
	@$(call install,.[dev])

# A pip that fails has changed nothing, as a rule (no network, no such version), and the environment stays;
# one that was killed, or interrupted, may have left half a package.
define install
	trap 'exit 130' INT TERM HUP; \
	echo "installing '$(1)' into .venv: about a minute the first time"; \
	touch .venv/.incomplete; \
	.venv/bin/python -m pip install --quiet --disable-pip-version-check --editable '$(1)'; \
	status=$$?; \
	test $$status -gt 128 || rm .venv/.incomplete; \
	test $$status -eq 0 && touch $@
endef

define check_python
	complain() { echo "$$1" >&2; exit 1; }; \
	command -v "$(PYTHON)" >/dev/null || \
	    complain "$(PYTHON) is not there: install Python 3.11 or newer, or name one with make PYTHON=..."; \
	test "$$("$(PYTHON)" -c 'import sys; print(sys.version_info >= (3, 11))' 2>/dev/null)" = True || \
	    complain "$(PYTHON) is $$("$(PYTHON)" --version 2>&1); 3.11 or newer is needed: name one with make PYTHON=..."; \
	"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || \
	    complain "$(PYTHON) cannot make environments: install its venv module (Debian, Ubuntu: apt install python3-venv)"
endef
