"""What tools/benchmark.py measures, a module for each subject, and how rates become rows."""
