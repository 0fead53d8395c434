# Each target does its own set-up: a virtual environment in .venv, the pinned packages, then the work.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# what a user needs; and what the checks need besides, the GPU targets' compilers among it
USER := $(VENV)/.ready
ALL := $(VENV)/.ready-all

# where packages are Debian's and we may install them; `make test-cross` skips what is not there
TOOLCHAIN := gcc-aarch64-linux-gnu libc6-dev-arm64-cross gcc-riscv64-linux-gnu libc6-dev-riscv64-cross qemu-user \
  clang libclang-rt-dev lld wasi-libc libclang-rt-dev-wasm32 nodejs chromium chromium-driver

.PHONY: demo test test-tenstorrent test-triton test-cross toolchain lint setup clean

demo: $(USER)
	$(BIN)/python -m examples.demo

test: $(ALL)
	$(BIN)/python -m pytest -n 2 $(PYTEST)

# The generated kernels on a simulated Wormhole; needs Python 3.12 or 3.10 besides, for which alone ttnn is published
test-tenstorrent: $(ALL)
	$(BIN)/python -m tests.tenstorrent.simulator.environment
	$(BIN)/python -m pytest tests/tenstorrent/simulator

# Artefacts for other machines, emulated here
test-cross: $(ALL)
	$(BIN)/python -m pytest -n 2 tests/cross

# The GPU scan kernels: every case in Triton's interpreter, every shape compiled for six cards; no GPU, minutes
test-triton: $(ALL)
	CDRMIX_TRITON=all $(BIN)/python -m pytest -n 2 tests/conformance/test_triton_scans.py

toolchain:
	apt-get update && apt-get install --yes --no-install-recommends $(TOOLCHAIN)

# Every spec's C program under sanitizers (address, undefined behaviour, threads) and valgrind; minutes
test-sanitize: $(ALL)
	$(BIN)/python -m tests.sanitize $(SANITIZE)

# What reads an artefact's files, given bytes at random for a minute; needs clang and its runtime
fuzz: $(ALL)
	$(BIN)/python -m tests.fuzz $(FUZZ)

lint: $(ALL)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	rm -rf build/typed && mkdir -p build/typed/cdrmix
	ln -s $(CURDIR)/cdrmix/* $(CURDIR)/codegen $(CURDIR)/runtime $(CURDIR)/spec build/typed/cdrmix
	cd build/typed && $(CURDIR)/$(BIN)/mypy --config-file $(CURDIR)/pyproject.toml -p cdrmix  # the installed layout

setup: $(USER)

$(ALL): EXTRAS := [dev,gpu]
$(USER) $(ALL): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo 'cdrmix needs Python 3.11 or newer: make PYTHON=python3.11'; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.$(EXTRAS)'
	touch $@

clean:
	rm -rf $(VENV) build runs demo
