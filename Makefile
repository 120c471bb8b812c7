# Every target makes .venv first if it is missing; nothing is compiled on this machine.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Tests start processes by the hundred, each of which would compile rtk anew where no bytecode is written.
RUN := PATH="$(CURDIR)/$(BIN):$$PATH" PYTHONDONTWRITEBYTECODE=

.PHONY: demo test test-fast lint audit types docs install clean

demo: install
	$(RUN) rtk demo

# Three processes on two cores, for tests also wait: one has the Ray session, the others all that needs none.
test: install
	$(RUN) pytest -n 3 --dist loadgroup --no-loadscope-reorder --durations 30

test-fast: install
	$(RUN) pytest -n 2 --dist loadgroup -m "not slow and not ray"

lint: install
	$(RUN) ruff format --check .
	$(RUN) ruff check .
	$(RUN) lint-imports
	$(RUN) bandit --quiet --configfile pyproject.toml --recursive rtk jobs

# Asks PyPI for the known vulnerabilities of what is installed, so it needs the internet: no part of .ci/run.
audit: install
	test -x build/audit/bin/pip-audit || { $(PYTHON) -m venv build/audit && build/audit/bin/pip install --quiet pip-audit==2.10.1; }
	build/audit/bin/pip-audit --strict --skip-editable --path $(VENV)/lib/python3*/site-packages

types: install
	$(RUN) mypy

docs: install
	$(RUN) NO_MKDOCS_2_WARNING=1 mkdocs build --strict

install: $(VENV)/installed

# DeepSpeed comes as source: DS_BUILD_OPS=0 keeps its install from compiling anything. Python's files are compiled
# on all cores, which pip does on one; some are no Python of this version, and stay as they are.
$(VENV)/installed: setup.cfg pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	DS_BUILD_OPS=0 $(BIN)/pip install --progress-bar off --no-compile --constraint constraints.txt --editable '.[dev]'
	$(BIN)/python -m compileall -q -q -j 0 $(VENV)/lib || true
	touch $@

clean:
	rm -rf $(VENV) build site *.egg-info .mypy_cache .pytest_cache .ruff_cache
