# Two commands do everything on a fresh machine: `make demo` and `make test`.
# PYTHON may name another interpreter (3.11 to 3.13): make PYTHON=python3.12 test

PYTHON ?= python3
PYTHONS ?= 3.11 3.12 3.13
VENV ?= .venv
BIN := $(VENV)/bin
# Many tests wait for a network: four at once keep two cores busy.
WORKERS ?= 4
PYTEST := $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

# An environment that forbids to keep bytecode has every process compile torch anew: 3 s each.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-long test-pythons coverage check quick lint style types stale audit docs diagrams site dist sbom mutants format clean

demo: $(VENV)/.installed
	$(BIN)/heterofed demo

test: $(VENV)/.installed
	$(MAKE) -j 4 lint audit
	$(PYTEST) -m "not long"

# Sweeps: killed at every point, a fault at every entry, the largest message of every dtype.
test-long: $(VENV)/.installed
	$(PYTEST) -m long

# The quick tests on each Python of PYTHONS that this machine has; the others are named.
test-pythons:
	$(MAKE) --keep-going $(PYTHONS:%=quick-on-%)

# Behind pyenv, a Python answers only where PYENV_VERSION names it.
quick-on-%: $(VENV)/.installed
	@if found=$$(PYENV_VERSION=$$(pyenv versions --bare 2>/dev/null | paste -sd: -) \
		$(BIN)/uv python find --system --no-python-downloads $* 2>/dev/null); then \
		echo "Python $*: $$found"; $(MAKE) quick PYTHON="$$found" VENV=build/python$*; \
	else echo "Python $*: not on this machine, so not tested"; fi

# Which lines the tests of `make test` reach; takes a quarter longer.
coverage: $(VENV)/.installed
	$(PYTEST) -m "not long" --cov --cov-report=term:skip-covered

check: $(VENV)/.installed
	$(MAKE) -j 3 lint
	$(MAKE) quick

quick: $(VENV)/.installed
	$(PYTEST) -q -m "not slow and not long"

lint: style types stale

style: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell

types: $(VENV)/.installed
	$(BIN)/mypy

# Whether the generated parts of the documentation are up to date.
stale: $(VENV)/.installed
	$(BIN)/python -m docs.generate --check

# Known holes of the versions in constraints.txt; says so where no advisory service can be reached.
audit: $(VENV)/.installed
	$(BIN)/python .ci/audit.py

docs: $(VENV)/.installed
	$(BIN)/python -m docs.generate

# The diagrams of the pages, after one of them changed.
diagrams: $(VENV)/.installed
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --editable '.[diagrams]'
	$(BIN)/python -m docs.generate

# The pages as a website, in site/; a link that leads nowhere is an error.
site: $(VENV)/.installed docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

# A wheel and a source archive in dist/, the same to the byte from the same sources.
dist: $(VENV)/.installed
	rm -rf dist
	$(BIN)/uv build --quiet --out-dir dist
	$(BIN)/uvx --quiet twine check --strict dist/*.whl dist/*.tar.gz

# What is in it: a bill of materials of the versions in constraints.txt, for whoever has to approve them.
sbom: $(VENV)/.installed
	$(BIN)/uvx --quiet --from cyclonedx-bom cyclonedx-py requirements constraints.txt --output-file sbom.json

# Small changes to the modules that peers reach, one at a time: do the tests notice?
# One module of .ci/mutants.toml alone: make mutants ONLY=psi/signing.py
mutants: $(VENV)/.installed
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --editable '.[mutants]'
	$(BIN)/python .ci/mutants.py --only "$(ONLY)"

format: $(VENV)/.installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# uv hard-links from its cache, so that the second environment takes seconds, not minutes.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "heterofed needs Python 3.11 or newer: make PYTHON=python3.11 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --editable '.[dev,docs,examples]'
	touch $@

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage site dist sbom.json
