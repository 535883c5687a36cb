"""Complete scripts to read, run and copy from."""
