PYTHON ?= python3
VENV ?= .venv
PIP_FLAGS ?=
# Processes that the tests run in, and what else pytest is told.
JOBS ?= 2
PYTEST_FLAGS ?=
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS)
# Programs of maintenance, which the project itself does not use.
TOOLS := build/tools
NEEDS_CUDA := import importlib.metadata as m, sys; sys.exit(not any(r.startswith(('nvidia', 'cuda')) for r in m.requires('torch')))

.DEFAULT_GOAL := help
.PHONY: help install demo certify play serve test test-fast lint types format bench docs constraints vulnerabilities clean

help: ## what there is to make
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 14

install: $(INSTALLED) ## virtual environment with everything, each file compared with the sha256 in requirements.txt

# The files of the tree first, without what they require: requirements.txt lists all of it, for either build of torch.
# A CPU build of torch comes first, where pip is set up to find one: of two builds whose hashes are allowed, pip prefers
# that of an index which states hashes.
$(INSTALLED): pyproject.toml requirements.txt requirements-cpu.txt requirements-cuda.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing (3 GB with a CPU build of torch, 7 GB with the build from PyPI; a few minutes)"
	$(PIP) --no-deps --require-hashes -r requirements-cpu.txt 2> /dev/null || echo "no known CPU build of torch here: taking PyPI's"
	$(PIP) --no-deps --require-hashes -r requirements.txt
	if $(BIN)/python -c "$(NEEDS_CUDA)"; then $(PIP) --no-deps --require-hashes -r requirements-cuda.txt; fi
	$(PIP) --no-deps --no-build-isolation -e .
	$(BIN)/python -m pip check
	touch $@

demo: $(INSTALLED) ## everything once on the embedded profile: photographs in, datasets out
	$(BIN)/perturb demo

play: $(INSTALLED) ## the playground: a page that attacks a photograph before one's eyes
	$(BIN)/perturb play

certify: $(INSTALLED) ## certificates of the embedded classifier and of its hardened generation, compared: demo/certificate.html
	mkdir -p demo && touch demo/.certify
	$(BIN)/perturb certify --pool sample:24 --n 12 --claim 'robust@1>=0.30' --hardened --folder demo/certificates --html demo/certificate.html
	find demo/certificates -name certificate.dsse.json -newer demo/.certify -print0 | xargs -0 -n 1 $(BIN)/perturb certificate verify --log data

serve: $(INSTALLED) ## Prefect server, worker and all deployments on this machine, until Ctrl-C
	$(BIN)/perturb serve

# One thread of torch for each of the processes that tests run in: more of them fight for the same cores.
test test-fast: export OMP_NUM_THREADS ?= 1

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

constraints: $(TOOLS) ## pin the tree: versions and sha256 of what pyproject.toml allows; PIN="--upgrade-package NAME"
	PATH=$(abspath $(TOOLS))/bin:$$PATH $(TOOLS)/bin/python .ci/pin.py $(PIN)

vulnerabilities: $(TOOLS) ## compare the pinned tree with the list of known vulnerabilities, where a list can be reached
	$(TOOLS)/bin/python .ci/vulnerabilities.py

$(TOOLS):
	$(PYTHON) -m venv $@
	$@/bin/python -m pip install --quiet --disable-pip-version-check uv pip-audit || (rm -rf $@; exit 1)

clean: ## remove what was built and produced, the virtual environment included
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis data demo
