# Everything this project does with itself, by name. CI calls `.ci/run`, which calls `make test` and `make test-stack`.
#
#   make test         the environment, the checks, and the tests against the installed wheel
#   make test-stack   the tests against the real Collector, Prometheus, Tempo and Loki, which Go 1.26 builds the first time
#   make check        linter, formatter and type checker only
#   make versions     the tests under every supported Python, and with the oldest supported frameworks
#   make demo         a small shop under load, its metrics and its newest exemplars; Ctrl-C ends it
#   make bench        what a request and a scrape cost, against the alternatives
#   make fuzz         the tests of untrusted input, with ten times the inputs of `make test`
#   make campaign     thousands of kills, recycles and damaged files under real servers: most of an hour
#   make campaign-stack  every dot of a shop under load asked of the real stack, workers and Collector killed: half an hour
#   make dashboards   write dashboards/*.json again from dashboards/build.py
#   make clean        remove whatever the above made
#
# PYTHON=python3.12 chooses the interpreter; ARGS="-k policy" is handed to pytest, the benchmarks or the demo, and
# to nox by `make versions`: ARGS="-s tests-3.12 -- -k policy".

PYTHON ?= python3
ARGS   ?=

VENV  := $(CURDIR)/.venv
BIN   := $(VENV)/bin
DEMO  := $(CURDIR)/.venv-demo
DIST  := $(CURDIR)/dist
# The tree the tests run in: the unpacked sdist without the package, so that only the installed wheel can be imported.
TREE  := $(CURDIR)/.build
FILES := $(shell find exemplars dashboards compose docs tests .ci .github *.md *.py LICENSE Makefile -type f -not -path '*/__pycache__/*')

.PHONY: test test-stack tree versions check demo bench fuzz campaign campaign-stack dashboards clean

test: check $(VENV)/.wheel tree
	cd $(TREE) && $(BIN)/coverage run -m pytest --ignore=tests/stack $(ARGS)
	$(BIN)/coverage combine --quiet $(TREE)/.coverage
	$(BIN)/coverage report
	$(if $(ARGS),,$(BIN)/coverage report --include=exemplars/recorder.py --fail-under=100)

# In the same tree, against the same wheel. Most of the time goes into waiting: two tests at once (see its conftest.py).
test-stack: $(VENV)/.wheel tree
	cd $(TREE) && $(BIN)/python -m tests.stack.build
	cd $(TREE) && $(BIN)/python -m pytest -n 2 --dist loadgroup --no-loadscope-reorder tests/stack $(ARGS)

versions: tree
	$(BIN)/nox $(ARGS)

tree: $(DIST)/.made
	rm -rf $(TREE)
	mkdir $(TREE)
	tar -xzf $(DIST)/exemplars-*.tar.gz -C $(TREE) --strip-components=1
	rm -r $(TREE)/exemplars

check: $(VENV)/.made
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

demo: $(DEMO)/.made
	$(DEMO)/bin/exemplars demo $(ARGS)

bench: $(VENV)/.wheel
	$(BIN)/python -m tests.bench $(ARGS)

fuzz: $(VENV)/.wheel
	$(BIN)/python -m tests.fuzz $(ARGS)

campaign: $(VENV)/.wheel
	$(BIN)/python -m tests.faults $(ARGS)

campaign-stack: $(VENV)/.wheel
	$(BIN)/python -m tests.stack.build
	$(BIN)/python -m tests.stack.campaign $(ARGS)

dashboards: $(VENV)/.made
	$(BIN)/python -m dashboards.build

clean:
	rm -rf $(VENV) $(DEMO) $(TREE) $(DIST) .nox .coverage .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find exemplars dashboards tests -name __pycache__ -prune -exec rm -r {} +

# pip below 25.1 does not know --group.
$(VENV)/.made: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --group dev
	touch $@

$(DIST)/.made: $(VENV)/.made $(FILES)
	rm -rf $(DIST)
	$(BIN)/python -m build --quiet --no-isolation --outdir $(DIST)
	touch $@

$(VENV)/.wheel: $(DIST)/.made
	$(BIN)/python -m pip install --quiet --no-deps --force-reinstall $(DIST)/*.whl
	touch $@

# What a user would have: the package with its extra, and nothing of the developers' tools.
$(DEMO)/.made: pyproject.toml $(FILES)
	$(PYTHON) -m venv $(DEMO)
	$(DEMO)/bin/python -m pip install --quiet '.[demo]'
	touch $@
