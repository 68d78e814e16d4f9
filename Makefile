# Two commands do all set-up on a machine with Python 3.11 and nothing else: make demo, make test.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
WORKDIR ?= runs/demo
# Huge pages for the arrays of a step on CPUs: with small ones a fifth of its time goes into page
# faults.
export GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1

.PHONY: demo test lint clean

demo: $(VENV)/.installed
	$(VENV)/bin/python -m masm_jax.demo --config=configs/demo.py --workdir=$(WORKDIR)

test: $(VENV)/.installed-test
	$(VENV)/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

lint: $(VENV)/.installed-test
	$(VENV)/bin/ruff check . && $(VENV)/bin/ruff format --check . && $(VENV)/bin/mypy
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict --quiet

# Every package by the hashes of its files, where a lock knows the requirements as they are. Changed
# ones (a line for CUDA or TPU) are installed by their versions: see tests/docs/lock.py.
PIP := $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check
locked = sum=$$(sha256sum < requirements$(1).txt | cut -d' ' -f1) && test -n "$$sum" && \
  grep -q "$$sum  requirements$(1).txt" requirements$(2).lock

$(VENV)/.installed: requirements.txt requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	if $(call locked,,); then $(PIP) --require-hashes -r requirements.lock; \
	  else $(PIP) -r requirements.txt; fi
	touch $@

$(VENV)/.installed-test: $(VENV)/.installed requirements-test.txt requirements-test.lock
	if $(call locked,,-test) && $(call locked,-test,-test); \
	  then $(PIP) --require-hashes -r requirements-test.lock; \
	  else $(PIP) -r requirements-test.txt; fi
	# Not in the lock, see tests/docs/lock.py.
	$(PIP) "$$(grep '^torch==' requirements-test.txt)"
	# A reference for backbones; it asks for torchvision, of which they need nothing.
	$(PIP) --no-deps timm==1.0.31
	touch $@

clean:
	rm -rf $(VENV) runs
