"""How a model knows the order of its tokens: rotary positions and their scaling, biases, embeddings."""
