"""Training programs with a planted fault and the truth about it, and healthy ones that look dangerous."""
