# make demo | test | check | test-mxnet | test-gpu | bench | bench-gpu | lock | dist
PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup demo-data demo test check lint test-mxnet test-gpu bench bench-gpu lock dist clean
setup: .venv/ready

.venv/ready: requirements.txt pyproject.toml setup.py
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

demo-data: setup
	$(BIN)/python tools/make_synthetic.py data/demo --identities 200 --images 12 --first-identity 100000
	$(BIN)/python tools/make_synthetic.py data/demo_test --identities 120 --images 8 --first-identity 200000 --pairs 600

demo: demo-data
	$(BIN)/torchrun --nproc-per-node 2 tools/train.py configs/demo.py
	$(BIN)/python tools/export_onnx.py runs/demo
	@echo
	@echo "report       runs/demo/report/report.html"
	@echo "model        runs/demo/model/adapter.safetensors, runs/demo/onnx/demo.onnx"
	@echo "TensorBoard  $(BIN)/tensorboard --logdir runs"

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

check: lint
	$(BIN)/python -m pytest -m "not slow and not gpu"

# two processes of one thread: two of two threads take each other's cores; in the order of tests/conftest.py, not by
# the number of tests; what is compiled once is kept, for the many processes that tests start
test: lint
	PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not gpu" -n 2 --dist loadfile \
		--no-loadscope-reorder --durations 20

test-mxnet: setup
	$(BIN)/python tests/mxnet/run.py

test-gpu: setup
	$(BIN)/python -m pytest -m gpu

# every benchmark of docs/performance.md, a file each; what is there is not measured again
bench: setup
	$(BIN)/python tools/benchmark.py suite --output bench/cpu --device cpu

bench-gpu: setup
	$(BIN)/python tools/benchmark.py suite --output bench/gpu --device cuda

# hashed locks of what the project needs at run time, at the versions of requirements.txt
lock:
	$(PYTHON) -m venv .venv-lock
	.venv-lock/bin/python -m pip install --quiet --disable-pip-version-check uv==0.13.9
	.venv-lock/bin/python locks/lock.py
	rm -rf .venv-lock

# sdist and wheel, in dist/
dist: setup
	$(BIN)/python -m build --no-isolation .

clean:
	rm -rf dist .venv .venv-lock .venv-mxnet .pytest_cache .ruff_cache build *.egg-info
