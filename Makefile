# The two commands of README are `make demo` and `make test`. `make check` is everything that must hold before a commit.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test check lint sanitize format docs picture bubblewrap clean

demo: .venv/demo bubblewrap
	$(BIN)/codegen-chat run sessions/first.txt
	@echo
	@echo "Next: $(BIN)/codegen-chat"

test: .venv/dev bubblewrap
	$(BIN)/python -m pytest --numprocesses 3 --dist loadgroup

check: lint test

lint: .venv/dev
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python docs/generate.py --check

# The native step under the compiler's sanitizers: memory and undefined behaviour, then races.
sanitize:
	@mkdir -p build
	for kind in address,undefined thread; do \
		$(CXX) -std=c++17 -O1 -g -fsanitize=$$kind -fno-sanitize-recover=all -Wno-psabi -Wno-subobject-linkage -pthread \
			native/check.cpp -o build/check && build/check || exit 1; \
	done

format: .venv/dev
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

docs: .venv/dev
	$(BIN)/python docs/generate.py

picture: .venv/dev
	$(BIN)/python docs/picture.py

$(BIN)/python:
	$(PYTHON) -m venv .venv

.venv/demo: pyproject.toml setup.py native/step.cpp native/kernels.h | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

.venv/dev: pyproject.toml setup.py native/step.cpp native/kernels.h | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	@touch $@ .venv/demo

# The sandbox's outer wall. Without it the inner wall alone holds, or, where that cannot hold, nothing is executed: `codegen-chat doctor` says which.
bubblewrap:
	@if command -v bwrap >/dev/null; then :; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		echo "Installing bubblewrap (apt-get): the outer wall of the sandbox."; \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends bubblewrap >/dev/null; \
	else echo "bubblewrap is not installed; 'apt install bubblewrap' makes the sandbox's outer wall."; fi

clean:
	rm -rf .venv build src/codegen_chat/lm/_native*.so .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis src/codegen_chat.egg-info
