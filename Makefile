# Each target does its own set-up: a virtual environment in .venv, the pinned packages, then the work.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test test-tenstorrent lint setup toolchain clean

demo: $(READY)
	$(BIN)/python -m examples.demo

test: $(READY)
	$(BIN)/python -m pytest -n 2

# The generated kernels on a simulated Wormhole; needs Python 3.12 or 3.10 besides, for which alone ttnn is published
test-tenstorrent: $(READY)
	$(BIN)/python -m tests.tenstorrent.simulator.environment
	$(BIN)/python -m pytest tests/tenstorrent/simulator

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	rm -rf build/typed && mkdir -p build/typed/cdrmix
	ln -s $(CURDIR)/cdrmix/* $(CURDIR)/codegen $(CURDIR)/runtime $(CURDIR)/spec build/typed/cdrmix
	cd build/typed && $(CURDIR)/$(BIN)/mypy --config-file $(CURDIR)/pyproject.toml -p cdrmix  # the installed layout

setup: $(READY)

# Debian's part of what the GPU targets compile with; without it their tests are skipped
toolchain:
	@dpkg -s libllvm19 lld-19 >/dev/null 2>&1 \
		|| { apt-get update -qq && apt-get install -y -qq --no-install-recommends libllvm19 lld-19; }

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo 'cdrmix needs Python 3.11 or newer: make PYTHON=python3.11'; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev,gpu]'
	touch $@

clean:
	rm -rf $(VENV) build runs demo
