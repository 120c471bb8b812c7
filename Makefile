# Every target makes .venv first if it is missing; nothing is compiled on this machine.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN := PATH="$(CURDIR)/$(BIN):$$PATH"

.PHONY: demo test test-fast lint types docs install clean

demo: install
	$(RUN) rtk demo

# Two processes on two cores: one has the Ray session, the other all that needs none.
test: install
	$(RUN) pytest -n 2 --dist loadgroup --no-loadscope-reorder

test-fast: install
	$(RUN) pytest -n 2 --dist loadgroup -m "not slow and not ray"

lint: install
	$(RUN) ruff format --check .
	$(RUN) ruff check .
	$(RUN) lint-imports

types: install
	$(RUN) mypy

docs: install
	$(RUN) NO_MKDOCS_2_WARNING=1 mkdocs build --strict

install: $(VENV)/installed

# DeepSpeed comes as source: DS_BUILD_OPS=0 keeps its install from compiling anything.
$(VENV)/installed: setup.cfg pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	DS_BUILD_OPS=0 $(BIN)/pip install --progress-bar off --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) build site *.egg-info .mypy_cache .pytest_cache .ruff_cache
