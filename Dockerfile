# LRFace for a CPU or for CUDA. Checked by hadolint and tests/test_docker.py; no image has been built from it yet.
#
#   docker build --tag lrface .                                     CPU or CUDA: torch as PyPI has it, some GB of libraries
#   docker build --tag lrface --build-arg LOCK=gpu .                the same and NVIDIA DALI
#   docker build --tag lrface --build-arg LOCK=cpu --build-arg TORCH_INDEX=URL .        smaller, for a CPU only
#
#   docker run --rm --user "$(id -u):$(id -g)" --volume "$PWD:/work" lrface train demo --dry-run
#   docker run --rm --gpus all --shm-size 8g --volume "$PWD:/work" --entrypoint torchrun lrface \
#       --no-python --nproc-per-node 8 lrface train petal_tinyface
FROM python:3.11.11-slim-bookworm AS system
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libgl1 libglib2.0-0 \
    && rm -rf /var/lib/apt/lists/*

FROM system AS build
ARG LOCK=runtime
ARG TORCH=2.13.0
# of an index with CPU builds of torch, as pytorch.org's installation page names it; its wheels are in no lock of ours
ARG TORCH_INDEX=""
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PATH="/opt/lrface/bin:$PATH"
WORKDIR /source
COPY locks/*.txt locks/
RUN python -m venv /opt/lrface \
    && pip install --require-hashes --no-deps -r "locks/$LOCK.txt" \
    && if [ "$LOCK" = cpu ]; then pip install --no-deps --index-url "${TORCH_INDEX:?LOCK=cpu needs TORCH_INDEX}" "torch==$TORCH"; fi
COPY pyproject.toml setup.py MANIFEST.in README.md LICENSE lrface.py ./
COPY recognition recognition
COPY adapters adapters
COPY iqa iqa
COPY tools tools
COPY configs configs
COPY weights weights
RUN pip install --no-deps --no-build-isolation .

FROM system
COPY --from=build /opt/lrface /opt/lrface
RUN useradd --create-home --uid 1000 lrface && install --directory --owner lrface /work
# a user given by number has no home
ENV PATH="/opt/lrface/bin:$PATH" MPLCONFIGDIR=/tmp/matplotlib
USER 1000
WORKDIR /work
ENTRYPOINT ["lrface"]
CMD ["--help"]
