# The image of every pod of deploy/kubernetes/ray.yaml: one version of lookalike and of Ray.
#
#   docker build -f deploy/ray.Dockerfile --target cpu -t registry.example.org/lookalike-ray:0.1.0 .
#   docker build -f deploy/ray.Dockerfile --target gpu -t registry.example.org/lookalike-ray-gpu:0.1.0 .
#
# Based on python:slim, not on rayproject/ray: package versions are then those of constraints.txt,
# which the tests use (Ray's image has hundreds of others, some too old for lookalike), and the user
# is the service's, 10001. Added for KubeRay: ray[default], for the dashboard and jobs, and wget, for
# the probes of older versions.
#
# Not yet built with Docker. Tested in an environment with the packages of target cpu: `ray start`,
# KubeRay's health checks and `ray job submit`, as user 10001 on a read-only file system with a
# writable /tmp and no capabilities. Of target gpu, only that its packages install together.
FROM python:3.11-slim AS cpu
RUN apt-get update \
 && apt-get install -y --no-install-recommends wget \
 && rm -rf /var/lib/apt/lists/*
# `scale,timm` to index with an encoder that torch must export first; efficientnet-lite0, and an
# encoder that is already in Milvus or in a folder, need no torch.
ARG EXTRAS=scale
COPY pyproject.toml constraints.txt README.md LICENSE /source/
COPY src /source/src
# Into /usr/local, not a virtual environment: KubeRay starts Ray in a login shell, with Debian's PATH.
RUN pip install --no-cache-dir -c /source/constraints.txt "/source[$EXTRAS]" 'ray[default]==2.60.0'
RUN useradd --system --uid 10001 --home-dir /tmp --shell /bin/bash lookalike
USER 10001
ENV HOME=/tmp PYTHONDONTWRITEBYTECODE=1 MPLCONFIGDIR=/tmp/matplotlib LOOKALIKE_DATA=/data RAY_USAGE_STATS_ENABLED=0

# The same with ONNX Runtime for CUDA.
FROM cpu AS gpu
USER 0
RUN pip uninstall --yes onnxruntime \
 && pip install --no-cache-dir -c /source/constraints.txt 'onnxruntime-gpu[cuda,cudnn]==1.31.1'
USER 10001
