# Every target does its own set-up. PYTHON names the interpreter that makes the environment.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PYTEST_ARGS ?=

.PHONY: install demo quick test coverage check format bench fuzz audit clean

install: $(READY)

$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[train,serve,explore,scale,dev]'
	touch $(READY)

# What the demo needs, which installs in half the time; a complete environment has it, too.
DEMO := $(VENV)/.demo

$(DEMO): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	test -e $(READY) || $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt -e '.[train,report]'
	touch $(DEMO)

demo: $(DEMO)
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
	$(BIN)/python benchmarks/first_search.py
	$(BIN)/python benchmarks/python_api.py search import
	$(BIN)/python benchmarks/store.py
	$(BIN)/python benchmarks/index.py

# Every parser of strangers' bytes, each for FUZZ_SECONDS. `.venv/bin/python -m tests.fuzz --list`
# names the targets. Crashes are written to tests/fuzz/cases/, which the tests replay.
FUZZ_SECONDS ?= 600
FUZZ_TARGETS ?=
fuzz: $(READY)
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python -m tests.fuzz --seconds $(FUZZ_SECONDS) $(FUZZ_TARGETS)

# The locked versions against a database of known vulnerabilities, which needs internet access: not
# a part of check, test or CI. Exit codes: 1 there are vulnerabilities, 2 the database was not asked.
AUDIT := build/audit
LOCKED ?= constraints.txt
audit:
	test -x $(AUDIT)/bin/pip-audit || { $(PYTHON) -m venv $(AUDIT) && $(AUDIT)/bin/python -m pip install --quiet --disable-pip-version-check pip-audit==2.10.1; }
	@rm -f $(AUDIT)/report.txt; \
	$(AUDIT)/bin/pip-audit --requirement $(LOCKED) --strict --no-deps --disable-pip --progress-spinner off --output $(AUDIT)/report.txt 2>$(AUDIT)/errors.txt; \
	status=$$?; \
	if [ $$status -eq 0 ]; then echo "make audit: no known vulnerability in $(LOCKED)"; exit 0; fi; \
	if [ -s $(AUDIT)/report.txt ]; then cat $(AUDIT)/report.txt; exit 1; fi; \
	tail -n 1 $(AUDIT)/errors.txt >&2; \
	echo "make audit: the database of vulnerabilities could not be asked about every package; run it where there is internet access" >&2; exit 2

clean:
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
