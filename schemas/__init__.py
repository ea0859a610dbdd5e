"""The nouns that flow through the pipeline, and the settings. Imports nothing of the project."""
