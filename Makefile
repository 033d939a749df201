# Needs Python 3.11 to 3.13, git and make; everything else comes into .venv.
# `make help` lists what there is to do.

.DEFAULT_GOAL := pipeline
MAKEFLAGS += --no-print-directory

# Another Python than the one found: make PYTHON=python3.12
PYTHON ?=
# More for the tool behind a target: make test ARGS='-k params', make lock ARGS=--upgrade
ARGS ?=

# make GPU=yes: TensorFlow with the code for NVIDIA GPUs (docs/devices.md)
GPU ?=

# Where the environment is; the pipeline's image has one of its own.
VENV ?= .venv

BIN := $(VENV)/bin
# For what needs no package, on machines that only build and deploy.
PLAIN_PYTHON = $(or $(PYTHON),$(wildcard $(BIN)/python),python3)
SETUP := sh requirements/setup.sh
# Runs Python with the packages of one lock, whatever .venv has: make calls it with its name.
isolated = $(BIN)/uv run --isolated --no-project --python $(BIN)/python \
	--with-requirements requirements/$(1).txt python
# Results that are committed and that a run of the pipeline makes anew.
RESULTS := dvc.lock docs/model_card.md metrics

export PYTHON
export VENV
export GPU
export PATH := $(abspath $(BIN)):$(PATH)
export DVC_NO_ANALYTICS := 1
export ITERATIVE_DO_NOT_TRACK := 1
export BENTOML_DO_NOT_TRACK := True
# Without bytecode TensorFlow takes three times as long to import.
unexport PYTHONDONTWRITEBYTECODE

# Columns of `make experiments` that seldom decide; those that do not differ are left out, too.
HIDDEN_COLUMNS := .*/|^(Created|State|Executor|accuracy_low|accuracy_high|log_loss|top3_accuracy|ece_uncalibrated|images_per_second|train\.loss|train\.accuracy|validation\..*|learning_rate|step|processor)$$

# The sweep of `make sweep`, the trial of `make sweep-promote` (none: the best), and how many experiments `make queue` runs side by side.
SWEEP = sweeps/signs.yaml
TRIAL =
JOBS = 1

##@ Run
.PHONY: pipeline data experiments queue sweep sweep-promote
.PHONY: benchmark benchmark-serving benchmark-soak benchmark-scale benchmark-sweep peers transfer results
.PHONY: ablation synthesis ood exports pretrained export wheel notebook

pipeline: setup  ## Run the whole pipeline and print its metrics (the default)
	@$(BIN)/dvc repro $(ARGS)
	@echo
	@$(BIN)/dvc metrics show metrics/evaluate/metrics.json metrics/timing.json
	@echo
	@echo "Pictures and tables: report.html"
	@changed=$$(git diff --name-only HEAD -- $(RESULTS) | sed 's|^metrics/.*|metrics/|' | uniq | \
		paste -sd, - | sed 's/,/, /g'); \
	[ -z "$$changed" ] || echo "This run made $$changed again, and git shows changes: times differ on" \
		"each run, and metrics on another kind of processor or after a change of code or settings."

data: setup  ## Fetch the real photos from their public sources
	@$(BIN)/signs download && $(BIN)/dvc commit --quiet --force data.dvc

experiments: setup  ## Compare the experiments run so far, best on validation photos first
	@$(BIN)/dvc exp show --only-changed --precision 4 --sort-by validation.loss \
		--drop '$(HIDDEN_COLUMNS)' $(ARGS)

queue: setup  ## Run what `dvc exp run --queue` queued, in the background (JOBS=2: side by side)
	@threads=$$(( ($$(getconf _NPROCESSORS_ONLN) + $(JOBS) - 1) / $(JOBS) )); \
	TF_NUM_INTRAOP_THREADS=$$threads TF_NUM_INTEROP_THREADS=$$threads OMP_NUM_THREADS=$$threads \
		OPENCV_FOR_THREADS_NUM=$$threads $(BIN)/dvc queue start --jobs $(JOBS) $(ARGS)

sweep: setup-ray  ## Search for better settings as SWEEP=sweeps/signs.yaml says (docs/sweeps.md)
	@$(BIN)/signs sweep $(SWEEP) $(ARGS)

sweep-promote: setup-ray  ## Commit the settings that won SWEEP, or those of TRIAL=3, if they pass the gate
	@$(BIN)/signs sweep $(SWEEP) --promote $(TRIAL) $(ARGS)

benchmark: setup  ## Measure the speed of the pipeline and of the classifier
	@$(BIN)/python -m benchmarks.speed $(ARGS)

benchmark-serving: setup-dev  ## Measure the service beside other ways to serve (needs wrk)
	@$(BIN)/python -m benchmarks.serving $(ARGS)

benchmark-soak: setup  ## Ask the service for 30 minutes: memory, errors, p99 (ARGS='--minutes 5')
	@$(BIN)/python -m benchmarks.soak $(ARGS)

benchmark-scale: setup-ray  ## Measure bulk work on Ray beside the same work without it
	@$(BIN)/python -m benchmarks.scale $(ARGS)

benchmark-sweep: setup-ray  ## Measure what a trial of a sweep takes beside its training
	@$(BIN)/python -m benchmarks.sweeps $(ARGS)

results: setup  ## Make the README's numbers again (long)
	@$(BIN)/python -m benchmarks.results $(ARGS)

peers: setup-dev  ## Compare with other people's classifiers, for docs/peers.md (an hour; BUDGET=3000: a trial)
	@$(BIN)/python -m benchmarks.peers $(if $(value BUDGET),--budget "$$BUDGET") $(ARGS)

ablation: setup  ## Compare settings on validation photos (long)
	@$(BIN)/python -m benchmarks.ablation $(ARGS)

synthesis: setup  ## Compare settings of the renderer on real photos, for docs/synthesis.md (long)
	@$(BIN)/python -m benchmarks.synthesis $(ARGS)

ood: setup  ## Compare scores that tell unknown signs from known ones, for docs/ood.md (minutes)
	@$(BIN)/python -m benchmarks.ood $(ARGS)

transfer: setup  ## Compare trainings on few photos with and without a pretrained start (long)
	@$(BIN)/python -m benchmarks.transfer $(ARGS)

exports: setup-dev  ## Compare the results' classifiers in all formats, for docs/exports.md
	@$(BIN)/python -m benchmarks.exports $(ARGS)

pretrained: setup  ## Make the released classifiers in pretrained/ from the results (ARGS=gtsrb: one)
	@$(BIN)/python -m benchmarks.pretrained $(ARGS)

export: setup-dev  ## Write the classifier in the formats of phones, boards and browsers (docs/exports.md)
	@$(BIN)/signs export $(ARGS)

wheel: setup-dev  ## Pack signs predict and the released classifiers for pip (build/wheel)
	@rm -rf build/wheel
	@$(BIN)/uv build --quiet --wheel --no-build-isolation --python $(BIN)/python \
		--out-dir build/wheel $(ARGS) . && ls build/wheel/*.whl

notebook: setup-dev  ## Execute the notebook again, after other results
	@$(BIN)/jupyter execute --inplace notebooks/*.ipynb

##@ Step by step, as Jenkinsfile does
.PHONY: pull synthesize preprocess train evaluate report verify diff gate push release promote

pull: setup  ## Fetch photos and results from the DVC remote, if one is set (DVC_CACHE=FOLDER: a shared cache)
	@$(if $(value DVC_CACHE),$(BIN)/dvc cache dir --quiet --local "$$DVC_CACHE")
	@if $(BIN)/dvc remote default >/dev/null 2>&1; \
	then $(BIN)/dvc pull --allow-missing $(ARGS); \
	else echo "No default DVC remote is set, so nothing is fetched (docs/remote.md)."; fi

synthesize:  ## Run the pipeline up to synthesize (DATASET=signs; FORCE=yes: only this stage, again)
preprocess:  ## Run the pipeline up to preprocess, with the same options
train:  ## Run the pipeline up to train, with the same options
evaluate:  ## Run the pipeline up to evaluate, with the same options
report:  ## Run the pipeline up to report, with the same options
synthesize preprocess train evaluate report: setup
	@$(BIN)/dvc $(if $(value DATASET),exp run --set-param "dataset=$$DATASET",repro) \
		$(if $(FORCE),--force --single-item) $@

verify: setup  ## Check that the committed results come out again, in a clean clone (ARGS=--made: of `make`)
	@$(BIN)/signs verify $(ARGS)

diff: setup  ## Compare metrics, settings and pictures with main's (ARGS='--base REVISION')
	@$(BIN)/signs diff $(ARGS)

gate: setup  ## Decide whether the classifier may be deployed (ARGS='--champion REVISION')
	@$(BIN)/signs gate $(ARGS)

push: setup  ## Send photos and results to the DVC remote, if one is set
	@if $(BIN)/dvc remote default >/dev/null 2>&1; \
	then $(BIN)/dvc push $(ARGS); \
	else echo "No default DVC remote is set, so nothing is sent (docs/remote.md)."; fi

release: setup  ## Give the committed classifier its next version, as a git tag (ARGS=--push)
	@git tag --points-at HEAD --list 'classifier@v*' | grep . || $(BIN)/gto register classifier $(ARGS)

# A deployment of the same version again is an event of its own, hence --force.
promote: setup  ## Record in a git tag that this version, or VERSION, is deployed (ARGS=--push)
	@$(BIN)/gto assign classifier --stage production --force \
		$(if $(value VERSION),--version "$${VERSION#classifier@}",HEAD) $(ARGS)

##@ Serve
.PHONY: serve bento containerize image prune smoke deploy rollback manifests sbom drift drift-image

# Where `make serve` listens; HOST=0.0.0.0 lets other machines in.
HOST = 127.0.0.1
PORT = 3000

serve: setup  ## Serve the trained classifier over HTTP (PORT=3001 HOST=0.0.0.0)
	@echo "Once it has started, the page is at http://$(HOST):$(PORT)"
	@$(BIN)/bentoml serve service:TrafficSigns --host $(HOST) --port $(PORT) $(ARGS)

bento: setup  ## Pack the service and the classifier as a bento, in build/
	@sh containers/pack.sh

containerize:  ## Build an image of the bento with docker, podman or buildah (ENGINE=podman)
	@sh containers/build.sh $(ARGS)

image: bento containerize  ## Pack a bento and build its image

prune:  ## Remove images of the service that are a day old and that no container uses (ENGINE=podman)
	@$(or $(ENGINE),docker) image prune --all --force --filter until=24h \
		--filter label=org.opencontainers.image.title=traffic-signs

smoke:  ## Check that the image names the photos of build/smoke (ARGS='--url ...')
	@$(PLAIN_PYTHON) -m deployment.smoke $(ARGS)

deploy:  ## Deploy the image on this machine, without losing a request
	@$(PLAIN_PYTHON) -m deployment.deploy $(ARGS) $(if $(value VERSION),--version "$$VERSION")

rollback:  ## Deploy the previous version again
	@$(PLAIN_PYTHON) -m deployment.deploy rollback

# ARGS='REGISTRY/traffic-signs:VERSION drift': with `make drift` each night
manifests:  ## Write build/kubernetes for `kubectl apply -k` (ARGS=REGISTRY/traffic-signs:VERSION)
	@sh deployment/manifests.sh $(ARGS)

sbom: setup  ## List what the image contains, as CycloneDX: build/sbom.cdx.json
	@$(BIN)/signs sbom

drift: setup  ## Compare a day of predictions with those of the validation photos
	@$(call isolated,drift) -m signs drift $(ARGS)

drift-image: bento  ## Build the image of the nightly drift report on Kubernetes
	@NAME=traffic-signs-drift sh containers/build.sh $(ARGS)

##@ Develop
.PHONY: test long-test network-test jenkins-test cluster-test lint format hooks lock vulnerabilities

# Two at a time, as many of them wait; -n 0 to debug one.
test: setup-dev  ## Run the tests
	@$(BIN)/python -m pytest -n 2 $(ARGS)

long-test: setup-dev  ## Run the tests of queues, sweeps and load that take minutes each
	@$(BIN)/python -m pytest -m long $(ARGS)

network-test: setup-dev  ## Run the tests that download packages
	@$(BIN)/python -m pytest -m network $(ARGS)

jenkins-test: setup-dev  ## Execute the Jenkinsfile: images, deployments, a quarter of an hour
	@$(BIN)/python -m pytest -m jenkins $(ARGS)

cluster-test: setup-dev  ## Test what runs on several hosts, on namespaces of this machine (as root)
	@$(BIN)/python -m pytest tests/cluster $(ARGS)

lint: setup-dev  ## Check style, types and the rules of who imports whom
	@status=0; \
	$(BIN)/ruff check || status=1; \
	$(BIN)/ruff format --check || status=1; \
	$(BIN)/mypy || status=1; \
	$(BIN)/lint-imports || status=1; \
	exit $$status

format: setup-dev  ## Put the code into the project's style
	@$(BIN)/ruff check --fix
	@$(BIN)/ruff format

hooks: setup-dev  ## Check every commit from now on (git hook)
	@$(BIN)/pre-commit install

lock:  ## Lock requirements/*.in again (ARGS=--upgrade for newer versions)
	@$(SETUP) uv
	@cd requirements && for name in uv pipeline service ray development gpu drift security peers; do \
		echo "Locking $$name.txt ..."; \
		../$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
			--no-emit-index-url --no-emit-find-links --custom-compile-command 'make lock' \
			--override overrides.in \
			--output-file $$name.txt $$name.in $(ARGS) || exit 1; \
	done

vulnerabilities: setup  ## Look for known vulnerabilities of the locked packages (ARGS='-s osv')
	@$(call isolated,security) -m signs vulnerabilities $(ARGS)

##@ Environment
.PHONY: setup setup-ray setup-dev clean distclean help

setup:  ## Build .venv for the pipeline
	@$(SETUP) pipeline

setup-ray:  ## Build .venv for the pipeline, and for sweeps and bulk work on Ray
	@$(SETUP) ray

setup-dev:  ## Build .venv for the pipeline, Ray, tests and checks
	@$(SETUP) development

clean:  ## Remove what tools and stopped trainings left; data, models and results stay
	@rm -rf .resume .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	@find . -path ./.venv -prune -o -path ./.dvc -prune -o -path ./data -prune -o \
		-name __pycache__ -type d -exec rm -rf {} +

distclean: clean  ## Remove .venv as well
	@rm -rf .venv

help:  ## Show this list
	@echo "Usage: make [target] [ARGS='...'] [PYTHON=python3.12]"
	@awk 'BEGIN { FS = ":.*## " } \
		/^##@ / { printf "\n%s\n", substr($$0, 5) } \
		/^[a-z-]+:.*## / { printf "  %-17s %s\n", $$1, $$2 }' Makefile
