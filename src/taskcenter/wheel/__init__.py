"""When: the timing wheel, the driver that sleeps on it, and the loader that keeps it filled from the store."""
