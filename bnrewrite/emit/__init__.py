"""Back ends: what turns a joint graph into something that runs."""
