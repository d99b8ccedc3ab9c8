# Everything from a fresh clone with Python 3.11+, make and git: `make demo`, `make test`.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
KERNELS := $(VENV)/.kernels

.PHONY: help demo test test-slow check format bench bench-passes bench-kernels gpu-check coverage fuzz clean

help:
	@echo "make demo    train, export, verify, predict and bench LeNet5 on handwritten digits"
	@echo "make test    run the tests"
	@echo "make test-slow  run those that build under sanitizers or train"
	@echo "make check   ruff, mypy (strict), import-linter"
	@echo "make coverage  compile every case of every class of torch.nn and rewrite docs/coverage.md"
	@echo "make fuzz    random networks for 20 minutes"
	@echo "make bench   measure the networks of models/ and rewrite docs/benchmarks.md; RESUME=1 goes on"
	@echo "make bench-passes  measure them with each pass left out and rewrite docs/passes.md"
	@echo "make bench-kernels  measure the native kernels and rewrite docs/kernel-figures.md"
	@echo "make gpu-check  prove nncompile on a machine with an NVIDIA GPU, in 8 minutes once all is compiled"
	@echo "make format  let ruff format the code"

$(READY): pyproject.toml constraints.txt requirements-no-deps.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "nncompile needs Python 3.11 or newer; run make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[gpu,compile,bench,dev]'
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -r requirements-no-deps.txt
	@touch $(READY)

# Without a compiler everything works at plain speed; with one, a build that fails is an error.
$(KERNELS): $(READY) $(wildcard kernels/src/*) $(wildcard kernels/nncompile_kernels/*.py) kernels/CMakeLists.txt kernels/pyproject.toml
	@if command -v $${CXX:-c++} >/dev/null; then \
	  echo "building the native kernels"; \
	  CMAKE_BUILD_PARALLEL_LEVEL=$${CMAKE_BUILD_PARALLEL_LEVEL:-$$(nproc)} \
	    $(BIN)/pip install --quiet --disable-pip-version-check ./kernels; \
	else echo "no C++ compiler: the native kernels are left out"; fi
	@touch $(KERNELS)

demo: $(KERNELS)
	$(BIN)/python -m models.demo

# A process for each processor (tests/conftest.py), and in each of them PyTorch on one thread. A process that has no test
# left takes some of another's, from the end, so that tests of one file mostly share what the file compiled.
test: $(KERNELS)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal -m "not slow"

# Builds of the kernels under sanitizers and in valgrind, and trainings to an accuracy; CI runs them too.
test-slow: $(KERNELS)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal -m slow

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

coverage: $(KERNELS)
	$(BIN)/python tests/coverage/report.py -o docs/coverage.md
	$(BIN)/python tests/coverage/network_report.py -o docs/networks.md

fuzz: $(KERNELS)
	FUZZ_EXAMPLES=3000 FUZZ_MINUTES=20 $(BIN)/python -m pytest tests/fuzz --timeout 7200 --hypothesis-show-statistics

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(KERNELS)
	$(BIN)/python -m models.bench $(if $(RESUME),--resume) -o docs/benchmarks.md

bench-passes: $(KERNELS)
	$(BIN)/python -m models.bench_passes -o docs/passes.md

bench-kernels: $(KERNELS)
	$(BIN)/python -m models.bench_kernels -o docs/kernel-figures.md

gpu-check: $(READY)
	$(BIN)/python -m models.gpu_check -o build/gpu-check

clean:
	rm -rf $(VENV) demo dist build kernels/build .mypy_cache .pytest_cache .ruff_cache .hypothesis
