# make demo   the main job on a drawn catalogue, from nothing     make up      a local server with every deployment
# make test   the whole test suite, on every core                 make quick   tests without processes, servers, browsers
# make check  lint, types, import direction                       make docs    the documentation as a site
# make bench  the benchmarks' quick forms

PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
PORT ?= 4200
# Test processes; each imports PyTorch, so a large machine gets no more than eight.
WORKERS ?= logical
# Set in many containers, where every test process would compile the whole project again.
unexport PYTHONDONTWRITEBYTECODE
PYTEST := $(BIN)/python -m pytest --numprocesses $(WORKERS) --maxprocesses 8 --dist loadscope

.PHONY: demo up test quick check bench docs lock clean

demo: .venv/installed
	$(BIN)/python -m flows.local demo

up: .venv/installed
	$(BIN)/cm3 up --port $(PORT)

test: .venv/installed
	$(PYTEST)

quick: .venv/installed
	$(PYTEST) -m "not slow"

check: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: .venv/installed
	$(BIN)/python -m benchmarks all --quick

docs: .venv/installed
	$(BIN)/zensical build --strict

# Everything the project runs on, at exact versions; the lock is complete, so nothing is left to resolve.
.venv/installed: requirements.txt pyproject.toml
	@echo "Installing into .venv: about 300 packages, PyTorch among them; a few minutes, once."
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --disable-pip-version-check --no-deps --require-hashes -r requirements.txt
	$(BIN)/pip install --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

# After editing pyproject.toml: resolve again, for every platform, with the hash of every file and without addresses.
lock:
	uv pip compile --universal --python-version 3.11 --all-extras --group server --group dev --generate-hashes \
		--no-annotate --no-header \
		--no-emit-index-url --no-emit-find-links pyproject.toml -o requirements.txt

clean:
	rm -rf .venv .cm3 store site
