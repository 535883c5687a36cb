# All parties on this machine, each in a process of its own: as they would run on three machines.
PYTHON ?= python

.PHONY: run clean

run: data
	$(PYTHON) collaborator.py shop & shop=$$!; \
	$(PYTHON) collaborator.py club & club=$$!; \
	$(PYTHON) host.py; host=$$?; \
	wait $$shop; host=$$((host | $$?)); \
	wait $$club; exit $$((host | $$?))

data: make_data.py
	$(PYTHON) make_data.py

clean:
	rm -rf data heterofed_runs
