"""What a trained model answers: embeddings, are two faces one person, whose face is it."""
