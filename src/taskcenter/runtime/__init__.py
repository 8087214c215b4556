"""The composition root: builds the parts, nests their nurseries in shutdown order, owns start and stop."""
