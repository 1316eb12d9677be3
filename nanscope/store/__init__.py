"""The run file: the only place that knows h5py."""
