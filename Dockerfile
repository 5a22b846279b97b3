# streamd in a container; deploy/compose.yaml runs it with all that goes with it.
#
#   docker build --target cpu -t streamd .                       # a CPU, OpenVINO
#   docker build --target gpu -t streamd:gpu .                   # an NVIDIA GPU, TensorRT
#   docker build --target export -t streamd:export .             # turns .pt into .onnx, nothing else
#   docker build --target cpu --build-arg MODEL=yolo11n.onnx .   # starts warm: the engine is inside
#
#   docker run --rm --read-only --tmpfs /tmp -p 127.0.0.1:8080:8080 \
#     -v "$PWD/streamd.yaml:/etc/streamd/streamd.yaml:ro" \
#     -v streamd-engines:/var/lib/streamd/engines -v streamd-spool:/var/lib/streamd/spool \
#     -v streamd-logs:/var/log/streamd streamd
#
# Bases are arguments, for mirrors: --build-arg BASE=registry.example/python:3.12-slim-bookworm
ARG BASE=python:3.12-slim-bookworm
ARG GPU_BASE=nvcr.io/nvidia/tensorrt:26.02-py3

# --- what the cpu image runs from: the locked packages and streamd itself
FROM ${BASE} AS packages
WORKDIR /src
RUN python3 -m venv /opt/streamd/venv
COPY deploy/requirements-cpu.txt ./
RUN /opt/streamd/venv/bin/pip install --no-cache-dir --require-hashes -r requirements-cpu.txt
COPY pyproject.toml README.md LICENSE ./
COPY engines/shapes.onnx ./engines/
COPY streamd ./streamd
RUN /opt/streamd/venv/bin/pip install --no-cache-dir --no-deps . \
    # what nobody runs: pip itself, and OpenVINO's parts for other devices and file formats
    && /opt/streamd/venv/bin/pip uninstall --yes pip \
    && rm -f /opt/streamd/venv/lib/python3*/site-packages/openvino/libs/libopenvino_intel_npu* \
       /opt/streamd/venv/lib/python3*/site-packages/openvino/libs/libopenvino_paddle* \
       /opt/streamd/venv/lib/python3*/site-packages/openvino/libs/libopenvino_tensorflow* \
    && find /opt/streamd/venv -name '__pycache__' -prune -exec rm -rf {} +

# --- turns a checkpoint into ONNX, away from the network:
#   docker run --rm --network none -v "$PWD:/models" --user "$(id -u)" streamd:export model=yolo11n.pt
FROM ${BASE} AS export
COPY deploy/requirements-export.txt /opt/export/
RUN python3 -m venv /opt/export \
    && /opt/export/bin/pip install --no-cache-dir --no-deps --require-hashes -r /opt/export/requirements-export.txt
# Settings, fonts and caches go where anybody may write.
ENV PATH=/opt/export/bin:$PATH YOLO_AUTOINSTALL=false YOLO_CONFIG_DIR=/tmp MPLCONFIGDIR=/tmp \
    HOME=/tmp USER=streamd
USER 10001
WORKDIR /models
ENTRYPOINT ["yolo", "export", "format=onnx", "dynamic=True"]

# --- an NVIDIA GPU; the base brings TensorRT and CUDA, and the host its driver
FROM ${GPU_BASE} AS gpu
LABEL org.opencontainers.image.title="streamd" \
      org.opencontainers.image.description="Many cameras, one model, events in Redis (NVIDIA GPU)" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN useradd --system --uid 10001 --home-dir /var/lib/streamd --create-home streamd \
    && install -d -o streamd -g streamd /var/lib/streamd/engines /var/lib/streamd/spool \
       /var/log/streamd /etc/streamd
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY engines/shapes.onnx ./engines/
COPY streamd ./streamd
# The base's own TensorRT is used, so only what goes with it is added.
COPY deploy/requirements-gpu.txt ./
RUN python3 -m venv --system-site-packages /opt/streamd/venv \
    && /opt/streamd/venv/bin/pip install --no-cache-dir --require-hashes -r requirements-gpu.txt \
    && /opt/streamd/venv/bin/pip install --no-cache-dir --no-deps .
COPY --chown=streamd engines/shapes.onnx /var/lib/streamd/engines/
ENV PATH=/opt/streamd/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    STREAMD_VOLUMES=/var/lib/streamd/engines:/var/lib/streamd/spool STREAMD_GPU=required \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility,video
USER 10001
WORKDIR /var/lib/streamd
VOLUME ["/var/lib/streamd/engines", "/var/lib/streamd/spool", "/var/log/streamd"]
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=5s --start-period=900s --retries=3 \
    CMD ["python3", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8080/healthz', timeout=4)"]
ENTRYPOINT ["streamd"]
CMD ["run", "/etc/streamd/streamd.yaml"]

# --- a CPU, and what is built where no target is named
FROM ${BASE} AS cpu
LABEL org.opencontainers.image.title="streamd" \
      org.opencontainers.image.description="Many cameras, one model, events in Redis" \
      org.opencontainers.image.licenses="Apache-2.0"
ARG MODEL=""
RUN useradd --system --uid 10001 --home-dir /var/lib/streamd --create-home streamd \
    && install -d -o streamd -g streamd /var/lib/streamd/engines /var/lib/streamd/spool \
       /var/log/streamd /etc/streamd
COPY --from=packages /opt/streamd/venv /opt/streamd/venv
COPY --chown=streamd engines/shapes.onnx /var/lib/streamd/engines/
ENV PATH=/opt/streamd/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    STREAMD_VOLUMES=/var/lib/streamd/engines:/var/lib/streamd/spool
USER 10001
WORKDIR /var/lib/streamd
# Into the image, not into a volume: what is built here is found when the volume is still empty.
RUN --mount=type=bind,target=/context \
    if [ -n "${MODEL}" ]; then \
      cp "/context/${MODEL}" engines/ && streamd build "engines/$(basename "${MODEL}")"; \
    fi
VOLUME ["/var/lib/streamd/engines", "/var/lib/streamd/spool", "/var/log/streamd"]
EXPOSE 8080
# Events in flight are published, then it ends with 0, within ten seconds.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=5s --start-period=300s --retries=3 \
    CMD ["python3", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8080/healthz', timeout=4)"]
ENTRYPOINT ["streamd"]
CMD ["run", "/etc/streamd/streamd.yaml"]
