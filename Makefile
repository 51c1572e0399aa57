# make run                      set up and run the whole modular chain on the drawn sample
# make test                     set up and run the tests
# make bench                    the benchmarks that need no GPU
# make run PYTHON=python3.8     any of them on the paper's stack

PYTHON ?= python3
VENV ?= .venv-$(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
RUN = $(VENV)/bin/python
SETTINGS ?= Settings/Quickstart
STEPS = Download_Data ETL check_rep ResNet34_Train LHC_Train Controller_Train LHC_Eval \
	Controller_Eval Shipped_Eval

.PHONY: run test lint bench clean

# check_rep's exit code 1 says that this machine's bits differ from those in the table: no failure.
# Any other step, or code, ends the run.
run: $(VENV)/installed
	@set -e; for step in $(STEPS); do \
		echo "== $$step.py --settings $(SETTINGS)"; \
		$(RUN) $$step.py --settings $(SETTINGS) || { code=$$?; [ $$step,$$code = check_rep,1 ] || exit $$code; }; \
	done

# A process that has run its half takes tests from the other: a file's tests, which share their
# set-up, mostly stay together.
test: lint
	$(RUN) -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal

lint: $(VENV)/installed
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

bench: $(VENV)/installed
	$(RUN) benchmarks/generator_speed.py
	$(RUN) benchmarks/etl_speed.py
	$(RUN) benchmarks/tta_speed.py

$(VENV)/installed: requirements.txt requirements-dev.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; \
		sys.exit(None if v == (3, 8) or (3, 11) <= v <= (3, 13) else "error: $(PYTHON) is Python " \
		"%d.%d, expected 3.11 to 3.13, or 3.8; name another: make PYTHON=python3.11 ..." % v)'
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@

clean:
	rm -rf .venv-* .pytest_cache .ruff_cache Quickstart
