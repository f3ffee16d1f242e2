# `make profile` and `make test` set up everything they need and then do their job.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SETUP := $(VENV)/.installed
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: profile test lint bench regressions build clean

profile: build
	$(BIN)/python -m perfkit.profile --strategy model_parallel --gpus 2

# One thread each: those of two processes would spin while they wait for a core. In the order of the
# folders, for files that take long for few tests would otherwise come last.
test: lint build
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

lint: $(SETUP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: build
	$(BIN)/python -m pytest bench/ --benchmark-only

# HEAD beside its merge base, or beside BASE.
regressions: build
	$(BIN)/python scripts/regressions.py $(if $(BASE),--base $(BASE))

# The native operators: compiles what has changed in csrc, and says what it decided.
build: $(SETUP)
	$(BIN)/python setup.py --quiet build_ext --inplace

# The stamp names what the environment was built from; a changed file builds it again. What the
# native operators are compiled with comes first: without isolation the build finds it here.
$(SETUP): pyproject.toml constraints.txt
	@echo "Setting up $(VENV): torch and the rest are 6 GB, and the operators compile for minutes."
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) torch 'cuda-toolkit[nvcc]' ninja pybind11 setuptools
	$(PIP) --no-build-isolation -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) .asv .regressions build dist *.egg-info .mypy_cache .ruff_cache perfkit/ops/*.so
