# make demo: set up and run the main job.  make test: set up and pass the tests.  make smoke: every
# method on the bundled models.  make lint: style.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

.PHONY: demo test test-all smoke lint clean

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

demo: $(VENV)/installed
	$(BIN)/adaptkit train method=lora task=sst2 data.train_rows=2000 optimizer.lr=5e-3 trainer.epochs=6
	@echo "next: $(BIN)/adaptkit train method=full task=mrpc; $(BIN)/adaptkit list methods"

test: $(VENV)/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto

test-all: $(VENV)/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto -m "slow or not slow"

smoke: $(VENV)/installed
	OMP_NUM_THREADS=1 $(BIN)/adaptkit smoke

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

clean:
	rm -rf $(VENV) build dist *.egg-info
