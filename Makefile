# Usage: make [target] [PYTHON=python3.12]. `make help` lists the targets.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

export MLFLOW_DISABLE_TELEMETRY := true
export RAY_USAGE_STATS_ENABLED := 0

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help venv demo test test-fast style types doctest unit integration coverage docs docs-serve audit constraints clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' Makefile

venv: $(STAMP) ## Install metaray and its tools into .venv

# The stamp is there only after a complete install. Without it .venv is built from nothing, with it, brought up to date.
$(STAMP): pyproject.toml constraints.txt
	@command -v "$(PYTHON)" >/dev/null || { \
		echo "error: expected Python 3.11 or newer, found no '$(PYTHON)'; run: make venv PYTHON=/path/to/python" >&2; \
		exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "error: expected Python 3.11 or newer, $(PYTHON) is $$("$(PYTHON)" -V 2>&1);" \
			"run: make venv PYTHON=/path/to/python" >&2; \
		exit 1; }
	@echo "Installing into $(VENV); the first time takes some minutes."
	@test -e $@ || "$(PYTHON)" -m venv --clear $(VENV)
	@rm -f $@
	@$(BIN)/python -m pip install -qq --no-input --disable-pip-version-check --log $(VENV)/install.log \
		-c constraints.txt -e ".[dev]" || { echo "error: the install failed, see $(VENV)/install.log" >&2; exit 1; }
	@touch $@

demo: $(STAMP) ## Meta-train the small sinusoid example
	$(BIN)/metaray train tune_configs/sinusoid_demo.yaml

test: style types doctest unit integration ## Run all checks, stopping at the first failure

style: $(STAMP) ## Lint and check the format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP) ## Check the types
	$(BIN)/mypy meta tasks benchmarks cluster metaray

doctest: $(STAMP) ## Run the examples in docstrings
	$(BIN)/pytest --doctest-modules meta tasks benchmarks cluster metaray

test-fast: $(STAMP) ## Run style, types and the quick unit tests, in two minutes
	$(BIN)/ruff check .
	$(BIN)/mypy meta tasks benchmarks cluster metaray
	$(BIN)/pytest tests/unit -n 2 --dist loadfile -m "not slow and not nightly"

unit: $(STAMP) ## Run the unit tests, a file of them on each of two cores; with CI_FULL=1 the nightly ones too
	$(BIN)/pytest tests/unit -n 2 --dist loadfile $(if $(CI_FULL),,-m "not nightly")

coverage: $(STAMP) ## Print how much of the code the quick unit tests run, and how many functions document their arguments
	$(BIN)/pytest tests/unit -n 2 --dist loadfile -m "not slow and not nightly" --cov=meta --cov=tasks --cov=cluster --cov=metaray \
		--cov-report=term:skip-covered
	$(BIN)/python .ci/documented.py

integration: $(STAMP) ## Run the tests on real Ray and MLflow, a file of them on each of two cores
	$(BIN)/pytest tests/integration -n 2 --dist loadfile $(if $(CI_FULL),,-m "not nightly")

# Only the guide needs these, so `make venv` leaves them out.
DOCS_STAMP := $(VENV)/.installed-docs
export NO_MKDOCS_2_WARNING := 1

$(DOCS_STAMP): $(STAMP)
	@$(BIN)/python -m pip install -qq --no-input --disable-pip-version-check --log $(VENV)/install.log \
		-c constraints.txt -e ".[dev,docs]" || { echo "error: the install failed, see $(VENV)/install.log" >&2; exit 1; }
	@touch $@

docs: $(DOCS_STAMP) ## Build the guide into site/; broken links fail. Print how much of the code is documented
	$(BIN)/python .ci/documented.py
	$(BIN)/mkdocs build --strict --clean

docs-serve: $(DOCS_STAMP) ## Show the guide at http://127.0.0.1:8080
	$(BIN)/mkdocs serve --dev-addr 127.0.0.1:8080

# In an environment of its own: what it takes must not mix with what is audited.
AUDIT := $(VENV)/audit
PIP_AUDIT := 2.10.1

$(AUDIT)/.installed-$(PIP_AUDIT): $(STAMP)
	@"$(BIN)/python" -m venv --clear $(AUDIT)
	@$(AUDIT)/bin/python -m pip install -qq --no-input --disable-pip-version-check pip-audit==$(PIP_AUDIT)
	@touch $@

audit: $(AUDIT)/.installed-$(PIP_AUDIT) ## Look the pinned packages up among known vulnerabilities
	@$(BIN)/python .ci/audit.py $(AUDIT)/bin/pip-audit constraints.txt .ci/audit_accepted.txt

constraints: $(DOCS_STAMP) ## Write the versions in .venv to constraints.txt
	@$(BIN)/python -m pip freeze --all --exclude-editable --exclude pip --exclude wheel > $(VENV)/freeze.txt
	@{ grep '^#' constraints.txt; sed -n -E 's/^([A-Za-z0-9._-]+==[^+ ]+).*/\1/p' $(VENV)/freeze.txt; } > $(VENV)/new.txt
	@mv $(VENV)/new.txt constraints.txt

clean: ## Remove caches and build outputs; keep .venv, runs and data
	rm -rf build dist site *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find benchmarks cluster meta metaray tasks tests -type d -name __pycache__ -prune -exec rm -rf {} +
