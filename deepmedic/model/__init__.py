"""The network: blocks, pathways, their composition, and canonical names of parameters."""
