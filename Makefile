# The interface to everything. `make demo` and `make test` make their environment themselves; a second call re-uses it.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help demo test check bench learn study learn-detection evidence evidence-layers docs clean
.DEFAULT_GOAL := help

help:
	@echo "make demo              the main job on 5,000 digits, or DATA=folder on your images; page in demo-run/"
	@echo "make test              the tests"
	@echo "make check             lint, format, types, layers, documentation"
	@echo "make bench             our speed beside plain references; figures in docs/results/"
	@echo "make learn DATA=…      every method on one budget beside random weights; half an hour to an hour; table in docs/results/"
	@echo "make study DATA=…      the suggestions of vitlet analyse beside fine-tuning; after make learn, about 30 minutes"
	@echo "make learn-detection DATA=…  a small detector learns 8 annotated images by heart; 10 to 20 minutes; docs/results/"
	@echo "make evidence DATA=…   label curve and kept blocks; one to two hours; docs/results/"
	@echo "make evidence-layers DATA=…  which layers to distil; about 90 minutes; docs/results/"
	@echo "make docs              the documentation on http://127.0.0.1:8000"
	@echo "PYTHON=python3.12 with any of them makes the environment with that interpreter"

demo: $(VENV)/.demo
	@$(BIN)/vitlet demo $(if $(DATA),--data "$(DATA)") --out "$(or $(OUT),demo-run)"

test: $(VENV)/.dev
	@PYTHONDONTWRITEBYTECODE= $(BIN)/pytest --numprocesses auto --dist loadfile $(ARGS)

check: $(VENV)/.dev
	@$(BIN)/ruff check src tests
	@$(BIN)/ruff format --check src tests
	@$(BIN)/pyright
	@$(BIN)/lint-imports --no-logo
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "lint, format, types, layers, documentation: all well"

bench: $(VENV)/.dev
	@for what in step input features probe attention analyse detection export; do $(BIN)/vitlet bench $$what --json docs/results/bench-$$what.json || exit; done

learn: $(VENV)/.dev
	@test -n "$(DATA)" || { echo "error: no data. Fix: make learn DATA=folder of labelled images near 32 pixels"; exit 2; }
	@$(BIN)/vitlet learn --data "$(DATA)" --out "$(or $(OUT),learn-run)" --json docs/results/learning.json $(ARGS)

study: $(VENV)/.dev
	@test -n "$(DATA)" || { echo "error: no data. Fix: make study DATA=folder of labelled images near 32 pixels"; exit 2; }
	@cd "$(or $(LEARNED),learn-run)" && "$(CURDIR)/$(BIN)/vitlet" study mae_micro simmim_micro mocov3_micro dmae_micro \
		--data "$(abspath $(DATA))" --out study --json "$(CURDIR)/docs/results/study.json" $(ARGS)

learn-detection: $(VENV)/.dev
	@test -n "$(DATA)" || { echo "error: no data. Fix: make learn-detection DATA=folder with annotations in COCO's format"; exit 2; }
	@$(BIN)/vitlet overfit --data "$(DATA)" --out "$(or $(OUT),learn-detection-run)" --json docs/results/detection-overfit.json $(ARGS)

# Every command is the one that a user would give; finished runs in OUT are used again. VIEWS and TUNED are image views of
# pre-training and of each fine-tuning, FRACTIONS label shares, SEEDS repetitions: small values try the chain in minutes.
EVIDENCE := $(or $(OUT),evidence-run)
VIEWS ?= 128000
TUNED ?= 12800
FRACTIONS ?= 0.01,0.1,1
LABELS ?= 1000
SEEDS ?= 3
views = 'budget.duration={"unit":"images","n":$(1)}'

evidence: $(VENV)/.dev
	@test -n "$(DATA)" || { echo "error: no data. Fix: make evidence DATA=folder of labelled images near 32 pixels"; exit 2; }
	@$(BIN)/vitlet pretrain mae_micro --data "$(DATA)" --out "$(EVIDENCE)/mae" --set $(call views,$(VIEWS))
	@$(BIN)/vitlet finetune finetune_micro --init none --data "$(DATA)" --out "$(EVIDENCE)/supervised" --set $(call views,$(VIEWS))
	@$(BIN)/vitlet compare "$(EVIDENCE)/mae" --supervised "$(EVIDENCE)/supervised" --data "$(DATA)" --out "$(EVIDENCE)/compare" \
		--label-fractions $(FRACTIONS) --seeds $(SEEDS) --set $(call views,$(TUNED))
	@$(BIN)/vitlet sweep keep-blocks "$(EVIDENCE)/mae" --data "$(DATA)" --out "$(EVIDENCE)/blocks" \
		--num-labels $(LABELS) --seeds $(SEEDS) --set $(call views,$(TUNED))
	@for what in compare blocks; do cp "$(EVIDENCE)/$$what/curves.json" "$(or $(RESULTS),docs/results)/$$what.json" || exit; done

# Figure 7: one distillation for each list of layers, from one teacher.
LAYERS ?= [[4,4]];[[3,3]];[[2,2]];[[1,1]];[[1,1],[2,2],[3,3],[4,4]]

evidence-layers: $(VENV)/.dev
	@test -n "$(DATA)" || { echo "error: no data. Fix: make evidence-layers DATA=folder of labelled images near 32 pixels"; exit 2; }
	@$(BIN)/vitlet pretrain mae_micro_wide --data "$(DATA)" --out "$(EVIDENCE)/teacher" \
		--set $(call views,$(shell expr 3 '*' $(VIEWS)))
	@$(BIN)/vitlet sweep distill-layers dmae_micro --data "$(DATA)" --teacher "$(EVIDENCE)/teacher" --out "$(EVIDENCE)/layers" \
		--layers '$(LAYERS)' --num-labels $(LABELS) --seeds $(SEEDS) --set $(call views,$(VIEWS)) --finetune-set $(call views,$(TUNED))
	@cp "$(EVIDENCE)/layers/curves.json" "$(or $(RESULTS),docs/results)/layers.json"

docs: $(VENV)/.dev
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve

clean:
	rm -rf $(VENV) site .pytest_cache .ruff_cache .hypothesis .import_linter_cache

# One stamp an extra, renewed when pyproject.toml changes. The larger environment serves for the smaller.

$(VENV)/.demo: pyproject.toml | $(BIN)/python
	@if [ "$(VENV)/.dev" -nt pyproject.toml ]; then touch $@; else $(call install,demo) && touch $@; fi

$(VENV)/.dev: pyproject.toml | $(BIN)/python
	@$(call install,dev) && touch $@ $(VENV)/.demo

install = echo "Installing vitlet[$(1)] into $(VENV)/ (minutes; PyTorch is large)" \
	&& $(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$(1)]'

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "error: vitlet needs Python 3.11 or newer. Fix: make PYTHON=python3.12 …"; exit 2; }
	@$(PYTHON) -m venv $(VENV) \
		|| { rm -rf $(VENV); echo "error: no venv module. Fix: apt-get install python3-venv, or the like"; exit 2; }
