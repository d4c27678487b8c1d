# make demo: set up and run the main job.  make test: set up and pass the tests.  make smoke: every
# method on the bundled models.  make lint: style and types.  make reliability: kills, damaged
# checkpoints and full disks.  make gpu: runs on a GPU, or a pretended one.  test-latest, test-lowest:
# the same tests with the newest and the oldest versions that pyproject.toml allows.  make pin: rewrite
# constraints.txt with the versions of test-latest.  make docs: the documentation as a site, in site/,
# from an environment of its own.
PYTHON ?= python3
VENV ?= .venv
CONSTRAINTS ?= constraints.txt
SMOKE ?= method= 'regularizer= task='
BIN = $(VENV)/bin
PIP = $(BIN)/python -m pip --disable-pip-version-check

.PHONY: demo test test-all gpu reliability test-latest test-lowest pin smoke lint docs clean

$(VENV)/installed: pyproject.toml $(CONSTRAINTS)
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet $(addprefix --constraint ,$(CONSTRAINTS)) -e '.[dev]'
	touch $@

demo: $(VENV)/installed
	$(BIN)/adaptkit train method=lora task=sst2
	@echo "next: $(BIN)/adaptkit train method=lora task=ud_ewt; $(BIN)/adaptkit list methods"

test: $(VENV)/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto

test-all: $(VENV)/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto -m "not reliability and not gpu"

reliability: $(VENV)/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m reliability

gpu: $(VENV)/installed
	PRETEND_GPU=$$($(BIN)/python -c 'import torch; print("" if torch.cuda.is_available() else 1)') \
	  OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m gpu

test-latest:
	$(MAKE) test VENV=.venv-latest CONSTRAINTS=

test-lowest:
	$(MAKE) test VENV=.venv-lowest CONSTRAINTS=constraints-lowest.txt

pin:
	{ sed '/^[^#]/d' constraints.txt; .venv-latest/bin/python -m pip freeze --exclude-editable \
	  | sed 's/+[a-z0-9]*$$//'; } > .constraints.tmp && mv .constraints.tmp constraints.txt

smoke: $(VENV)/installed  # in two processes, one thread each
	printf '%s\n' $(SMOKE) | OMP_NUM_THREADS=1 xargs -P 2 -L 1 $(BIN)/adaptkit smoke

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: .venv-docs/installed
	.venv-docs/bin/mkdocs build --strict
	@echo "next: open site/index.html, or .venv-docs/bin/python -m http.server -d site"

.venv-docs/installed: pyproject.toml $(CONSTRAINTS)
	$(PYTHON) -m venv .venv-docs
	.venv-docs/bin/python -m pip --disable-pip-version-check install --quiet \
	  $(addprefix --constraint ,$(CONSTRAINTS)) -e '.[docs]'
	touch $@

clean:
	rm -rf $(VENV) .venv-latest .venv-lowest .venv-docs build dist site docs/reference *.egg-info
