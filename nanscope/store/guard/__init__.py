"""Files that nobody vouches for: libhdf5 looks at them in a child process with limits."""
