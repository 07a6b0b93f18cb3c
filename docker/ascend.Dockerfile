# A worker on Ascend NPUs: the official image brings CANN, torch_npu, vLLM and vllm-ascend, one row of the compatibility
# matrix, and stays as it is; the tuner lives in an environment of its own.
#   docker build -f docker/ascend.Dockerfile -t vllm-autotune-ascend .
# Atlas A2 without a suffix; others: --build-arg TAG=v0.23.0.post1-a3, -310p or -950dt, each also with -openeuler.
ARG TAG=v0.23.0.post1
FROM quay.io/ascend/vllm-ascend:${TAG}
# gp: the sampler with a Gaussian process, which needs a CPU build of PyTorch. Leave it out where none is at hand:
# --build-arg EXTRAS=postgres falls back to TPE.
ARG EXTRAS=gp,postgres

COPY pyproject.toml README.md LICENSE /opt/autotune/
COPY docker/constraints.txt docker/install-tuner.sh docker/ascend-entrypoint.sh /opt/autotune/docker/
COPY docker/settings/ascend.yaml /opt/autotune/settings.yaml
COPY autotune /opt/autotune/autotune
COPY search_spaces /opt/autotune/search_spaces
COPY workloads /opt/autotune/workloads
# The volume belongs to the service too, whose user is 10001.
RUN sh /opt/autotune/docker/install-tuner.sh /opt/autotune/venv "${EXTRAS}" \
    && install --directory --owner=10001 --group=10001 /var/lib/autotune

# Root, as in the official image: the device nodes belong to root or to the host's HwHiAiUser.
ENV AUTOTUNE_HOME=/var/lib/autotune AUTOTUNE_SETTINGS=/opt/autotune/settings.yaml
VOLUME /var/lib/autotune
ENTRYPOINT ["/bin/bash", "/opt/autotune/docker/ascend-entrypoint.sh"]
CMD ["worker"]
