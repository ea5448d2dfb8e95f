"""The web page at /ui: one tab per skill, over the functions of the API's routes."""
