# Development targets. PYTHON is the interpreter to build and test for.
PYTHON ?= python3
CMAKE ?= cmake

.PHONY: build
build: ## the C extension, in place
	$(CMAKE) -S . -B build -DGGUFTOOL_DEV=ON -DPython_EXECUTABLE="$$(command -v $(PYTHON))" >/dev/null
	$(CMAKE) --build build --parallel
	cp build/_native.abi3.so gguftool/_native.abi3.so.new
	mv gguftool/_native.abi3.so.new gguftool/_native.abi3.so
