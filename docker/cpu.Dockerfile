# A worker on CPUs: vLLM's CPU build and the tuner, each in an environment of its own. Not the slim image: vLLM compiles
# kernels when it starts and needs a C++ compiler for that.
#   docker build -f docker/cpu.Dockerfile -t vllm-autotune-cpu .
FROM python:3.12

COPY pyproject.toml README.md LICENSE /opt/autotune/
COPY docker/constraints.txt docker/install-tuner.sh docker/install-engine.sh /opt/autotune/docker/
COPY docker/settings/cpu.yaml /opt/autotune/settings.yaml
COPY autotune/engines/requirements /opt/autotune/autotune/engines/requirements
RUN ENGINE_PLATFORM=cpu sh /opt/autotune/docker/install-engine.sh /opt/autotune/engine
COPY autotune /opt/autotune/autotune
COPY search_spaces /opt/autotune/search_spaces
COPY workloads /opt/autotune/workloads
RUN sh /opt/autotune/docker/install-tuner.sh /opt/autotune/venv gp,postgres \
    && useradd --uid 10001 --create-home --home-dir /var/lib/autotune autotune
USER 10001
ENV AUTOTUNE_HOME=/var/lib/autotune AUTOTUNE_SETTINGS=/opt/autotune/settings.yaml
VOLUME /var/lib/autotune
ENTRYPOINT ["/opt/autotune/venv/bin/autotune"]
CMD ["worker"]
