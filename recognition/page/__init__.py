"""One self-contained HTML page about one run or several, and the same pictures for TensorBoard."""
