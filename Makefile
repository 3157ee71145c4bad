# make demo  - set everything up and run a real search
# make test  - set everything up and run the tests, JOBS at a time (those that go through Ray mostly wait)
# make bench - set everything up and time the engine; make bench -- --quick for a short run
PYTHON ?= python3
VENV ?= .venv
JOBS ?= 3
BIN := $(VENV)/bin

.PHONY: demo test bench --quick check docs clean

demo: $(VENV)/.installed
	$(BIN)/petlas search demo
	$(BIN)/petlas retrain runs/demo --baselines

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest -q -n $(JOBS) --dist worksteal

bench: $(VENV)/.installed-test
	$(BIN)/python benchmarks/engine/bench.py $(filter --quick,$(MAKECMDGOALS)) $(ARGS)

--quick:
	@:

# Not part of the tests: style and types.
check: $(VENV)/.installed-test
	$(BIN)/python -m pip install -q -e '.[dev]'
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	mkdir -p $(VENV)/types/petlas  # mypy does not see through editable installs
	for path in datasets petl spaces search petlas/*.py petlas/py.typed; do \
		ln -sfn "$(CURDIR)/$$path" $(VENV)/types/petlas/$$(basename $$path); done
	MYPYPATH=$(VENV)/types $(BIN)/mypy -p petlas

# The pages, into site/.
docs: $(VENV)/.installed-test
	$(BIN)/python docs/tables.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict -q

clean:
	rm -rf $(VENV) build site *.egg-info

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 11) or sys.exit(f"petlas needs Python 3.11 or newer, and $(PYTHON) is {v[0]}.{v[1]}: make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: setup.cfg pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install -q -e .
	touch $@

$(VENV)/.installed-test: setup.cfg pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install -q -e '.[test]'
	touch $@ $(VENV)/.installed
