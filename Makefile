# `make demo` and `make test` are each enough on a fresh machine with Python 3.11 or newer.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TESTS := OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -n 2 --dist loadfile

MINKOWSKI_VERSION := 0.5.4
MULTIARCH = $(shell $(PYTHON) -c "import sysconfig; print(sysconfig.get_config_var('MULTIARCH') or '')")

.PHONY: demo test test-gpu gpu-kit test-fuzz test-kill test-wheel docker-steps docs check format lint types minkowski system system-dev system-minkowski clean

demo: $(VENV)/.installed
	$(BIN)/lg3d demo

test: lint types
	$(BIN)/python -m coverage erase
	$(TESTS) --cov --cov-report=term --cov-fail-under=90

check: lint types
	$(TESTS) -m "not slow"

# On a machine with a GPU: kernels compiled, at sizes that fill it. GPU_PYTHON=python3 takes another Python's packages.
GPU_PYTHON ?= $(BIN)/python
test-gpu:
	LG3D_TEST_GPU=1 TRITON_INTERPRET=0 PYTHONPATH=.:$$PYTHONPATH $(GPU_PYTHON) -m pytest tests/test_sparse_triton.py tests/test_sparse_triton_compile.py tests/test_sparse_triton_normalization.py

# What a GPU machine without a network needs, in .whl and .gpu; prints the commands to run there. KIT="--python python3.12"
# names an interpreter with the GPU machine's PyTorch and Triton, for which kernels are compiled.
KIT ?=
gpu-kit: $(VENV)/.installed
	PYTHONPATH=. $(BIN)/python -m benchmarks.gpu.kit $(KIT)

# Reads 10,000 damaged files per format: half an hour of CPU time or more. FUZZ="--cases 500 --format ply" takes less.
FUZZ ?= --cases 10000
test-fuzz: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 PYTHONPATH=. $(BIN)/python -m tests.fuzz_runner $(FUZZ)

# Kills commands at 200 random times, stops them at 40, resumes, and compares with uninterrupted runs: half an hour.
test-kill: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.interruption --kills 200 --stops 40
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.interruption_of_ranks --kills 6

# Tests the wheel in a clean environment, as after `pip install lg3d`.
test-wheel: $(VENV)/.installed
	rm -rf build/wheel && mkdir -p build/wheel
	$(BIN)/pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir build/wheel .
	$(PYTHON) -m venv build/wheel/venv
	$(call install_locked,build/wheel/venv/bin/pip)
	build/wheel/venv/bin/pip install --quiet --disable-pip-version-check --no-deps build/wheel/lg3d-*.whl
	build/wheel/venv/bin/pip check --disable-pip-version-check
	cd build/wheel && venv/bin/lg3d demo --scenes 4 --quiet && venv/bin/lg3d doctor

# The RUN steps of the Dockerfile, in build/docker, without Docker and root. STEPS="TORCH_INDEX=https://..." sets build arguments.
STEPS ?=
docker-steps:
	PYTHONPATH=. $(PYTHON) -m tests.dockerfile_steps build/docker $(STEPS)

# The documentation site, in build/site; a broken link is an error.
docs: $(VENV)/.installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

lint: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(VENV)/.installed-dev
	$(BIN)/mypy

# The optional backend `--backend minkowski`; the parity tests run where it is installed.
minkowski: $(VENV)/.installed-minkowski

format: $(VENV)/.installed-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# With torch's wheel for CPUs where pip finds it; else with that of the public index and CUDA's libraries.
INSTALL_LOCKED := install --quiet --disable-pip-version-check --require-hashes --no-deps
define install_locked
	$(1) $(INSTALL_LOCKED) -r requirements-cpu.lock 2>/dev/null || $(1) $(INSTALL_LOCKED) -r requirements.lock
endef

$(VENV)/.installed: requirements.lock requirements-base.lock requirements-cpu.lock pyproject.toml | system
	$(PYTHON) -m venv $(VENV)
	$(call install_locked,$(BIN)/pip)
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

$(VENV)/.installed-dev: requirements-dev.lock $(VENV)/.installed | system-dev
	$(BIN)/pip $(INSTALL_LOCKED) -r requirements-dev.lock
	touch $@

$(VENV)/.installed-docs: requirements-docs.lock $(VENV)/.installed
	$(BIN)/pip $(INSTALL_LOCKED) -r requirements-docs.lock
	touch $@

# MinkowskiEngine for the CPU, built from its source release against the PyTorch of $(VENV). Its wheel is kept in build/.
$(VENV)/.installed-minkowski: $(VENV)/.installed | system-minkowski
	@set -e; \
	tag=$$($(BIN)/python -c 'import sys, torch; print(f"cp{sys.version_info[0]}{sys.version_info[1]}-torch{torch.__version__}")'); \
	wheels=build/minkowski/$$tag; \
	if ! ls $$wheels/*.whl >/dev/null 2>&1; then \
		echo "building MinkowskiEngine $(MINKOWSKI_VERSION): twelve CPU minutes, six on two idle cores; log: build/minkowski/build.log"; \
		rm -rf build/minkowski/venv; \
		$(PYTHON) -m venv build/minkowski/venv; \
		packages='import sysconfig; print(sysconfig.get_paths()["purelib"])'; \
		$(BIN)/python -c "$$packages" > $$(build/minkowski/venv/bin/python -c "$$packages")/torch.pth; \
		build/minkowski/venv/bin/pip install --quiet --disable-pip-version-check "setuptools<70" wheel ninja; \
		MAX_JOBS=$${MAX_JOBS:-$$(nproc)} PATH="$$PWD/build/minkowski/venv/bin:$$PATH" pip wheel --verbose --disable-pip-version-check --no-cache-dir --no-deps \
			--no-build-isolation --use-pep517 --no-binary MinkowskiEngine --wheel-dir $$wheels \
			--config-settings="--global-option=--blas=openblas --blas_include_dirs=/usr/include/$(MULTIARCH) --cpu_only" \
			MinkowskiEngine==$(MINKOWSKI_VERSION) > build/minkowski/build.log 2>&1 \
		|| { tail -n 30 build/minkowski/build.log; exit 1; }; \
		rm -rf build/minkowski/venv; \
	fi; \
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-index --force-reinstall $$wheels/*.whl
	$(BIN)/python -c "from lg3d_core.sparse import use_backend; use_backend('minkowski').__enter__()"
	touch $@

define install_packages
	if [ -n "$$packages" ]; then \
		echo "installing$$packages"; \
		if [ "$$(id -u)" = 0 ]; then sudo=""; else sudo="sudo"; fi; \
		$$sudo apt-get update -qq && $$sudo apt-get install -y -qq $$packages \
		|| { echo "could not install$$packages: please install them yourself"; exit 1; }; \
	fi
endef

# Debian packages: venv for the environment; libusb, EGL and GL for open3d's pictures and window.
system:
	@packages=""; \
	$(PYTHON) -c "import ensurepip, venv" 2>/dev/null || packages="$$packages python3-venv"; \
	for pair in libusb-1.0.so.0:libusb-1.0-0 libEGL.so.1:libegl1 libGL.so.1:libgl1 libX11.so.6:libx11-6; do \
		/sbin/ldconfig -p | grep -q "$${pair%%:*}" || packages="$$packages $${pair##*:}"; \
	done; \
	$(install_packages)

# For the tests alone: a browser to open the interactive page in, about 100 MB, and a display with a mouse for the window. Where
# they cannot be installed without a password the tests that need them are skipped; LG3D_REQUIRE_BROWSER=1 makes those in a
# browser fail instead.
system-dev:
	@packages=""; \
	command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null || packages=" chromium"; \
	command -v xvfb-run >/dev/null || packages="$$packages xvfb xauth"; \
	command -v xdotool >/dev/null || packages="$$packages xdotool"; \
	if [ "$$(id -u)" = 0 ] || [ -z "$$packages" ] || sudo -n true 2>/dev/null; then ($(install_packages)); else false; fi \
	|| echo "without$$packages some tests are skipped (sudo apt-get install$$packages)"

# To build MinkowskiEngine: a compiler, Python's headers, OpenBLAS.
system-minkowski:
	@packages=""; \
	command -v g++ >/dev/null || packages="$$packages g++"; \
	$(PYTHON) -c "import os, sysconfig; open(os.path.join(sysconfig.get_paths()['include'], 'Python.h'))" 2>/dev/null \
	|| packages="$$packages python3-dev"; \
	[ -e /usr/include/$(MULTIARCH)/cblas.h ] || packages="$$packages libopenblas-dev"; \
	$(install_packages)

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .coverage*
