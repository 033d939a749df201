# Needs Python 3.11 to 3.13, git and make; everything else comes into .venv.
# `make help` lists what there is to do.

.DEFAULT_GOAL := pipeline
MAKEFLAGS += --no-print-directory

# Another Python than the one found: make PYTHON=python3.12
PYTHON ?=
# More for the tool behind a target: make test ARGS='-k params', make lock ARGS=--upgrade
ARGS ?=

# Where the environment is; the pipeline's image has one of its own.
VENV ?= .venv

BIN := $(VENV)/bin
# For what needs no package, on machines that only build and deploy.
PLAIN_PYTHON = $(or $(PYTHON),$(wildcard $(BIN)/python),python3)
SETUP := sh requirements/setup.sh

export PYTHON
export VENV
export PATH := $(abspath $(BIN)):$(PATH)
export DVC_NO_ANALYTICS := 1
export ITERATIVE_DO_NOT_TRACK := 1
export BENTOML_DO_NOT_TRACK := True
# Without bytecode TensorFlow takes three times as long to import.
unexport PYTHONDONTWRITEBYTECODE

# Columns of `make experiments` that seldom decide; those that do not differ are left out, too.
HIDDEN_COLUMNS := .*/|^(Created|State|Executor|accuracy_low|accuracy_high|log_loss|top3_accuracy|ece_uncalibrated|images_per_second|train\.loss|train\.accuracy|validation\..*|learning_rate|step|processor)$$

# The sweep of `make sweep`; trials side by side in DVC's queue.
SWEEP = sweeps/signs.yaml
JOBS = 1

##@ Run
.PHONY: pipeline data experiments queue sweep sweep-promote
.PHONY: benchmark benchmark-serving benchmark-scale results trials notebook

pipeline: setup  ## Run the whole pipeline and print its metrics (the default)
	@$(BIN)/dvc repro $(ARGS)
	@echo
	@$(BIN)/dvc metrics show metrics/evaluate/metrics.json metrics/timing.json
	@echo
	@echo "Pictures and tables: report.html"

data: setup  ## Fetch the real photos from their public sources
	@$(BIN)/python -m signs.operations.download $(ARGS) && $(BIN)/dvc commit --quiet --force data.dvc

experiments: setup  ## Compare the experiments run so far, best on validation photos first
	@$(BIN)/dvc exp show --only-changed --precision 4 --sort-by best.validation_loss \
		--drop '$(HIDDEN_COLUMNS)' $(ARGS)

queue: setup  ## Run what `dvc exp run --queue` queued, in the background (JOBS=2: side by side)
	@threads=$$(( ($$(getconf _NPROCESSORS_ONLN) + $(JOBS) - 1) / $(JOBS) )); \
	TF_NUM_INTRAOP_THREADS=$$threads TF_NUM_INTEROP_THREADS=$$threads OMP_NUM_THREADS=$$threads \
		OPENCV_FOR_THREADS_NUM=$$threads $(BIN)/dvc queue start --jobs $(JOBS) $(ARGS)

sweep: setup  ## Search for better settings as SWEEP=sweeps/signs.yaml says (ARGS='--workers 2')
	@$(BIN)/python -m signs.scale.sweep $(SWEEP) $(ARGS)

sweep-promote: setup  ## Commit the settings that won SWEEP, if the gate lets them pass
	@$(BIN)/python -m signs.scale.sweep $(SWEEP) --promote $(ARGS)

benchmark: setup  ## Measure the speed of the pipeline and of the classifier
	@$(BIN)/python -m benchmarks.speed $(ARGS)

benchmark-serving: setup-dev  ## Measure the service beside other ways to serve (needs wrk)
	@$(BIN)/python -m benchmarks.serving $(ARGS)

benchmark-scale: setup-ray  ## Measure bulk work on Ray beside one machine's own way
	@$(BIN)/python -m benchmarks.scale $(ARGS)

results: setup  ## Make the README's numbers again (long)
	@$(BIN)/python -m benchmarks.results $(ARGS)

trials: setup  ## Compare settings on validation photos (long)
	@$(BIN)/python -m benchmarks.trials $(ARGS)

notebook: setup-dev  ## Execute the notebook anew, after other results
	@$(BIN)/jupyter execute --inplace notebooks/*.ipynb

##@ Step by step, as Jenkinsfile does
.PHONY: pull synthesize preprocess train evaluate verify changes gate push release promote

pull: setup  ## Fetch photos and results from the DVC remote, if one is set
	@if $(BIN)/dvc remote default >/dev/null 2>&1; \
	then $(BIN)/dvc pull --allow-missing $(ARGS); \
	else echo "No default DVC remote is set, so nothing is fetched (docs/remote.md)."; fi

synthesize:  ## This stage and what it needs (DATASET=signs; FORCE=yes: it alone, again)
preprocess:  ## Likewise
train:  ## Likewise
evaluate:  ## Likewise
synthesize preprocess train evaluate: setup
	@$(BIN)/dvc $(if $(DATASET),exp run --set-param dataset=$(DATASET),repro) \
		$(if $(FORCE),--force --single-item) $@

verify: setup  ## Do the committed results come out again, in a clean clone?
	@$(BIN)/python -m signs.operations.reproduce

changes: setup  ## Metrics, settings and pictures beside main's (ARGS='--base REVISION')
	@$(BIN)/python -m signs.operations.diff $(ARGS)

gate: setup  ## Whether the classifier may replace the deployed one (ARGS='--champion REVISION')
	@$(BIN)/python -m signs.operations.gate $(ARGS)

push: setup  ## Send photos and results to the DVC remote, if one is set
	@if $(BIN)/dvc remote default >/dev/null 2>&1; \
	then $(BIN)/dvc push $(ARGS); \
	else echo "No default DVC remote is set, so nothing is sent (docs/remote.md)."; fi

release: setup  ## Give the committed classifier its next version, a git tag (ARGS=--push)
	@git tag --points-at HEAD --list 'classifier@v*' | grep . || $(BIN)/gto register classifier $(ARGS)

# A deployment of the same version again is an event of its own, hence --force.
promote: setup  ## Note in a git tag that this version, or VERSION, is in production (ARGS=--push)
	@$(BIN)/gto assign classifier --stage production --force \
		$(if $(VERSION),--version $(VERSION:classifier@%=%),HEAD) $(ARGS)

##@ Serve
.PHONY: serve bento containerize image smoke deploy rollback manifests sbom drift

# Where `make serve` listens; HOST=0.0.0.0 for other machines, too.
HOST = 127.0.0.1
PORT = 3000

serve: setup  ## Answer over HTTP with the trained classifier (PORT=3001 HOST=0.0.0.0)
	@echo "Once it has started, the page is at http://$(HOST):$(PORT)/demo"
	@$(BIN)/bentoml serve service:TrafficSigns --host $(HOST) --port $(PORT) $(ARGS)

bento: setup  ## Pack the service and the classifier as a bento, in build/
	@sh containers/pack.sh

containerize:  ## Build an image of that bento with docker, podman or buildah (ENGINE=podman)
	@sh containers/build.sh $(ARGS)

image: bento containerize  ## Both

smoke:  ## Run the image: does it name the photos of build/smoke right? (ARGS='--url ...')
	@$(PLAIN_PYTHON) -m deployment.smoke $(ARGS)

deploy:  ## Bring the image into service on this machine, without losing a request
	@$(PLAIN_PYTHON) -m deployment.deploy $(ARGS) $(if $(VERSION),--version $(VERSION))

rollback:  ## Go back to what was in service before
	@$(PLAIN_PYTHON) -m deployment.deploy rollback

manifests: setup  ## Write build/kubernetes.yaml (ARGS='--image REGISTRY/traffic-signs:VERSION')
	@$(BIN)/python -m deployment.kubernetes $(ARGS)

sbom: setup  ## List what that image holds, as CycloneDX: build/sbom.cdx.json
	@$(BIN)/python -m signs.operations.sbom

drift: setup  ## Compare a day of the service's answers with the validation photos
	@$(BIN)/uv run --isolated --no-project --python $(BIN)/python \
		--with-requirements requirements/drift.txt python -m signs.serving.drift $(ARGS)

##@ Develop
.PHONY: test jenkins-test cluster-test lint format hooks lock audit

# Two at a time, as many of them wait; -n 0 to debug one.
test: setup-dev  ## Run the tests
	@$(BIN)/python -m pytest -n 2 $(ARGS)

jenkins-test: setup-dev  ## Execute the Jenkinsfile: images, deployments, a quarter of an hour
	@$(BIN)/python -m pytest -m jenkins $(ARGS)

cluster-test: setup-dev  ## Test what runs on several hosts, on namespaces of this machine (as root)
	@$(BIN)/python -m pytest tests/cluster $(ARGS)

lint: setup-dev  ## Check style and types
	@status=0; \
	$(BIN)/ruff check || status=1; \
	$(BIN)/ruff format --check || status=1; \
	$(BIN)/mypy || status=1; \
	exit $$status

format: setup-dev  ## Put the code into the project's style
	@$(BIN)/ruff check --fix
	@$(BIN)/ruff format

hooks: setup-dev  ## Check every commit from now on (git hook)
	@$(BIN)/pre-commit install

lock:  ## Lock requirements/*.in anew (ARGS=--upgrade for newer versions)
	@$(SETUP) uv
	@cd requirements && for name in uv pipeline service ray development drift security; do \
		echo "Locking $$name.txt ..."; \
		../$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
			--no-emit-index-url --no-emit-find-links --custom-compile-command 'make lock' \
			--output-file $$name.txt $$name.in $(ARGS) || exit 1; \
	done

audit: setup  ## Ask whether a locked package has a known vulnerability
	@$(BIN)/uv run --isolated --no-project --python $(BIN)/python \
		--with-requirements requirements/audit.txt python -m signs.operations.vulnerabilities $(ARGS)

##@ Environment
.PHONY: setup setup-ray setup-dev clean distclean help

setup:  ## Build .venv for the pipeline
	@$(SETUP) pipeline

setup-ray:  ## Build .venv for bulk work, too: the pipeline's packages and Ray (docs/scale.md)
	@$(SETUP) ray

setup-dev:  ## Build .venv for development: these, tests and checks
	@$(SETUP) development

clean:  ## Remove what the tools and killed trainings left; data, models and results stay
	@rm -rf .resume .mypy_cache .pytest_cache .ruff_cache .hypothesis
	@find . -path ./.venv -prune -o -path ./.dvc -prune -o -path ./data -prune -o \
		-name __pycache__ -type d -exec rm -rf {} +

distclean: clean  ## Remove .venv as well
	@rm -rf .venv

help:  ## Show this list
	@echo "Usage: make [target] [ARGS='...'] [PYTHON=python3.12]"
	@awk 'BEGIN { FS = ":.*## " } \
		/^##@ / { printf "\n%s\n", substr($$0, 5) } \
		/^[a-z-]+:.*## / { printf "  %-17s %s\n", $$1, $$2 }' Makefile
