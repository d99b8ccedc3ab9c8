# Everything from a fresh clone with Python 3.11+, make and git: `make demo`, `make test`.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

.PHONY: help demo test check format bench bench-passes coverage fuzz clean

help:
	@echo "make demo    train, export, verify, predict and bench LeNet5 on handwritten digits"
	@echo "make test    run the tests"
	@echo "make check   ruff, mypy (strict), import-linter"
	@echo "make coverage  compile every case of every class of torch.nn and rewrite docs/coverage.md"
	@echo "make fuzz    2,000 random networks"
	@echo "make bench   measure the networks of models/ and rewrite docs/benchmarks.md"
	@echo "make bench-passes  measure them with each pass left out and rewrite docs/passes.md"
	@echo "make format  let ruff format the code"

$(READY): pyproject.toml constraints.txt requirements-no-deps.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "nncompile needs Python 3.11 or newer; run make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[gpu,compile,bench,dev]'
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -r requirements-no-deps.txt
	@touch $(READY)

demo: $(READY)
	$(BIN)/python -m models.demo

test: $(READY)
	$(BIN)/python -m pytest

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

coverage: $(READY)
	$(BIN)/python tests/coverage/report.py -o docs/coverage.md
	$(BIN)/python tests/coverage/network_report.py -o docs/networks.md

fuzz: $(READY)
	FUZZ_EXAMPLES=2000 $(BIN)/python -m pytest tests/fuzz --timeout 14400

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY)
	$(BIN)/python -m models.bench -o docs/benchmarks.md

bench-passes: $(READY)
	$(BIN)/python -m models.bench_passes -o docs/passes.md

clean:
	rm -rf $(VENV) demo dist build .mypy_cache .pytest_cache .ruff_cache .hypothesis
