"""Evidence from the operands: what the watched operation proves about the cause."""
