# streamd on a CPU. Build:  docker build -t streamd .
# Run:    docker run --rm -p 8080:8080 -e STREAMD_TOKEN \
#           -v "$PWD/streamd.yaml:/etc/streamd/streamd.yaml:ro" streamd
# with http: {host: 0.0.0.0, token: "${STREAMD_TOKEN}"}
ARG BASE=python:3.12-slim-bookworm
FROM ${BASE}

RUN useradd --system --create-home --home-dir /app streamd
WORKDIR /app
COPY pyproject.toml README.md LICENSE ./
COPY streamd ./streamd
# Built engines are kept there too; a volume keeps them over updates.
COPY --chown=streamd engines ./engines
RUN python3 -m venv /venv && /venv/bin/pip install --no-cache-dir .

USER streamd
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1
EXPOSE 8080
# SIGTERM publishes the frames in flight and ends with 0 within ten seconds.
STOPSIGNAL SIGTERM
ENTRYPOINT ["streamd"]
CMD ["run", "/etc/streamd/streamd.yaml"]
