"""The seeded simulation: whole instances over one virtual store, network and clock, in one `trio.run`.

A seed decides everything: how many instances, businesses and tasks there are, what clients ask for and when, what the
receivers answer, what fails (`shape`, `traffic`, `receivers`, `faults`), and in which order trio runs its tasks
(`seeded`). So a seed that fails fails again, step by step: `make simulate SEEDS=17..17` prints its trace.

Real are the engine with leases, committers, actors, wheel and loader, the use cases of the API, and the SQL on SQLite.
Virtual are time, the network to receivers (`receivers`) and between instances (`datagrams`), and the way to the store
(`wire`), which loses statements and answers, holds them up, slows down and is cut. An instance (`instances`) can be
crashed, drained and stopped as by SIGSTOP (`freezing`).

The store's own triggers keep a journal of every change that was committed (`journal`), the network one of every
callback that was sent, the clients one of every call and its answer. After each run `invariants` holds the three
against each other and against the model of a task's life (`tests/flow/life_model`).
"""
