# Two commands matter: `make demo` and `make test`. Both make .venv and install the exact versions of requirements.lock.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Without compiling what may never be imported, an installation takes a third of the time.
INSTALL := $(BIN)/pip --disable-pip-version-check --quiet install --no-compile -c requirements.lock
TORCH := $(shell grep '^torch==' requirements.lock)

.PHONY: demo test quick torture lint types tests compiler browser slurm-packages slurm-up slurm-down parity bench peers lock clean

demo: $(VENV)/.installed
	@command -v "$${CXX:-g++}" >/dev/null || echo "No C++ compiler here: without native kernels training is slower (docs/kernels.md)"
	$(BIN)/lab submit demo --on local
	$(BIN)/lab compare demo
	@echo
	@echo "What to look at: the verdict at the end of each difference. A lower loss is better; an arm that is"
	@echo "equivalent to the baseline can do without the part that it removes."
	@echo "  $(BIN)/lab report demo        writes one page with curves, seeds and costs, to show to others"
	@echo "  $(BIN)/lab tensorboard demo   shows the runs in TensorBoard"
	@echo "Next: your own text (docs/your-data.md), your own question (docs/your-experiment.md)"

test: lint types tests

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed-dev
	$(BIN)/mypy components lab

tests: $(VENV)/.installed-dev compiler browser slurm-packages
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 3 --dist worksteal  # a thread a worker; one of them often waits for a cluster

# Without a Slurm, a browser, trained runs, documentation and whatever takes long: for a look while you work.
quick: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 3 --dist worksteal -m "not slow and not browser and not slurm and not trains" --ignore=tests/docs

# Long storms and long simulations, at full size: half an hour or more. `make test` has a small version of each.
torture: $(VENV)/.installed-dev slurm-packages
	OMP_NUM_THREADS=1 $(BIN)/pytest -m torture tests/torture

# Native kernels are built by g++, or by the compiler that CXX names. Where it can be installed for the tests it is;
# elsewhere tests of native kernels are skipped, saying so.
compiler:
	@if ! command -v "$${CXX:-g++}" >/dev/null; then \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && [ -z "$$CXX" ]; then \
			echo "Installing g++"; \
			apt-get update -qq && apt-get install -y -qq --no-install-recommends g++ >/dev/null; \
		else echo "No C++ compiler here: native kernels aren't used, and their tests will be skipped"; fi; fi

# The browser tests drive a real Chromium. Where it can be installed it is; elsewhere those tests are skipped, saying so.
browser:
	@if ! command -v chromium >/dev/null || ! command -v chromedriver >/dev/null; then \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
			echo "Installing chromium and chromium-driver"; \
			apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium chromium-driver >/dev/null; \
		else echo "No chromium and chromedriver here: the browser tests will be skipped"; fi; fi

# The launcher's tests run on a real Slurm, which they start for themselves: its daemons, accounting included, on loopback.
# As root on Debian or Ubuntu the packages are installed; where there are none those tests are skipped, saying so.
slurm-packages: $(VENV)/.installed-dev
	@$(BIN)/python -m tests.slurm.cluster install || echo "The tests on a real Slurm will be skipped"

# The same cluster to play with: four nodes of eight cores on this machine.
slurm-up: slurm-packages
	$(BIN)/python -m tests.slurm.cluster up

slurm-down: $(VENV)/.installed-dev
	$(BIN)/python -m tests.slurm.cluster down

# torch first: what depends on it must find it there, not choose another build.
$(VENV)/.torch: requirements.lock
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(INSTALL) $(TORCH)
	@touch $@

$(VENV)/.installed: requirements.lock pyproject.toml | $(VENV)/.torch
	@if [ -e $(VENV)/.installed-dev ] && [ $(VENV)/.installed-dev -nt requirements.lock ] \
		&& [ $(VENV)/.installed-dev -nt pyproject.toml ]; then :; else $(INSTALL) -e .; fi
	@touch $@

$(VENV)/.installed-dev: requirements.lock pyproject.toml | $(VENV)/.torch
	$(INSTALL) -e '.[dev]'
	@touch $@

# The decoder beside the transformers library's implementations, seventeen architectures; writes docs/parity.md.
parity: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.interop.parity

# Every benchmark in turn; each keeps its result beside itself and says where something that it needs isn't here. On a
# machine that does nothing else: an hour or so.
BENCHMARKS := train_throughput window_growth loss_memory fused_pieces decoding attention_kernels gpu_training scale \
	comparing small_runs slurm
bench: $(VENV)/.installed-dev slurm-packages peers
	@failed=; for name in $(BENCHMARKS); do \
		printf '\n== benchmarks/%s.py\n' $$name; \
		if [ $$name = slurm ] && ! command -v slurmctld >/dev/null; then echo "No Slurm here: not measured"; continue; fi; \
		$(BIN)/python benchmarks/$$name.py || failed="$$failed $$name"; done; \
	if [ -n "$$failed" ]; then printf '\nbeyond their bars, or failed:%s\n' "$$failed"; exit 1; fi

# What train_throughput.py measures beside the lab: an environment of its own, since its packages want others than the
# lab's, with the lab's torch.
PEERS := build/peers
PEERS_INSTALL := $(PEERS)/bin/pip --disable-pip-version-check --quiet install --no-compile -c benchmarks/peers.txt
peers: $(PEERS)/.installed

$(PEERS)/.installed: requirements.lock benchmarks/peers.txt
	@echo "Installing benchmarks/peers.txt into $(PEERS)"
	@rm -rf $(PEERS) && $(PYTHON) -m venv $(PEERS) && $(PEERS_INSTALL) $(TORCH) \
		&& $(PEERS_INSTALL) -r benchmarks/peers.txt && touch $@ \
		|| { rm -rf $(PEERS); echo "The peers can't be installed here: train_throughput.py will measure the lab alone"; }

# Exact versions of everything in a fresh environment, written back to the lock.
lock:
	rm -rf build/lock && $(PYTHON) -m venv build/lock
	build/lock/bin/pip install --quiet $(TORCH)
	build/lock/bin/pip install --quiet -e '.[dev]'
	build/lock/bin/pip freeze --exclude-editable | sed 's/+cpu$$//' > requirements.lock

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .pytest_cache .ruff_cache
