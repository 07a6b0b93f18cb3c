"""A simulated vLLM: the real interface and the real scheduling over a model of the device, without the device."""
