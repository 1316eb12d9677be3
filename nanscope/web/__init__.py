"""The replay in a browser, on this machine only."""
