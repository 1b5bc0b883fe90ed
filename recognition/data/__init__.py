"""Records, loaders, degradation and pairs: from files to batches."""
