"""The way out of the house: one HTTP request to a receiver, safely and within bounds.

`targets` reads a callback URL, `addresses` and `policy` say what may be called, `pins` whom a credential is for.
`resolver` looks a name up and `transport` connects to a checked address: an httpx transport on trio, with `wire`,
`tls`, `http1` (h11) and `connection_pool` below it. `exchange` is what comes back: an answer, or one of the `faults`.
"""
