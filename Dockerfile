# The server in an image: CPU only, no secrets, a user without rights, nothing written but /indexes and /tmp.
# docs/deploying.md tells how to build it and start it.
FROM python:3.12-slim AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/latentbridge
ENV PATH=/opt/latentbridge/bin:$PATH
WORKDIR /build
COPY constraints.txt ./
# Where wheels of torch without CUDA are; without it, x86 gets the general ones, which are gigabytes larger.
ARG TORCH_INDEX=
RUN pip install --constraint constraints.txt ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} torch
COPY pyproject.toml README.md ./
COPY src ./src
RUN pip install --constraint constraints.txt ".[serve,index,postgres]"

FROM python:3.12-slim
COPY --from=build /opt/latentbridge /opt/latentbridge
RUN install --directory --owner=10001 --group=10001 /indexes
ENV PATH=/opt/latentbridge/bin:$PATH HOME=/tmp PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
WORKDIR /indexes
USER 10001:10001
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=10s --start-period=120s --retries=3 \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/readyz', timeout=5)"]
ENTRYPOINT ["latentbridge"]
CMD ["serve", "--host", "0.0.0.0", "--port", "8000", "--indexes", "/indexes"]
