# Every target does its own set-up. PYTHON names the interpreter that makes the environment.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PYTEST_ARGS ?=

.PHONY: install demo quick test coverage check format bench clean

install: $(READY)

$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[train,pretrained,serve,explore,scale,dev]'
	touch $(READY)

demo: $(READY)
	$(BIN)/lookalike demo

# One thread in each test process, and one process more than cores: some tests wait for servers.
quick test coverage: export OMP_NUM_THREADS = 1
quick test coverage: export OPENBLAS_NUM_THREADS = 1
quick test coverage: export LOOKALIKE_THREADS = 1
PROCESSES := $(shell $(PYTHON) -c 'import os; print(1 + (os.cpu_count() or 1))')
PYTEST := $(BIN)/python -m pytest -n $(PROCESSES) --dist loadscope --no-loadscope-reorder

# What to run between two edits: unit and contract tests, without the slow ones and the engines.
quick: $(READY)
	$(PYTEST) tests/unit tests/contract -m "not slow and not engine" $(PYTEST_ARGS)

test: $(READY)
	$(PYTEST) $(PYTEST_ARGS)

coverage: $(READY)
	$(PYTEST) --cov --cov-report=term $(PYTEST_ARGS)

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(READY)
	$(BIN)/python benchmarks/train.py
	$(BIN)/python benchmarks/search.py
	$(BIN)/python benchmarks/large.py
	$(BIN)/python benchmarks/index.py

clean:
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
