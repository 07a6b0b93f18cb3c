"""vllm-autotune: Bayesian auto-tuning of LLM serving engines under a latency SLA."""

__version__ = "0.1.0"
