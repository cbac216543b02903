# Everything sets itself up; `make help` lists the targets.
DATASET ?= marketplace
SEEDS ?= 3
NIGHTS ?= 60
EVENTS ?= 5
CANARIES ?= 2000
YEARS ?= 24
SECONDS ?= 40
FAULTS ?= 200
SERVER ?= torchserve
JOBS ?= 3
BUDGET ?= fast
OVERLAY ?= production
ROWS ?= sasrec,sasrec_plain,sasrec_own,sasrec_features,hstu,heterrec
SIZES ?= 100000,1000000
# Options of the console beside `serve` and `demo`, such as "--port 8600".
CONSOLE ?=
# Read where they are set: what they are for stands beside the targets.
SHOP ?=
BACK ?=
GRID ?=
PLUGINS ?=
MODULE ?=
TESTS ?=
PYTHON := .venv/bin/python
export PYTHONPATH := $(CURDIR)
export GX_ANALYTICS_ENABLED := false
export MLFLOW_DISABLE_TELEMETRY := true
export DO_NOT_TRACK := 1
export FEAST_USAGE := False
# Every step is a process of its own: without cached bytecode each would compile its libraries again.
unexport PYTHONDONTWRITEBYTECODE

# Every target is a command, none a file.
.PHONY: $(shell sed -n 's/^\([a-z-]*\):.*/\1/p' Makefile)

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-19s %s\n", $$1, $$2}'

setup:  ## make .venv from requirements.lock (done by every target that needs it)
	@scripts/setup.sh

run: setup  ## data to served recommendation on this machine; DATASET=marketplace|online_retail|amazon_beauty|path.yaml
	@$(PYTHON) -m pipelines run --dataset $(DATASET)
	@$(PYTHON) -m pipelines ask --dataset $(DATASET)

test: setup  ## all tests, over the real libraries and a real TorchServe; a file's tests stay together, JOBS=3 files at once
	@$(PYTHON) -m pytest tests --numprocesses $(JOBS) --dist loadfile --no-loadscope-reorder

demo: export HETERREC_HOME := $(CURDIR)/var/demo
demo: setup  ## from nothing to canaries that decide for themselves: promoted, rolled back, out of traffic; under 10 minutes
	@$(PYTHON) -m scripts.with_console $(CONSOLE) -- -m benchmarks.serving.demo

serve: setup  ## TorchServe with the champion (and challenger), a curl line to try, and the console; ends with Ctrl-C
	@$(PYTHON) -m scripts.with_console $(CONSOLE) -- -m serving up --dataset $(DATASET)

console: setup  ## the workspace in a browser: what serves, runs, canaries, data, shoppers, items; ends with Ctrl-C
	@$(PYTHON) -m console

screenshots: setup  ## docs/images from the workspace as it is now (needs chromium); HETERREC_HOME=var/demo
	@$(PYTHON) -m scripts.screenshots

compile: setup  ## write build/training.yaml for a Kubeflow cluster
	@$(PYTHON) -m pipelines compile

check: setup  ## ruff, strict types, import directions, documentation: what CI checks
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/mypy
	@.venv/bin/lint-imports --no-cache
	@$(PYTHON) -m sphinx -q -W --keep-going -b html docs build/docs

newcomer: setup  ## the tutorial's commands in a fresh clone, on a shop made on the spot, until the console shows it; told by seconds
	@$(PYTHON) -m scripts.newcomer

docs: setup  ## the documentation as a site in build/docs; links are checked
	@$(PYTHON) -m sphinx -q -W --keep-going -b html docs build/docs
	@echo "build/docs/index.html"

format: setup  ## rewrite the sources in the one format
	@.venv/bin/ruff check --fix .
	@.venv/bin/ruff format .

lock:  ## resolve requirements.lock anew from pyproject.toml
	@test -x .venv/bin/uv || scripts/setup.sh
	@.venv/bin/uv pip compile --quiet pyproject.toml --group train --group serve --group gateway --group spark --group dev \
		--generate-hashes --python-version 3.11 --no-emit-package torch --output-file requirements.lock
	@# What torch brings for GPUs comes with torch, where it wants it.
	@awk '/^[a-z]/ { gpu = /^(cuda-|nvidia-|triton)/ } !gpu' requirements.lock > requirements.lock.partial
	@mv requirements.lock.partial requirements.lock

lock-platforms: setup  ## resolve the images' groups from the lock for amd64 and arm64, wheels alone; installs nothing
	@for platform in x86_64-manylinux_2_28 aarch64-manylinux_2_28; do for groups in train "serve gateway"; do \
		echo "$$platform: $$groups"; \
		.venv/bin/uv pip install --quiet --dry-run --target build/none --python-version 3.11 --python-platform $$platform \
			--only-binary :all: --no-binary kfp-server-api --constraints requirements.lock $$(printf -- '--group %s ' $$groups) \
			|| exit 1; done; done
	@# kfp-server-api is Python alone, and published as source alone.

soak: export HETERREC_HOME := $(CURDIR)/var/soak
soak: setup  ## ten minutes under load while parts are swapped, killed and restarted (needs redis-server); SERVER=torchserve|plain
	@$(PYTHON) -m benchmarks.serving.soak --server $(SERVER)

wheel: setup  ## the library alone (heterrec: torch, numpy, pyarrow) as build/heterrec-VERSION-py3-none-any.whl
	@$(PYTHON) scripts/wheel.py

chart: setup  ## a Helm chart in build/chart, from the overlay OVERLAY=production (or profile, local, gpu)
	@$(PYTHON) -m scripts.chart build/chart $(OVERLAY)

images:  ## the images of k8s/images by docker, podman or buildah, and what each is made of; TORCH=cuda REGISTRY=... TAG=... PLATFORM=linux/arm64
	@scripts/images.sh

bench-features: setup  ## the feature store: ingest, gate, join against a bare ASOF join, materialise, reads; SIZES=100000,1000000
	@$(PYTHON) -m benchmarks.features.store --events $(SIZES)

bench-histories: setup  ## one stored history of 1, 20 and 200 events: bytes, and time to encode and to decode, beside Arrow's
	@$(PYTHON) -m benchmarks.features.histories

bench-staleness: setup  ## what serves has seen the last days, or not: regret by the shop's own law; SHOP=users=1200,days=40,…
	@OMP_WAIT_POLICY=PASSIVE $(PYTHON) -m benchmarks.model.staleness $(if $(SHOP),--shop $(SHOP))

bench-features-pay: setup  ## HeterRec against item-ID-only on the marketplace and its placebo; SEEDS=3
	@OMP_WAIT_POLICY=PASSIVE $(PYTHON) -m benchmarks.model.features_pay --seeds $(SEEDS)

bench-typed-events: setup  ## views, carts and dismissals against purchases alone, for predicting purchases; SEEDS=3
	@OMP_WAIT_POLICY=PASSIVE $(PYTHON) -m benchmarks.model.typed_events_pay --seeds $(SEEDS)

bench-buy-again: setup  ## what orders a shopper's own purchases best, on Online Retail; BACK=28 for the days before the last 28
	@$(PYTHON) -m benchmarks.model.buy_again --back $(or $(BACK),0)

bench-placements: setup  ## what each placement costs the scorer beside a recommendation
	@$(PYTHON) -m benchmarks.serving.placements

bench-user-features: setup  ## what a table of users tells against nothing of them, where it says something and where not; SEEDS=3
	@OMP_WAIT_POLICY=PASSIVE $(PYTHON) -m benchmarks.model.asking_pay --seeds $(SEEDS)

bench-context: setup  ## what the device of a visit tells against nothing of it, where it says something and where not; SEEDS=3
	@OMP_WAIT_POLICY=PASSIVE $(PYTHON) -m benchmarks.model.asking_pay --of context --seeds $(SEEDS)

bench-quality: setup  ## models on one data set; DATASET=amazon_beauty SEEDS=3 BUDGET=fast|full ROWS=sasrec,heterrec|all GRID=taste,window=1/3 SHOP=users=12000 PLUGINS=my.py
	@OMP_WAIT_POLICY=PASSIVE $(PYTHON) -m benchmarks.model.quality --dataset $(DATASET) --seeds $(SEEDS) --budget $(BUDGET) --rows $(ROWS) \
		$(if $(GRID),--grid $(GRID)) $(if $(SHOP),--shop $(SHOP)) $(if $(PLUGINS),--plugins $(PLUGINS))

bench-train: setup  ## a step of training: HeterRec against item ID only, packed against padded, growth
	@OMP_WAIT_POLICY=PASSIVE $(PYTHON) -m benchmarks.model.speed

bench-tables: setup  ## what the neighbour tables cost to fit, up to 10^6 items and 10^7 events
	@$(PYTHON) -m benchmarks.model.tables

bench-gpu: setup  ## on a GPU: seconds to Beauty's line, tokens a second, share of the ceiling (on a CPU: that it runs)
	@$(PYTHON) -m benchmarks.model.data amazon_beauty build/beauty >/dev/null
	@HETERREC_COMMIT=$$(git describe --always --dirty --abbrev=12 '--exclude=*') $(PYTHON) -m benchmarks.model.gpu --sequences build/beauty

bench-gate: setup  ## the data gate on clean trading days, night by night: it must block none; NIGHTS=60
	@$(PYTHON) -m benchmarks.gate.days --nights $(NIGHTS)

bench-gate-speed: setup  ## seconds and memory of ingest and the data gate; EVENTS=5 millions of made-up ones besides
	@$(PYTHON) -m benchmarks.gate.speed --events $(EVENTS)

bench-gateway: setup  ## what the gateway adds to calling TorchServe directly, at half load; SECONDS=40
	@OMP_WAIT_POLICY=PASSIVE $(PYTHON) -m benchmarks.serving.gateway --seconds $(SECONDS)

bench-overload: setup  ## 2, 5 and 20 times what gateway and either server can answer, load and servers on a core each; SECONDS=40
	@OMP_NUM_THREADS=1 $(PYTHON) -m benchmarks.serving.overload --seconds $(SECONDS)

chaos: export HETERREC_HOME := $(CURDIR)/var/chaos
chaos: setup  ## 200 overlapping faults drawn by seed, two gateways, under load (needs redis-server); FAULTS=200
	@$(PYTHON) -m benchmarks.serving.chaos --faults $(FAULTS)

audit: setup  ## published advisories for every package of the lock and torch; fails where one is skipped or has one
	@# Names and versions alone: where one line has hashes the tool asks for those of every line, and torch has none here.
	@mkdir -p build && grep -ohE '^( *"torch==[0-9.]+|[a-zA-Z0-9][^ ;]*==[^ ;]+)' pyproject.toml requirements.lock | tr -d '" ' > build/audited.txt
	@.venv/bin/uv tool run pip-audit --strict --no-deps --disable-pip --progress-spinner off --requirement build/audited.txt

sbom: setup  ## the bill of materials (CycloneDX) of .venv and this machine's Debian packages as build/sbom.json
	@mkdir -p build && $(PYTHON) scripts/bill.py heterrec-pipeline "$$(git describe --always --dirty)" > build/sbom.json

bench-rollout: setup  ## is the canary's judge right? simulated A/A and A/B canaries beside the naive tests; CANARIES=2000
	@$(PYTHON) -m benchmarks.decisions.rollout --canaries $(CANARIES)
	@$(PYTHON) -m benchmarks.decisions.worlds --canaries $(CANARIES)

bench-decisions: setup  ## do blessing, release and canary keep their promises? simulated years beside two naive peers; YEARS=24
	@$(PYTHON) -m benchmarks.decisions.years --years $(YEARS)

bench-serving: setup  ## the scorer against the eager model, TorchServe against an echo handler: requests a second, p99
	@OMP_NUM_THREADS=1 $(PYTHON) -m benchmarks.serving.scorer

bench-retrieval: setup  ## the best of 10,000 to 1,000,000 items: exactly, in half precision, through the index
	@OMP_NUM_THREADS=1 $(PYTHON) -m benchmarks.model.retrieval

bench-after: setup  ## what rules, stock and diversity add to an answer, and a million draws against their law
	@OMP_NUM_THREADS=1 $(PYTHON) -m benchmarks.serving.after

bench-off-policy: setup  ## a policy's worth told from another one's log, against a known truth; 200 logs
	@OMP_NUM_THREADS=1 $(PYTHON) -m benchmarks.decisions.off_policy

bench-log-days: setup  ## a day of the event log as the consumer writes it, 2,880 files a table, against the merged one
	@$(PYTHON) -m benchmarks.features.log_days

fuzz-ingest: export FUZZ_SECONDS ?= 600
fuzz-ingest: setup  ## ten minutes of tables of any dialect, types and order through ingest; FUZZ_SECONDS=600
	@$(PYTHON) -m pytest tests/component/test_fuzz_ingest.py -q

mutants: setup  ## breakages of what decides that were once not noticed: do the tests still notice each?
	@$(PYTHON) -m scripts.mutants

mutate: setup  ## new breakages of a module by its syntax, and which of them its tests let live; MODULE=experiments/sample_ratio.py
	@$(PYTHON) -m scripts.mutants --find $(MODULE) $(if $(TESTS),--tests "$(TESTS)")

clean:  ## remove the workspace (runs, artifacts, stores, models); keeps .venv
	rm -rf var build
