"""The page for people, at /ui: a tab for each verb, over the functions that answer the API."""
