# make quickstart    install Pet into .venv, train and evaluate the built-in experiment (CPU, minutes)
# make test          the whole suite; also: lint, types, docs, clean
# make cluster       train under a real Slurm and Open MPI on this machine; installs them with apt (Debian, as root)
# make faults        break runs as often as docs/reliability.md promises, and print the figures (about an hour)

PYTHON ?= python3
VENV ?= .venv
PY := $(VENV)/bin/python
QUICKSTART := vision/shapes/faster_rcnn_quickstart
# Worker processes of pytest; tests that start several processes share them.
JOBS ?= 2

.DEFAULT_GOAL := help
.PHONY: help quickstart test cluster faults lint types docs clean

help:
	@sed -n 's/^# //p' Makefile | head -4

# The stamps keep a second call from asking the package index again.
$(VENV)/.installed: setup.py
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check -e .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed setup.py
	$(PY) -m pip install --quiet --disable-pip-version-check -e ".[dev,docs,video,export,notebook]"
	@touch $@

quickstart: $(VENV)/.installed
	$(PY) tools/train_net_all.py --cfg cfgs/$(QUICKSTART).yaml TRAIN.AUTO_RESUME False
	@$(PY) tools/summary.py ckpts/$(QUICKSTART)
	@echo "Next:"
	@echo "  $(PY) tools/test_net_all.py --cfg cfgs/$(QUICKSTART).yaml        test the trained model"
	@echo "  $(PY) tools/train_net_all.py --cfg cfgs/$(QUICKSTART).yaml --nproc 2 --work-dir ckpts/two     train on two processes"
	@echo "  $(PY) -m tensorboard.main --logdir ckpts        curves in the browser"
	@echo "  make test        run the test suite"

test: $(VENV)/.installed-dev
	$(PY) -m pytest -n $(JOBS)

faults: $(VENV)/.installed-dev
	$(PY) -m tests.faults

cluster: $(VENV)/.installed-dev
	$(PY) -m tests.cluster.slurm install
	$(PY) -m pytest -m cluster tests/cluster

lint: $(VENV)/.installed-dev
	$(PY) -m ruff check .

types: $(VENV)/.installed-dev
	$(PY) -m mypy

docs: $(VENV)/.installed-dev
	$(PY) -m sphinx -W --keep-going -q -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

clean:
	rm -rf $(VENV) build dist pet.egg-info docs/_build .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -not -path "./$(VENV)/*" -prune -exec rm -rf {} +
