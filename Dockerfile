# The service, without torch: galleries hold their encoders as ONNX models.
# For galleries in Milvus: docker build --build-arg EXTRAS=serve,milvus .
FROM python:3.13-slim AS built
ARG EXTRAS=serve
COPY pyproject.toml constraints.txt README.md LICENSE /source/
COPY src /source/src
RUN python -m venv /opt/lookalike \
 && /opt/lookalike/bin/pip install --no-cache-dir -c /source/constraints.txt "/source[$EXTRAS]"

FROM python:3.13-slim
COPY --from=built /opt/lookalike /opt/lookalike
RUN useradd --system --uid 10001 --home-dir /tmp lookalike
USER 10001
ENV PYTHONDONTWRITEBYTECODE=1 MPLCONFIGDIR=/tmp/matplotlib LOOKALIKE_DATA=/data LOOKALIKE_SERVE_LOG_LEVEL=info
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s CMD ["/opt/lookalike/bin/python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/healthz', timeout=4)"]
ENTRYPOINT ["/opt/lookalike/bin/lookalike", "serve", "--host", "0.0.0.0", "--keys", "/run/secrets/keys"]
CMD ["/galleries/photos.gallery"]
