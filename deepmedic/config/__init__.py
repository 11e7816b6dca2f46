"""Configuration: `.cfg` files in both dialects, bound to typed dataclasses."""
