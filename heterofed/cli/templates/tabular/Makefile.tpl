# All parties on this machine, each in a process of its own: as they would run on two machines.
PYTHON ?= python

.PHONY: run clean

run: data
	$(PYTHON) collaborator.py & other=$$!; \
	$(PYTHON) host.py; host=$$?; \
	wait $$other; exit $$((host | $$?))

data: make_data.py
	$(PYTHON) make_data.py

clean:
	rm -rf data heterofed_runs
