# make demo   build .venv, make phantoms, train, evaluate, infer; results in runs/demo
# make test   the tests, in the same environment, by JOBS processes at once (2; 1 = one after another); COVERAGE=1 measures line
#             coverage, COVERAGE_MIN=95 requires that much
# make test-wheel   builds the wheel, installs it outside the checkout and segments a phantom
# make images   the pictures of docs/images that phantoms and the shipped weights determine
# make label STUDIES=DIR   MONAI Label's server with this bundle, for 3D Slicer; make test-label tests it: docs/slicer.md
PYTHON ?= python3
VENV := .venv
PY := $(CURDIR)/$(VENV)/bin/python
LABEL := .venv-label
OLDEST := .venv-oldest
PORT ?= 8000
JOBS ?= 2
DEMO := runs/demo
DEMO_CASES ?= 32
MERGED_TRAIN := ['bundle/configs/train.yaml', 'bundle/configs/demo.yaml']
MERGED_EVALUATE := ['bundle/configs/train.yaml', 'bundle/configs/demo.yaml', 'bundle/configs/evaluate.yaml']
MERGED_INFERENCE := ['bundle/configs/inference.yaml', 'bundle/configs/demo.yaml']
DEMO_PATHS := --dataset_dir $(DEMO)/data --ckpt_dir $(DEMO) --output_dir $(DEMO)

# Keep freed memory in the process: training allocates the same large buffers in every step (glibc; ignored elsewhere).
export MALLOC_MMAP_MAX_ ?= 0
export MALLOC_TRIM_THRESHOLD_ ?= 17179869184
export MPLBACKEND ?= Agg

.PHONY: demo test test-slow test-wheel test-oldest test-label label images lint format clean

# --no-compile: byte code of the few modules that are used appears at their first import; of all of them it takes pip minutes.
$(VENV)/.base: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --disable-pip-version-check -q --progress-bar on --no-compile -c constraints.txt .
	@touch $@

$(VENV)/.dev: $(VENV)/.base
	$(PY) -m pip install --disable-pip-version-check -q --progress-bar on --no-compile -c constraints.txt -e ".[export,openvino,dicom-seg,search,tracking,test,lint]" onnxruntime \
		"dcmqi; sys_platform == 'linux' and platform_machine == 'x86_64'"
	@touch $@

demo: $(VENV)/.base
	@echo "1/4 phantoms with simulated fractures"
	cd bundle && $(PY) -m scripts.data phantom --out ../$(DEMO)/data --cases $(DEMO_CASES) --seed 100 \
		--regions "['thoracolumbar','lumbar']" --grades "[2,3]" --spacing "[3,2,2]"
	@echo "2/4 training"
	$(PY) -W ignore -m monai.bundle run training --config_file "$(MERGED_TRAIN)" $(DEMO_PATHS) \
		$(if $(wildcard $(DEMO)/finished.json),--resume False)
	@echo "3/4 evaluation on the test split"
	$(PY) -W ignore -m monai.bundle run evaluating --config_file "$(MERGED_EVALUATE)" $(DEMO_PATHS)
	@echo "4/4 inference on a test scan"
	scan=$$($(PY) -c "import json; d = json.load(open('$(DEMO)/data/datalist.json')); print('$(DEMO)/data/' + d['testing'][0]['image'])"); \
	$(PY) -W ignore -m monai.bundle run inference --config_file "$(MERGED_INFERENCE)" --input $$scan --output $(DEMO)/inference --overwrite True \
		--checkpoint $(DEMO)/model.pt
	@echo; cat $(DEMO)/summary.md
	@echo; echo "training curve  $(DEMO)/training_curve.png"
	@echo "metrics         $(DEMO)/report.html, $(DEMO)/summary.md, $(DEMO)/cases.csv"
	@echo "overlays        $(DEMO)/overlays/"
	@echo "inference       $(DEMO)/inference/report.html"

# By file, so that fixtures of a module are made once, and long files first (tests/conftest.py). A crash of a process ends the
# run, which names the test, as without processes: restarted ones would run the same test again.
PARALLEL = $(if $(filter-out 1,$(JOBS)),-n $(JOBS) --dist loadfile --no-loadscope-reorder --max-worker-restart 0)

test: $(VENV)/.dev
	$(PY) -m pytest $(PARALLEL) $(if $(COVERAGE),--cov --cov-report=term:skip-covered $(if $(COVERAGE_MIN),--cov-fail-under=$(COVERAGE_MIN))) 2>&1

test-slow: $(VENV)/.dev
	$(PY) -m pytest -m slow

# Outside the checkout, so that the checkout cannot stand in for the wheel.
test-wheel: $(VENV)/.dev
	rm -rf runs/wheel && mkdir -p runs
	$(PY) -m build --outdir runs/wheel/dist . > runs/wheel.log 2>&1 || { cat runs/wheel.log; exit 1; }
	folder=$$(mktemp -d) && trap 'rm -rf '$$folder EXIT && $(PYTHON) -m venv $$folder/venv && mkdir $$folder/empty \
		&& $$folder/venv/bin/python -m pip install --disable-pip-version-check -q --no-cache-dir --no-compile -c constraints.txt runs/wheel/dist/*.whl \
		&& cd $$folder/empty && $$folder/venv/bin/python $(CURDIR)/tests/installed_package.py

# The oldest versions that pyproject.toml allows, with those tests that touch every part.
$(OLDEST)/.done: pyproject.toml constraints-oldest.txt
	$(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/python -m pip install --disable-pip-version-check -q --progress-bar on --no-compile -c constraints-oldest.txt ".[test,search]"
	@touch $@

test-oldest: $(OLDEST)/.done
	$(OLDEST)/bin/python -m pytest -o filterwarnings=default tests/test_workflows.py tests/networks/test_msffnet.py tests/data/test_transforms.py tests/simulation/phantom \
		tests/evaluation tests/experiments/test_search.py tests/experiments/test_search_space.py tests/experiments/test_search_workers.py \
		tests/inference/test_case.py tests/io/test_working_grid.py tests/training/test_checkpoint.py tests/training/test_resume.py

# MONAI Label needs other versions (pydicom 2), so it has an environment of its own.
$(LABEL)/.done: constraints-label.txt
	$(PYTHON) -m venv $(LABEL)
	$(LABEL)/bin/python -m pip install --disable-pip-version-check -q --progress-bar on --no-compile --no-deps -r constraints-label.txt
	@touch $@

label: $(LABEL)/.done
	@test -n "$(STUDIES)" || { echo "make label STUDIES=DIR: must be a folder of CT scans (.nii.gz, .nii, .nrrd, .mha)"; exit 1; }
	full() { case "$$1" in /*) echo "$$1";; *) echo "$(CURDIR)/$$1";; esac; }; \
	studies="$$(full "$(STUDIES)")"; weights="$(WEIGHTS)"; [ -z "$$weights" ] || weights="$$(full "$$weights")"; \
	config="$(CONFIG)"; [ ! -f "$$config" ] || config="$$(full "$$config")"; \
	cd bundle && exec "$(CURDIR)/$(LABEL)/bin/python" -W ignore -m scripts.label serve --studies "$$studies" --app "$(CURDIR)/runs/label" \
		--port $(PORT) $${weights:+--weights "$$weights"} $${config:+--config "$$config"} $(if $(filter-out 0 no false False,$(FRESH)),--fresh)

test-label: $(VENV)/.dev $(LABEL)/.done
	LABEL_PYTHON=$(CURDIR)/$(LABEL)/bin/python $(PY) -m pytest -o filterwarnings=default -m "slow or not slow" -rs tests/label

images: $(VENV)/.dev
	$(PY) -W ignore docs/make_images.py $(PARTS)

lint: $(VENV)/.dev
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

format: $(VENV)/.dev
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

clean:
	rm -rf runs .pytest_cache .mypy_cache .ruff_cache
