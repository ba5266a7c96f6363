# Two commands: `make run` and `make test`. `make` alone prints what there is.

VENV ?= .venv
PYTHON ?= $(firstword $(foreach p,python3.11 python3,$(shell command -v $(p))) python3)
CH ?= ch*
FULL ?=

# With VENV= (empty) PYTHON itself runs everything: an environment of your own.
PY := $(if $(VENV),$(VENV)/bin/python,$(PYTHON))
READY := $(if $(VENV),$(VENV)/.ready)
MODE := $(if $(filter-out 0,$(FULL)),full,small)
OUT := build/$(MODE)
# In the small mode no cell takes a minute; one that does hangs.
LIMIT := $(if $(filter small,$(MODE)),--execution-timeout 120)
SPHINX := $(PY) -m sphinx -q -j auto -c site
# What takes long begins first, so that no core is idle at the end.
SLOW := $(filter $(wildcard $(CH)/[0-9]*.ipynb),$(file < tests/slow.txt))
NOTEBOOKS := $(strip $(SLOW) \
  $(filter-out $(SLOW),$(sort $(wildcard $(CH)/[0-9]*.ipynb))))
TOTAL := $(words $(NOTEBOOKS))
JOBS ?= $(shell nproc 2>/dev/null | awk '{print $$1 < 2 ? 1 : 2}')

# The subsets of data/ and the scripts beside the notebooks.
INPUTS := $(if $(filter small,$(MODE)),$(wildcard data/*.* data/*_small))

export SMOKE_TEST := $(if $(filter small,$(MODE)),1,0)
# Notebooks side by side share a GPU.
export TF_FORCE_GPU_ALLOW_GROWTH := true
export TF_CPP_MIN_LOG_LEVEL := 3

.PHONY: help run notebooks site test mutants gpu-check lint lab data save setup clean
.DELETE_ON_ERROR:

help:
	@echo 'make run      run every notebook on small data, show them in build/site/index.html'
	@echo '              CH=ch04_cnn  one chapter     FULL=1  the full data and settings'
	@echo '              JOBS=4  at a time            (what is up to date is not run again)'
	@echo 'make site     the same site over the saved outputs, without running anything'
	@echo 'make test     test everything on small data     make lint   check the style'
	@echo 'make mutants  plant mistakes in the notebooks: each must be noticed (CH=, JOBS=)'
	@echo 'make gpu-check  one training step of each framework on the GPU'
	@echo 'make lab      JupyterLab'
	@echo 'make data     download the full data sets (ARGS=--list shows them)'
	@echo 'make save     NB=path.ipynb  run it in full mode and save its outputs in place'
	@echo 'make setup    only the set-up of .venv, which the others do when it is due'
	@echo 'make clean    remove build/'
	@echo
	@echo 'An environment of your own: make run PYTHON=python VENV='

setup: $(READY)

ifneq ($(VENV),)
# Written last, so that a set-up that was interrupted starts anew.
$(VENV)/.ready: requirements.txt constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || \
	  { echo 'Python 3.11, 3.12 or 3.13 is needed: make PYTHON=/path/to/python3.11' >&2; \
	    exit 1; }
	@echo 'Setting up $(VENV): about 10 GB, some minutes'
	$(PYTHON) -m venv --clear $(VENV)
	$(VENV)/bin/pip install --disable-pip-version-check -r requirements.txt
	@touch $@
endif

run: $(READY)
	$(if $(NOTEBOOKS),,$(error CH=$(CH) is no chapter: there are $(wildcard ch[0-9]*)))
	@$(MAKE) --no-print-directory -k $(if $(findstring jobserver,$(MAKEFLAGS)),,-j$(JOBS)) \
	  notebooks; status=$$?; \
	  $(SPHINX) -d $(OUT)/doctrees -D results=$(OUT) . build/site && \
	  echo 'open build/site/index.html' && exit $$status

# A broken link or reference fails it.
site: $(READY)
	@$(SPHINX) -W --keep-going -d build/doctrees . build/site
	@echo 'open build/site/index.html'

notebooks: $(NOTEBOOKS:%.ipynb=$(OUT)/%.ok)
	@:

# papermill keeps the outputs up to an error, so that a failed notebook can be read too.
# Only success leaves the .ok behind, so what failed runs again.
$(OUT)/%.ok: %.ipynb $(READY) $(INPUTS)
	@mkdir -p $(@D)
	@rm -f $@ $(@:.ok=.ipynb); name=$*; \
	at="[$$(echo $(NOTEBOOKS) | tr ' ' '\n' | grep -nx $< | cut -d: -f1)/$(TOTAL)]"; \
	echo "$$at $$name ..."; start=$$(date +%s); \
	$(PY) -m papermill $< $(OUT)/$$name.ipynb --cwd $(<D) --kernel python3 \
	  --no-progress-bar --log-level ERROR $(LIMIT) 2> $(OUT)/$$name.log; status=$$?; \
	seconds=$$(($$(date +%s) - start)); \
	if [ $$status = 0 ]; then touch $@; echo "$$at $$name passed, $$seconds s"; \
	else echo "$$at $$name FAILED, $$seconds s:" \
	  "$$(grep -v '^ *$$' $(OUT)/$$name.log | tail -n 1)"; exit 1; fi

test: $(READY)
	$(PY) -m pytest

mutants: $(READY)
	$(PY) tests/mutants.py --jobs $(JOBS) '$(CH)'

gpu-check: $(READY)
	@$(PY) tests/gpu_check.py

lint: $(READY)
	$(PY) -m ruff check
	$(PY) -m ruff format --check

lab: $(READY)
	$(PY) -m jupyterlab

data: $(READY)
	$(PY) data/download.py $(ARGS)

# The outputs replace the notebook only if all of it ran. Bars that have gone leave an
# empty widget behind; those outputs are dropped.
save: $(READY)
	$(if $(NB),,$(error name the notebook: make save NB=ch01_ml_overview/04_k_means.ipynb))
	SMOKE_TEST=0 $(PY) .ci/save.py $(NB)

clean:
	rm -rf build
