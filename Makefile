# `make minute` shows that it works, `make reproduce` measures, `make test` checks. Each sets up .venv on its own.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

.PHONY: minute reproduce test coverage lab site browser setup export

setup: $(READY)

$(READY): settings.ini setup.py pyproject.toml
	@echo '== setting up $(VENV) (the package with its development extra; a few minutes, once)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --progress-bar on -e '.[dev]'
	$(BIN)/python -m pip check
	$(BIN)/python -m ipykernel install --prefix $(VENV) --name python3 --display-name 'Python 3 (mcl)' > /dev/null
	touch $@

minute: $(READY)
	@echo '== the story in a minute: one tiny world, six methods, a table and pictures in runs/tiny/figures'
	$(BIN)/mcl reproduce --preset tiny

reproduce: $(READY)
	@echo '== the main job: the desk worlds, six methods, the table and the figures'
	$(BIN)/mcl reproduce --preset desk

test: $(READY)
	@echo '== style'
	$(BIN)/ruff check
	@echo '== types of the public names'
	$(BIN)/mypy
	@echo '== exported code, notebooks and README in step?'
	$(BIN)/python tools/check.py
	@echo '== every notebook, top to bottom'
	PATH="$(CURDIR)/$(BIN):$$PATH" OMP_NUM_THREADS=1 $(BIN)/nbdev_test --n_workers 2 --timing --do_print
	@echo '== pytest'
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 tests

coverage: $(READY)
	@echo '== which branches of the code the tests reach; fills a section of CONTRIBUTING.md'
	OMP_NUM_THREADS=1 $(BIN)/python tools/branches.py

lab: $(READY)
	$(BIN)/jupyter lab nbs/index.ipynb

site: $(READY)
	$(BIN)/python tools/site.py

browser: $(READY)
	@echo '== the site and the notebooks in Chromium; screenshots in _screenshots'
	PATH="$(CURDIR)/$(BIN):$$PATH" OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -rs -m browser tests/test_browser.py

export: $(READY)
	$(BIN)/nbdev_export
	$(BIN)/python tools/openings.py
	$(BIN)/python tools/check.py --write-readme
