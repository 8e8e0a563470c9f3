# What every pod of deploy/kubernetes/ray.yaml runs: lookalike and Ray, one version of each.
#
#   docker build -f deploy/ray.Dockerfile --target cpu -t registry.example.org/lookalike-ray:0.1.0 .
#   docker build -f deploy/ray.Dockerfile --target gpu -t registry.example.org/lookalike-ray-gpu:0.1.0 .
#
# From python:slim rather than rayproject/ray:2.60.0-py311-cpu: the versions are then those of
# constraints.txt, which the tests ran with, where the other has hundreds of its own in a conda
# environment, some older than lookalike takes; and user 10001 is that of the service. What Ray's
# image has and KubeRay asks for is added: ray[default], for the dashboard and jobs, and wget, which
# the probes of older KubeRay call.
#
# Not built where it was written, for want of Docker. What is in it was tried there, in a fresh
# environment of the target cpu's packages: `ray start`, the health checks that KubeRay makes, and
# `ray job submit`, as user 10001 over a read-only file system with /tmp alone to write to, without
# any capability. Of the target gpu only that its packages go together.
FROM python:3.11-slim AS cpu
RUN apt-get update \
 && apt-get install -y --no-install-recommends wget \
 && rm -rf /var/lib/apt/lists/*
# `scale,pretrained` to index with an encoder that torch has to export first; one that lies in Milvus
# already, or in a folder, needs no torch.
ARG EXTRAS=scale
COPY pyproject.toml constraints.txt README.md LICENSE /source/
COPY src /source/src
# Into /usr/local, not an environment of its own: KubeRay starts Ray by a login shell, whose PATH is
# Debian's.
RUN pip install --no-cache-dir -c /source/constraints.txt "/source[$EXTRAS]" 'ray[default]==2.60.0'
RUN useradd --system --uid 10001 --home-dir /tmp --shell /bin/bash lookalike
USER 10001
ENV HOME=/tmp PYTHONDONTWRITEBYTECODE=1 MPLCONFIGDIR=/tmp/matplotlib LOOKALIKE_DATA=/data RAY_USAGE_STATS_ENABLED=0

# The same with ONNX Runtime for CUDA, which takes the place of the other.
FROM cpu AS gpu
USER 0
RUN pip uninstall --yes onnxruntime \
 && pip install --no-cache-dir -c /source/constraints.txt 'onnxruntime-gpu[cuda,cudnn]==1.31.1'
USER 10001
