"""Every SQL statement of the store, named, with one line that states its transition. One module a table group."""
