"""The API under `/v1`: thin routers over the store and the tuner's records."""
