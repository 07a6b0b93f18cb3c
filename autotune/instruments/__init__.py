"""Other load clients by choice: `vllm bench serve` and GuideLLM, run as processes; their results are read as ours."""
