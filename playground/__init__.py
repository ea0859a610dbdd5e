"""The playground: a web page that attacks a visitor's photograph and shows every step as the true 8-bit image."""
