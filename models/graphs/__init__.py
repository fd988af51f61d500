"""torch.fx graphs of networks: recorded, run on examples, and held to what the network does."""
