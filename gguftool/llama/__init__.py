"""Floor 5, the only home of llama_cpp: logits, perplexity, divergence."""
