# The two commands: `make run` draws the pictures of test_input.json, `make test` runs the whole test suite.
# Both make their virtual environment when it is missing or the pinned versions have changed.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# The torch that the lock pins; which build of it (CPU, CUDA) is up to the index that pip is told of.
TORCH ?= torch==2.13.0

.PHONY: run test lint serve bench image reference lock clean help

run: $(VENV)/.run  ## draw the job in test_input.json into out/
	$(BIN)/sdworker generate --job test_input.json --out out

test: $(VENV)/.dev  ## run the test suite (without the container's build: see make test-container)
	$(BIN)/python -m pytest -m "not container" $(PYTEST_ARGS)

test-container: $(VENV)/.dev  ## build the image and run a job in it (root, buildah, debootstrap)
	$(BIN)/python -m pytest -m container $(PYTEST_ARGS)

lint: $(VENV)/.dev  ## lint, format and type checks
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

serve: $(VENV)/.run  ## the endpoint on 127.0.0.1:8000 with one worker; SERVE_ARGS="--help" tells the options
	$(BIN)/sdworker serve $(SERVE_ARGS)

bench: $(VENV)/.dev  ## measure; every bench prints a table and writes JSON to bench/results/
	$(BIN)/python -m bench $(BENCH_ARGS)

image:  ## build the image, with the model that MODEL_ID names in IMAGE_ARGS="--build-arg MODEL_ID=…"
	docker build --platform linux/amd64 -t sdworker $(IMAGE_ARGS) .

reference: $(VENV)/.dev  ## rewrite the tables in README.md and docs/ that are generated from the code
	$(BIN)/python -m builder.reference

lock:  ## pin anew what pyproject.toml allows, in a clean environment
	rm -rf build/lock && $(PYTHON) -m venv build/lock
	build/lock/bin/pip install --quiet --upgrade pip
	build/lock/bin/pip install --quiet "$(TORCH)" .
	$(FREEZE) > requirements.lock
	build/lock/bin/pip install --quiet ".[dev]"
	(echo "-r requirements.lock"; $(FREEZE) | grep -vxF -f requirements.lock) > requirements-dev.lock

# Without the CPU or CUDA suffix of torch's build: which one it is, is the installing machine's affair.
FREEZE = build/lock/bin/pip freeze --exclude sdworker --exclude pip --exclude setuptools | sed 's/+cpu$$//' | grep -v '^nvidia-\|^triton=='

$(VENV)/.run: requirements.lock pyproject.toml | $(VENV)
	$(BIN)/pip install --quiet -r requirements.lock
	$(BIN)/pip install --quiet --no-deps --no-build-isolation -e .
	touch $@

$(VENV)/.dev: requirements-dev.lock $(VENV)/.run
	$(BIN)/pip install --quiet -r requirements-dev.lock
	$(BIN)/pip install --quiet --no-deps $(SPANDREL)
	touch $@

# Alone and without what it asks for: torchvision, which does not exist for every build of torch.
SPANDREL = spandrel==0.4.2

$(VENV):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; set PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv $(VENV) || (echo "On Debian and Ubuntu: apt install python3-venv" >&2; exit 1)
	$(BIN)/pip install --quiet --upgrade pip setuptools

clean:  ## remove what was made here
	rm -rf $(VENV) build out bench/results

help:  ## list the commands
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'
