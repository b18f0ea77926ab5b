"""What `tools/check_gpu.py` compares and times on a machine with a GPU."""
