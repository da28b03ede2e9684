# Each target calls the tool a person would call. `.venv` is made once from requirements.lock, and
# again when the lock or pyproject.toml changes. Another interpreter: make PYTHON=python3.12 demo
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin
APP := app/explorer.ipynb
READY := $(VENV)/.ready
INSTALL := $(RUN)/python -m pip --disable-pip-version-check install

# What a user sets is taken as it is: $(value ...) and the shell read it, so that make never runs a
# `$(shell ...)` inside a path. Kernels start in notebooks/, where a relative path would mean another
# place; the library knows ~.
absolute = $(if $(filter /% ~%,$(firstword $(value $1))),,$(CURDIR)/)$(value $1)
$(foreach name,LULC_EUROSAT LULC_CHECKPOINTS LULC_CACHE,\
  $(if $(value $(name)),$(eval override export $(name) := $$(call absolute,$(name)))))
$(foreach name,PYTHON PORT ONLY,\
  $(if $(value $(name)),$(eval override export $(name) := $$(value $(name)))))

.PHONY: help demo lab app test quick lint notebooks bench
help:  ## say what there is
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 18

demo: $(READY)  ## classify tiles and draw what two models look at, into outputs/demo/
	$(RUN)/lulc demo

lab: $(READY)  ## open JupyterLab at the first notebook
	$(RUN)/jupyter lab notebooks/00_start_here.ipynb

app: $(READY)  ## serve the explorer as a page for a class, on localhost (PORT=8866)
	$(RUN)/voila $(APP) --Voila.config_file_paths=app --no-browser --Voila.ip=127.0.0.1 \
	  --port="$${PORT:-8866}"

test: lint  ## lint, unit tests, browser tests and all notebooks under nbval, on up to four cores
	$(RUN)/python -m pytest -n auto

quick: lint  ## lint, and the tests that take no notebook, browser or training
	$(RUN)/python -m pytest -n auto -m "not (slow or notebook or browser or training)"

lint: $(READY)  ## check style and layout of code and notebooks
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .

notebooks: $(READY)  ## run all notebooks on EuroSAT and keep their outputs (only some: ONLY="02 03")
	$(RUN)/python tests/run_notebooks.py $$ONLY

bench: $(READY)  ## measure every claim of speed
	@missed=0; for script in benchmarks/*.py; do \
	  echo "$$script"; $(RUN)/python "$$script" || missed=1; done; exit $$missed

$(READY): requirements.lock pyproject.toml
	@$$PYTHON -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "make: '$$PYTHON' is not Python 3.11 or newer. Install one, then name it if need be:"; \
	  echo "  apt install python3 python3-venv          # Debian 12+, Ubuntu 24.04+"; \
	  echo "  make PYTHON=python3.12 $(or $(MAKECMDGOALS),demo)"; exit 1; } >&2
	@$$PYTHON -c 'import venv, ensurepip' 2>/dev/null || { \
	  echo "make: '$$PYTHON' has no venv module. On Debian and Ubuntu it is a package of its own:"; \
	  $$PYTHON -c 'import sys; print("  apt install python3-venv   # or python%d.%d-venv" % sys.version_info[:2])'; \
	  exit 1; } >&2
	@echo "Installing into $(VENV): about 7 GB, a few minutes."
	@$(RUN)/python -m pip --version >/dev/null 2>&1 || $$PYTHON -m venv --clear $(VENV)
	@$(INSTALL) -r requirements.lock && \
	  $(INSTALL) --quiet --no-deps --no-build-isolation -e . || { \
	  echo "make: the packages could not be installed. Is there a network, and 7 GB of free disk?"; \
	  echo "  Run the same command again; what was fetched is kept."; exit 1; } >&2
	@touch $@
