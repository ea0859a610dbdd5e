PYTHON ?= python3
VENV ?= .venv
PIP_FLAGS ?=
# Processes that the tests run in, and what else pytest is told.
JOBS ?= 2
PYTEST_FLAGS ?=
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help install demo serve test test-fast lint types format bench docs constraints clean

help: ## what there is to make
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 14

install: $(INSTALLED) ## virtual environment with everything, pinned by constraints.txt

$(INSTALLED): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing (3 GB with a CPU build of torch, 7 GB with the build from PyPI; a few minutes)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS) -c constraints.txt -e '.[dev]'
	touch $@

demo: $(INSTALLED) ## everything once on the embedded profile: photographs in, datasets out
	$(BIN)/perturb demo

serve: $(INSTALLED) ## Prefect server, worker and all deployments on this machine, until Ctrl-C
	$(BIN)/perturb serve

test: $(INSTALLED) ## the test suite
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder $(PYTEST_FLAGS)

test-fast: $(INSTALLED) ## the tests that take seconds: none that are slow, none that need S3, Dask or a browser
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder -m 'not slow and not s3 and not dask and not browser' $(PYTEST_FLAGS)

lint: $(INSTALLED) types ## formatting, lint, spelling, the order of packages, and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/codespell

types: $(INSTALLED) ## the order of packages, and types
	rm -rf build/tree
	$(BIN)/python -c 'import setuptools; setuptools.setup()' --quiet build_py --build-lib build/tree
	cd build/tree && ../../$(BIN)/lint-imports ../../pyproject.toml --no-cache
	$(BIN)/mypy

format: $(INSTALLED) ## rewrite the code in the project's format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(INSTALLED) ## collection, writing and exporting against their peers; the other benchmarks take --photos
	for name in collection writing export; do $(BIN)/python benchmarks/$$name.py || exit 1; done

docs: $(INSTALLED) ## the manuals and the API reference as a website, in build/site
	rm -rf build/tree
	$(BIN)/python -c 'import setuptools; setuptools.setup()' --quiet build_py --build-lib build/tree
	$(BIN)/mkdocs build --strict

constraints: $(INSTALLED) ## pin the tree as it is installed now
	(sed -n '/^#/p' constraints.txt; $(BIN)/python -m pip freeze --exclude-editable --exclude pip --exclude setuptools | sed 's/+cpu//') > constraints.new
	mv constraints.new constraints.txt

clean: ## remove what was built and produced, the virtual environment included
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis data demo
