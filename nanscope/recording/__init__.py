"""The recording side: everything that touches live tensors."""
