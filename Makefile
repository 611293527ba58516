# Every target makes .venv if it is missing; the second time that costs nothing.
VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= python3
READY := $(VENV)/.ready

.PHONY: demo test test-slow check lint format install clean

demo: $(READY)  ## train one learner of each family, with a report for each
	@$(BIN)/python -m trivium.demo

QUICK := not slow and not gpu and not ray and not kill and not trains

test: $(READY)  ## all tests but the slow ones; CHECKED=yes leaves out those that `make check` has run
	$(BIN)/python -m pytest -n 2 --dist loadgroup $(if $(CHECKED),-m "not slow and not gpu and (ray or kill or trains)")

test-slow: $(READY)  ## the tests that take minutes
	$(BIN)/python -m pytest -n 2 --dist loadgroup -m slow

check: lint  ## lint, and the tests that take milliseconds: before each commit
	$(BIN)/python -m pytest -n 2 --dist loadgroup -m "$(QUICK)"

lint: $(READY)  ## format, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	@# mypy does not follow the editable install's mapping of folders to packages: show it the package as it is installed
	@rm -rf build/types && mkdir -p build/types/trivium
	@ln -s $(CURDIR)/platform/trivium/* $(CURDIR)/agents $(CURDIR)/configs $(CURDIR)/generative $(CURDIR)/supervised build/types/trivium
	cd build/types && $(CURDIR)/$(BIN)/python -m mypy --config-file $(CURDIR)/pyproject.toml -p trivium

format: $(READY)  ## format and mend what ruff can
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

install: $(READY)

$(READY): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache
