# `make run` sets everything up and serves http://localhost:8080; `make test` sets up and runs the tests.
# Both need Python 3.11 or newer and nothing else; once set up, `make run` starts without a network.
PYTHON ?= python3
VENV ?= .venv
# What pip installs as PyTorch for the tests. A build without CUDA is enough, and smaller by gigabytes:
# TORCH=torch==2.13.0+cpu where pip's index has it. It goes first, so that nothing else draws in another one.
TORCH ?= torch==2.13.0
ARGS ?=
# Tests that only compute. They take what the others leave of the cores, which wait or are in real time: they run beside
# them and give way to them.
COMPUTE := tests/core tests/qwen3_omni tests/test_cli.py tests/test_client_parts.py tests/test_config.py \
	tests/test_session.py tests/test_session_machine.py tests/test_truncation.py tests/test_dejitter.py tests/test_frames.py \
	tests/test_g711.py tests/test_tempo.py tests/test_end_of_turn.py \
	tests/test_models_store.py tests/test_local_context.py tests/test_dashscope.py tests/test_dashscope_told.py \
	tests/test_bench_duplex.py tests/test_echo.py tests/test_turn_detection.py tests/test_tool_grammar.py \
	tests/test_local_ears.py tests/test_docs.py tests/test_plot_engine.py tests/test_reply_queue.py \
	tests/test_strict_events.py tests/test_turn_grammar.py tests/test_bench_continuity.py tests/test_local_spotting.py \
	tests/test_witness.py tests/test_bench_crowd.py tests/test_address.py
GIVING_WAY := $(if $(shell command -v chrt),chrt --idle 0,nice -n 19)
# Tests of a server or a worker, a file in one process, three at a time: they wait much.
SERVERS := tests/server tests/clients tests/test_channel.py tests/test_local_engine.py tests/test_local_eyes.py \
	tests/test_local_hearing.py tests/test_local_priorities.py tests/test_local_start.py tests/test_local_text.py \
	tests/test_local_voice.py tests/test_matrix.py tests/test_models_fetch.py tests/test_models_offline.py \
	tests/test_talk.py tests/test_wire_audio.py tests/test_worker.py tests/test_worker_local.py \
	tests/test_worker_lost.py tests/test_image_buffer.py tests/test_out_of_band.py tests/test_session_settings.py
PROCESSES := tests/qwen3_omni/test_server.py tests/qwen3_omni/test_step_in_flight.py
# Dialogues in real time with clients that tests/clients/install has made environments for, where OMNI_RT_CLIENTS names
# their folder. They leave half of the machine to what else is in real time, browsers and calls.
DIALOGUES := $(if $(OMNI_RT_CLIENTS),tests/clients/test_environments.py tests/clients/test_agents_realtime.py)
# What is in none of these has browsers and sound in real time. Talking with the default models through the page wants
# the machine for itself.
ALONE := tests/browser/test_talk.py tests/browser/test_overlaps.py tests/browser/test_turns.py
LIVE := $(filter-out $(COMPUTE) $(SERVERS),$(patsubst %/,%,$(sort $(dir $(wildcard tests/*/test_*.py)))) \
	$(wildcard tests/test_*.py))
BIN := $(VENV)/bin
COMPUTING = $(BIN)/python -m pytest -n 2 --dist worksteal --timeout 1200 $(COMPUTE) $(addprefix --ignore=,$(PROCESSES))
WAITING = $(BIN)/python -m pytest -n 3 --dist loadfile $(PROCESSES) $(SERVERS) $(addprefix --ignore=,$(DIALOGUES))
TALKING = $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(DIALOGUES) $(LIVE) \
	$(addprefix --ignore=,$(ALONE))
PIP := PYTHONWARNINGS=ignore $(BIN)/python -m pip --disable-pip-version-check

.NOTPARALLEL:
.PHONY: run test models check setup clean

run: $(VENV)/.base
	$(BIN)/omni-rt serve $(ARGS)

ifeq ($(ARGS),)
test: models
	mkdir -p build
	OMP_NUM_THREADS=1 $(GIVING_WAY) $(COMPUTING) >build/compute.log 2>&1 & computing=$$!; \
	trap 'kill $$computing 2>/dev/null' EXIT; \
	$(WAITING) && $(TALKING) && $(BIN)/python -m pytest $(ALONE) && { wait $$computing; made=$$?; } || made=$$?; \
	cat build/compute.log; exit $$made
else
test: models
	$(BIN)/python -m pytest $(ARGS)
endif

models: $(VENV)/.dev
	$(BIN)/omni-rt doctor --fetch --all

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

setup: $(VENV)/.base

clean:
	rm -rf $(VENV)

$(VENV)/.base: pyproject.toml | $(VENV)/.python
	$(PIP) install --quiet --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.base
	$(PIP) install --quiet '$(TORCH)'
	$(PIP) install --quiet --editable '.[dev,qwen]'
	@touch $@

# Debian's python3 comes without ensurepip; a pip outside the environment can take its place.
$(VENV)/.python:
	@$(PYTHON) -c '' || { echo "omni-rt needs Python 3.11 or newer, and there is no '$(PYTHON)'. Name another: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and "omni-rt needs Python 3.11 or newer; this is %d.%d. Name another: make PYTHON=python3.12" % v[:2])'
	@rm -rf $(VENV)
	@if $(PYTHON) -c 'import ensurepip, venv' 2>/dev/null; then $(PYTHON) -m venv $(VENV); \
	elif $(PYTHON) -c 'import venv' 2>/dev/null && $(PYTHON) -m pip --version >/dev/null 2>&1; then \
		$(PYTHON) -m venv --without-pip $(VENV) && $(PYTHON) -m pip --python $(BIN)/python install --quiet pip; \
	else echo "this Python cannot make an environment: it lacks ensurepip (on Debian and Ubuntu: apt install python3-venv)" >&2; exit 1; fi
	@echo "installing into $(VENV); the first time takes a few minutes"
	$(PIP) install --quiet --upgrade pip
	@touch $@
