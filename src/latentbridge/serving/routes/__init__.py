"""The routes, a file for each skill; each takes a request apart, asks the engine, and puts the answer together."""
