# A worker on NVIDIA GPUs: vLLM's official image, and the tuner in an environment of its own.
#   docker build -f docker/cuda.Dockerfile -t vllm-autotune-cuda .
ARG TAG=v0.32.0
FROM vllm/vllm-openai:${TAG}

COPY pyproject.toml README.md LICENSE /opt/autotune/
COPY docker/constraints.txt docker/install-tuner.sh /opt/autotune/docker/
COPY docker/settings/cuda.yaml /opt/autotune/settings.yaml
COPY autotune /opt/autotune/autotune
COPY search_spaces /opt/autotune/search_spaces
COPY workloads /opt/autotune/workloads
# The volume belongs to the service too, whose user is 10001.
RUN sh /opt/autotune/docker/install-tuner.sh /opt/autotune/venv gp,postgres \
    && install --directory --owner=10001 --group=10001 /var/lib/autotune

ENV AUTOTUNE_HOME=/var/lib/autotune AUTOTUNE_SETTINGS=/opt/autotune/settings.yaml
VOLUME /var/lib/autotune
ENTRYPOINT ["/opt/autotune/venv/bin/autotune"]
CMD ["worker"]
