"""The routes, one file per skill: each checks a request, runs jobs in the engine, and builds the response."""
