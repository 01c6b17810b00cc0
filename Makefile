# Every target works from a bare checkout with Python 3.11+ and pip: .venv is made when missing.
PYTHON ?= python3
BIN := .venv/bin
# Test files run side by side, each in one thread: JOBS=1 for one after the other.
JOBS ?= 2

.PHONY: demo test test-quantization test-all lint bench clean

# Betty's wheel claims Python < 3.11, so pip has to be told once; see README, "Installing".
.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(f"Python 3.11 or newer is needed, this is {v[0]}.{v[1]}" if v < (3, 11) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --no-deps --ignore-requires-python betty-ml==0.2.1
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev,sweep]'
	touch $@

demo: .venv/.installed
	$(BIN)/python -m experiments.demo

test: .venv/.installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" -n $(JOBS) --dist loadfile

# bitsandbytes in a folder of its own: every program loads it where it is installed, and is slower.
test-quantization: .venv/.installed
	$(BIN)/python -m pip install --quiet --no-deps -c constraints.txt --upgrade --target .venv/quantization bitsandbytes
	PYTHONPATH=.venv/quantization OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" tests/experiments/models/test_quantization.py

test-all: .venv/.installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile

lint: .venv/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: .venv/.installed
	$(BIN)/python -m benchmarks.step_cost
	$(BIN)/python -m benchmarks.memory
	$(BIN)/python -m benchmarks.peers
	$(BIN)/python -m benchmarks.peers --memory

clean:
	rm -rf .venv build *.egg-info outputs multirun
