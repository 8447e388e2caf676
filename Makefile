# Names for people; the work is in .ci/ and in the programs.
.PHONY: run test check audit bench chaos man clean

# The main job on the embedded store. make run ARGS=--kill-a-child
run:
	@.ci/prepare embedded
	@.venv/bin/python -m ffsuper.demo $(ARGS)

# Everything that decides whether a change is good. Installs redis-server where it is missing.
test:
	@.ci/prepare dev
	@.ci/check

# The quick part of it: format, lint and types.
check:
	@.ci/prepare dev
	@.ci/check static

# Known vulnerabilities in what is installed, by PyPI's database; exit code 1 of .ci/audit is some, 3 is no database.
audit:
	@.ci/prepare dev
	@.ci/audit

# Beside other job workers: make bench ARGS=--quick
bench:
	@.ci/prepare dev
	@.venv/bin/python -m bench.peers $(ARGS)
	@.venv/bin/python -m bench.lua
	@.venv/bin/python -m bench.worker
	@.venv/bin/python -m bench.engine
	@.venv/bin/python -m bench.server

# Faults of all kinds on workers and their store. make chaos ARGS="--seconds 600 --seed 7"
chaos:
	@.ci/prepare dev
	@.venv/bin/python -m tests.chaos $(ARGS)

# The man page, from the help of the subcommands: build/man/ffsuper.1.
man:
	@.ci/prepare dev
	@.venv/bin/python -m ffsuper.commands.man_page build/man/ffsuper.1

clean:
	rm -rf build .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis
