# Everything that a person does here. `make demo` and `make test` work on a fresh Debian or Ubuntu machine.
.PHONY: help setup demo fmt check test bench docs openapi clean

UV := .tools/bin/uv
RUN := $(UV) run --no-sync
DEMO_DIR ?= .nacre/demo
WORKERS ?= 2

help:  ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | expand -t 10

setup:  ## install system packages and the Python environment for development
	@scripts/setup.sh develop

demo:  ## install what is needed, start a cloud of one machine, boot two machines on it and show them working
	@scripts/setup.sh run
	@DEMO_DIR=$(DEMO_DIR) scripts/demo.sh

fmt: setup  ## format the code
	$(RUN) ruff format
	$(RUN) ruff check --fix

check: setup  ## format, lint, types, architecture, API document and docs, without running the product
	$(RUN) ruff format --check
	$(RUN) ruff check
	$(RUN) pyright
	$(RUN) lint-imports
	$(RUN) python -m nacre.control.api --check
	$(RUN) python scripts/write_reference.py --check
	$(RUN) zensical build --strict -f mkdocs.yml
	$(RUN) pytest -q tests/arch

test: setup  ## every test, with real guests and both databases
	$(RUN) pytest -n $(WORKERS) --dist worksteal $(ARGS)

bench: setup  ## measure; ONLY=prefix for some of it
	PYTHONPATH=tests $(RUN) python -m bench.main $(if $(ONLY),--only $(ONLY)) --output build/bench.json

docs: setup  ## build the documentation site into site/
	$(RUN) zensical build --strict -f mkdocs.yml

openapi: setup  ## write openapi.yaml from the code
	$(RUN) python -m nacre.control.api --write

clean:  ## remove what was built; keeps data directories
	rm -rf build site dist .ruff_cache .pytest_cache .import_linter_cache
