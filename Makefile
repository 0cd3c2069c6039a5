# `make demo` and `make test` are each enough on a fresh machine with Python 3.11 or newer.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TESTS := OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -n 2 --dist loadfile

.PHONY: demo test check format lint types system clean

demo: $(VENV)/.installed
	$(BIN)/lg3d demo

test: lint types
	$(BIN)/python -m coverage erase
	$(TESTS) --cov --cov-report=term --cov-fail-under=90

check: lint types
	$(TESTS) -m "not slow"

lint: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(VENV)/.installed-dev
	$(BIN)/mypy

format: $(VENV)/.installed-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

$(VENV)/.installed: requirements.lock pyproject.toml | system
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

$(VENV)/.installed-dev: requirements-dev.lock $(VENV)/.installed
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-dev.lock
	touch $@

# What Debian must give: venv for the environment; libusb, EGL and GL for open3d's pictures and window.
system:
	@packages=""; \
	$(PYTHON) -c "import ensurepip, venv" 2>/dev/null || packages="$$packages python3-venv"; \
	for pair in libusb-1.0.so.0:libusb-1.0-0 libEGL.so.1:libegl1 libGL.so.1:libgl1 libX11.so.6:libx11-6; do \
		/sbin/ldconfig -p | grep -q "$${pair%%:*}" || packages="$$packages $${pair##*:}"; \
	done; \
	if [ -n "$$packages" ]; then \
		echo "installing$$packages"; \
		if [ "$$(id -u)" = 0 ]; then sudo=""; else sudo="sudo"; fi; \
		$$sudo apt-get update -qq && $$sudo apt-get install -y -qq $$packages \
		|| { echo "could not install$$packages: please install them yourself"; exit 1; }; \
	fi

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .coverage*
