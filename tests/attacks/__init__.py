"""Attacks: what a hostile file, an unlucky moment or an odd network does to the package."""
