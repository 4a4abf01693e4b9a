# The two commands: `make run` draws the pictures of test_input.json, `make test` runs the whole test suite.
# Both make their virtual environment when it is missing or the pinned versions have changed.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Which build of torch: cpu, cu126, cu130, or auto, the one that pip finds in the indexes that it is told of.
TORCH_BUILD ?= auto
# In how many processes tests run: one more than there are cores, because a third of their time is waiting, and four at
# most, because each takes up to 2 GB with the workers that its tests start. A file's tests stay together: they share
# models and workers.
TEST_PROCESSES ?= $(shell $(PYTHON) -c 'import os; print(min(os.cpu_count() + 1, 4))')
PYTEST = $(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist loadfile
# Nothing but what the lock files pin, file by file.
INSTALL = $(BIN)/pip install --quiet --require-hashes --no-deps
TOOLS := build/tools

.PHONY: run test test-all test-container lint serve bench image reference lock upgrade pin audit sbom clean help

run: $(VENV)/.run  ## draw the job in test_input.json into out/
	$(BIN)/sdworker generate --job test_input.json --out out

test: $(VENV)/.dev  ## run the test suite (without what is slow and the container's build: see make test-all)
	$(PYTEST) -m "not container and not slow" $(PYTEST_ARGS)

test-all: $(VENV)/.dev  ## run every test, the slow ones and the container's build too (root, buildah, debootstrap)
	$(PYTEST) $(PYTEST_ARGS)

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

lock: $(TOOLS)/.made  ## pin what pyproject.toml allows; pins that still fit are kept
	$(PYTHON) -m builder.lock write --uv $(TOOLS)/bin/uv

upgrade: $(TOOLS)/.made  ## pin the newest of what pyproject.toml allows
	$(PYTHON) -m builder.lock write --upgrade --uv $(TOOLS)/bin/uv

pin:  ## bring the base image's digest in the Dockerfile up to date (docker, with its registry in reach)
	digest=$$(docker buildx imagetools inspect $(BASE) --format '{{.Manifest.Digest}}') && \
	sed -i "s|^ARG BASE_IMAGE=.*|ARG BASE_IMAGE=$(BASE)@$$digest|" Dockerfile

audit: $(TOOLS)/.made  ## look up known vulnerabilities of every pinned package; one that cannot be looked up is a failure
	for name in "" -torch-cu130 -xformers -spandrel -dev -tools; do \
	    $(TOOLS)/bin/pip-audit --strict --require-hashes --disable-pip --requirement requirements$$name.lock || exit 1; \
	done

sbom: $(VENV)/.run $(TOOLS)/.made  ## bill of materials and licences of what is installed here, into build/sbom
	mkdir -p build/sbom
	$(TOOLS)/bin/cyclonedx-py environment --output-reproducible --pyproject pyproject.toml --output-format JSON \
	    --output-file build/sbom/sbom.json $(BIN)/python
	$(TOOLS)/bin/pip-licenses --python=$(BIN)/python --from=mixed --with-urls --format=markdown \
	    --output-file=build/sbom/licences.md

BASE := docker.io/library/python:3.11-slim-bookworm

$(TOOLS)/.made: requirements-tools.lock
	$(PYTHON) -m venv $(TOOLS)
	$(TOOLS)/bin/pip install --quiet --require-hashes --no-deps -r requirements-tools.lock
	touch $@

$(VENV)/.run: requirements.lock requirements-spandrel.lock $(wildcard requirements-torch-*.lock) pyproject.toml | $(VENV)
	$(INSTALL) -r $$($(BIN)/python -m builder.lock torch --build $(TORCH_BUILD))
	$(INSTALL) -r requirements.lock -r requirements-spandrel.lock
	$(BIN)/pip install --quiet --no-deps --no-build-isolation -e .
	touch $@

$(VENV)/.dev: requirements-dev.lock $(VENV)/.run
	$(INSTALL) -r requirements-dev.lock
	touch $@

$(VENV):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; set PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv $(VENV) || (echo "On Debian and Ubuntu: apt install python3-venv" >&2; exit 1)
	$(BIN)/pip install --quiet --upgrade pip setuptools

clean:  ## remove what was made here
	rm -rf $(VENV) build out bench/results

help:  ## list the commands
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'
