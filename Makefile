# make demo: a venv, an install, and the main job on the small model in examples/; llama-cpp-python measures what comes
# out and is built from source (several minutes). Where it does not build, the demo goes without measuring.
# make test: what the tests need, llama-cpp-python too (built from source: several minutes), and all of them.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin

.PHONY: demo test check build clean

demo: $(VENV)/.installed
	PATH="$(CURDIR)/$(BIN):$$PATH" sh examples/demo.sh demo-output

test: $(VENV)/.tested
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest -n auto

# The extension in place, warnings as errors: for work on the kernels (then PYTHONPATH=. or an editable install).
build:
	cmake -S . -B build/dev -DGGUFTOOL_WERROR=ON -DPython_EXECUTABLE="$$(command -v $(PYTHON))"
	cmake --build build/dev --parallel $$(getconf _NPROCESSORS_ONLN)
	cp build/dev/_native.abi3.so gguftool/.native.new
	mv gguftool/.native.new gguftool/_native.abi3.so

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --upgrade pip

SOURCES := $(shell find gguftool native -name '*.py' -o -name '*.[ch]' -o -path '*/page/*') pyproject.toml CMakeLists.txt

$(VENV)/.installed: $(SOURCES) | $(BIN)/python
	$(BIN)/pip install -q '.[llama,report]' || $(BIN)/pip install -q '.[report]'
	touch $@

$(VENV)/.tested: $(SOURCES) | $(BIN)/python
	$(BIN)/pip install -q --config-settings=cmake.define.GGUFTOOL_WERROR=ON '.[llama,report,test]'
	touch $@ $(VENV)/.installed

clean:
	rm -rf build dist demo-output $(VENV)
