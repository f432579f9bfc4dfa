"""Text embeddings: reading them from hosts, comparing, combining and amplifying them. Plain torch, no ComfyUI."""
