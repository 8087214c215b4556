"""The use cases: all that `http` may call. Knows the store and the engine's port, never the transport."""
