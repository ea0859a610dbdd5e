"""Miners' histories and the weights that follow from them."""
