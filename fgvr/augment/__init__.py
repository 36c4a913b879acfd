"""Generated pictures of rare names: edges, prompts, generators and the filters that judge them."""
